"""Lights, drawn for a step and shared by all scenes (DreamFusion, Eq. 7 and its schedule).

    ambient      colour = albedo
    lambertian   colour = albedo (diffuse max(0, n l) + ambient)     l from the point to the lamp
    textureless  the same with a white albedo, which shows only the shape

Without shaded views a flat picture on a ball would be a solution; without ambient ones colours could hide in shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsd.randomness import Stream

from .cameras import Cameras
from .settings import LightSettings

KINDS = ("ambient", "lambertian", "textureless")


@dataclass(frozen=True)
class Light:
    """``kind`` and, unless ambient, a lamp's ``position`` for each view, [V, 3]."""

    kind: str
    position: torch.Tensor
    ambient: float
    diffuse: float

    @property
    def shaded(self) -> bool:
        """Whether shading needs normals."""
        return self.kind != "ambient"

    def __getitem__(self, views: slice) -> Light:
        return Light(self.kind, self.position[views], self.ambient, self.diffuse)

    def shade(self, albedo: torch.Tensor, normals: torch.Tensor, x: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Return the colours [M, 3] at points x with ``albedo`` and ``normals`` [M, 3] in the views ``views`` [M]."""
        assert self.shaded and self.kind in KINDS
        towards = F.normalize(self.position.to(x)[views] - x, dim=-1)
        strength = self.ambient + self.diffuse * (normals * towards).sum(-1, keepdim=True).clamp(min=0)
        return strength.expand_as(albedo) if self.kind == "textureless" else strength * albedo


def ambient_light(views: int) -> Light:
    """Return ambient light for that many views."""
    return Light("ambient", torch.zeros(views, 3, dtype=torch.float64), 1.0, 0.0)


def draw_light(settings: LightSettings, cameras: Cameras, stream: Stream, *, steps: int, step: int = 0) -> Light:
    """Draw the light of step ``step`` of ``steps``: one kind for all views, and a lamp for each, as far away as its
    camera."""
    key = stream.generator("light", step=step)
    shaded, textureless = torch.rand(2, generator=key, dtype=torch.float64).tolist()
    if step < settings.ambient_until * steps or shaded >= settings.shaded:
        return ambient_light(len(cameras))
    lamps = [stream.generator("lamp", step=step, particle=v) for v in range(len(cameras))]
    offsets = torch.stack([torch.randn(3, generator=lamp, dtype=torch.float64) for lamp in lamps])
    direction = F.normalize(
        cameras.back + settings.light_up * cameras.axes[:, 1] + settings.light_spread * offsets, dim=-1
    )
    kind = "textureless" if textureless < settings.textureless else "lambertian"
    return Light(kind, cameras.distance[:, None] * direction, settings.ambient, settings.diffuse)
