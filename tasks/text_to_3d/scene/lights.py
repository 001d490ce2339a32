"""Lights, drawn for a step and shared by all scenes (DreamFusion, Eq. 7 and its schedule).

    ambient      colour = albedo
    lambertian   colour = albedo (diffuse max(0, n l) + ambient)     l from the point to the lamp
    textureless  the same with a white albedo: what is left shows the shape

Without shaded views a flat picture on a ball would do; without ambient ones colours would hide in shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsd.randomness import Stream

from .cameras import Cameras

KINDS = ("ambient", "lambertian", "textureless")


@dataclass(frozen=True)
class LightSettings:
    """``ambient_until``: the share of the run, from its start, that has ambient light only. After it, ``shaded`` is the
    probability of a shaded step, and ``textureless`` that of a textureless one among the shaded.

    ``ambient`` and ``diffuse``: strengths in shaded steps. The lamp is in the direction of the camera, moved upwards in
    its picture by ``up``, and by normal noise of standard deviation ``spread``, both as shares of its distance.
    """

    ambient_until: float = 0.2
    shaded: float = 0.75
    textureless: float = 0.5
    ambient: float = 0.1
    diffuse: float = 0.9
    up: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for what is no probability."""
        for name in ("ambient_until", "shaded", "textureless"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0 to 1.")


@dataclass(frozen=True)
class Light:
    """``kind`` and, for a shaded one, a lamp's ``position`` for each view, [V, 3]."""

    kind: str
    position: torch.Tensor
    ambient: float
    diffuse: float

    @property
    def shaded(self) -> bool:
        """Whether it needs normals."""
        return self.kind != "ambient"

    def __getitem__(self, views: slice) -> Light:
        return Light(self.kind, self.position[views], self.ambient, self.diffuse)

    def shade(self, albedo: torch.Tensor, normals: torch.Tensor, x: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The colours [M, 3] at points x with ``albedo`` and ``normals``, [M, 3], each in view ``views`` [M]."""
        assert self.shaded and self.kind in KINDS
        towards = F.normalize(self.position.to(x)[views] - x, dim=-1)
        strength = self.ambient + self.diffuse * (normals * towards).sum(-1, keepdim=True).clamp(min=0)
        return strength.expand_as(albedo) if self.kind == "textureless" else strength * albedo


def no_shade(views: int) -> Light:
    """Ambient light for that many views."""
    return Light("ambient", torch.zeros(views, 3, dtype=torch.float64), 1.0, 0.0)


def draw_light(settings: LightSettings, cameras: Cameras, stream: Stream, *, steps: int, step: int = 0) -> Light:
    """The light of step ``step`` of ``steps``, which depends on nothing else: one kind for all views, a lamp for each,
    as far away as its camera."""
    key = stream.generator("light", step=step)
    shaded, textureless = torch.rand(2, generator=key, dtype=torch.float64).tolist()
    if step < settings.ambient_until * steps or shaded >= settings.shaded:
        return no_shade(len(cameras))
    lamps = [stream.generator("lamp", step=step, particle=v) for v in range(len(cameras))]
    offsets = torch.stack([torch.randn(3, generator=lamp, dtype=torch.float64) for lamp in lamps])
    direction = F.normalize(cameras.back + settings.up * cameras.axes[:, 1] + settings.spread * offsets, dim=-1)
    kind = "textureless" if textureless < settings.textureless else "lambertian"
    return Light(kind, cameras.distance[:, None] * direction, settings.ambient, settings.diffuse)
