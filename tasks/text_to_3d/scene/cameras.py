"""Pinhole cameras around the origin, drawn for a step and shared by all scenes.

The world is that of the built-in heads: y is up, azimuth 0 looks at the face from +z, 90 at the left ear from +x; the
camera looks at the origin. Angles are in degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rsd.randomness import Stream

from .settings import CameraSettings


@dataclass(frozen=True)
class Cameras:
    """V cameras: ``azimuth``, ``elevation``, ``distance`` to the origin and ``fov``, the picture's angle, each float64
    [V] on the CPU."""

    azimuth: torch.Tensor
    elevation: torch.Tensor
    distance: torch.Tensor
    fov: torch.Tensor

    def __len__(self) -> int:
        return len(self.azimuth)

    def __getitem__(self, views: slice) -> Cameras:
        return Cameras(self.azimuth[views], self.elevation[views], self.distance[views], self.fov[views])

    @property
    def back(self) -> torch.Tensor:
        """Unit vectors from the origin to the cameras, [V, 3]."""
        a, e = self.azimuth.deg2rad(), self.elevation.deg2rad()
        return torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)

    @property
    def position(self) -> torch.Tensor:
        """Positions, [V, 3]."""
        return self.distance[:, None] * self.back

    @property
    def axes(self) -> torch.Tensor:
        """Right, up and back in the world, orthonormal, [V, 3 (axis), 3]."""
        a = self.azimuth.deg2rad()
        right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], -1)
        return torch.stack([right, torch.linalg.cross(self.back, right), self.back], 1)

    def pose(self, unit: float = 1.0) -> torch.Tensor:
        """Return the camera-to-world matrices [V, 4, 4], with columns right, up, back and position in ``unit``s."""
        pose = torch.eye(4, dtype=torch.float64).repeat(len(self), 1, 1)
        pose[:, :3, :3] = self.axes.transpose(1, 2)
        pose[:, :3, 3] = self.position / unit
        return pose

    def rays(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return origins and unit directions [V, size * size, 3] of the rays through the pixel centres, rows from the
        top; float64 on the CPU."""
        half = (self.fov.deg2rad() / 2).tan()[:, None]
        u = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
        down, right = torch.meshgrid(u, u, indexing="ij")
        local = torch.stack([half * right.flatten(), -half * down.flatten(), -torch.ones_like(half * u[0])
                             .expand(-1, size * size)], -1)  # fmt: skip
        directions = torch.nn.functional.normalize(local @ self.axes, dim=-1)
        return self.position[:, None].expand_as(directions), directions


def draw_cameras(settings: CameraSettings, views: int, stream: Stream, step: int = 0) -> Cameras:
    """Draw the cameras of a step. View v's azimuth comes from the v-th of ``views`` equal parts of the range; fixed
    cameras, which are the same for all steps, begin these parts. Raises ValueError for no views."""
    if views < 1:
        raise ValueError(f"views is {views}; a scene needs at least 1 camera.")
    if settings.cameras == "fixed":
        return fixed_cameras(settings, views)
    keys = [stream.generator("camera", step=step, particle=view) for view in range(views)]
    u = torch.stack([torch.rand(4, generator=key, dtype=torch.float64) for key in keys])
    u[:, 0] = (u[:, 0] + torch.arange(views)) / views
    ranges = (settings.azimuth, settings.elevation, settings.distance, settings.fov)
    return Cameras(*(low + (high - low) * u[:, k] for k, (low, high) in enumerate(ranges)))


def fixed_cameras(settings: CameraSettings, views: int) -> Cameras:
    """Return ``views`` cameras evenly around, the first at the middle of the range of azimuths, alternately at a third
    and two thirds of the range of elevations, at mean distance and fov."""
    v = torch.arange(views, dtype=torch.float64)
    (first, last), (lowest, highest) = settings.azimuth, settings.elevation
    azimuth = first + (last - first) * ((v / views + 0.5) % 1)
    means = (torch.full_like(v, sum(r) / 2) for r in (settings.distance, settings.fov))
    return Cameras(azimuth, lowest + (highest - lowest) * (1 + v % 2) / 3, *means)


def orbit(settings: CameraSettings, views: int, *, elevation: float = 10.0) -> Cameras:
    """Return ``views`` cameras evenly around the scene, the first at the face, at mean distance and fov, and at
    ``elevation``, clamped to the settings' range. Raises ValueError for no views."""
    if views < 1:
        raise ValueError(f"views is {views}; a turntable needs at least 1.")
    full = [torch.full((views,), sum(r) / 2, dtype=torch.float64) for r in (settings.distance, settings.fov)]
    azimuth = torch.arange(views, dtype=torch.float64) * 360 / views
    lowest, highest = settings.elevation
    return Cameras(azimuth, torch.full_like(azimuth, min(max(elevation, lowest), highest)), *full)


def fov_of(half: float, distance: float) -> float:
    """Return the fov in degrees of a picture that shows ``half`` above and below the origin from ``distance``."""
    return 2 * math.degrees(math.atan(half / distance))
