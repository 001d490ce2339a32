"""Instant-ngp's occupancy grid: rays are sampled only where the scene has density.

A cell is occupied if one step in it would absorb more than a thousandth of a ray's light, or more than the mean cell
does if that is less. Its neighbours are occupied too, so that a surface can grow: there is no gradient without samples.
(With a hundredth, and without neighbours, a head fitted to its pictures loses 5 dB: its hair never leaves the initial
blob.)

Rays are marched by nerfacc (Li et al. 2023) on CUDA if it works, else by torch, with the same samples.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .field import Field
from .samples import PackedSamples

logger = logging.getLogger(__name__)
DECAY, ENOUGH = 0.95, 0.001
EVERY = 16
"""Steps between updates."""
PARALLEL = 1e-5
"""Smallest component of a ray's direction that is passed to nerfacc."""


class Occupancy(nn.Module):
    """A cube of half side ``bound`` with ``cells`` cells a side. ``density`` [cells (x), cells (y), cells (z)]: the
    decaying maximum in each; part of checkpoints."""

    density: torch.Tensor

    def __init__(self, bound: float, *, step: float, cells: int = 64):
        super().__init__()
        self.bound, self.step, self.cells = bound, step, cells
        self.register_buffer("density", torch.zeros(cells, cells, cells))

    @property
    def occupied(self) -> torch.Tensor:
        """Occupied cells, bool [cells, cells, cells]."""
        stopped = -torch.expm1(-self.density * self.step)
        seen = (stopped > stopped.mean().clamp(max=ENOUGH)).to(stopped)
        return F.max_pool3d(seen[None], 3, stride=1, padding=1)[0] > 0

    @torch.no_grad()
    def update(self, field: Field, random: torch.Generator) -> None:
        """Evaluate the density at a random point in each cell."""
        line = torch.arange(self.cells, dtype=torch.float32)
        corner = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flatten(0, 2)
        at = (corner + torch.rand(corner.shape, generator=random)) * (2 * self.bound / self.cells) - self.bound
        found = torch.cat([field(part.to(self.density))[0] for part in at.split(2**18)])
        self.density = torch.maximum(DECAY * self.density, found.view_as(self.density))

    def samples(
        self, origins: torch.Tensor, directions: torch.Tensor, near: torch.Tensor, far: torch.Tensor, step: float
    ) -> PackedSamples:
        """Return the occupied intervals of length ``step`` on rays [V, R, 3] from near to far [V, R]; if there are
        none, one of length zero, so that gradients are zero, not missing."""
        flat = origins.flatten(0, 1), directions.flatten(0, 1), near.flatten(), far.flatten()
        march = _nerfacc_march if backend(origins.device, origins.dtype) == "nerfacc" else torch_march
        with torch.no_grad():
            rays, start, end = march(self.occupied, self.bound, *flat, step)
        if not len(rays):
            rays, start = rays.new_zeros(1), flat[2][:1]
            end = start
        return PackedSamples(rays, start, end, (near.shape[0], near.shape[1]))


def torch_march(
    occupied: torch.Tensor, bound: float, origins: torch.Tensor, directions: torch.Tensor, near: torch.Tensor,
    far: torch.Tensor, step: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the rays, int64 [M], and both ends [M] of the intervals near + k step .. near + (k + 1) step whose middles
    lie before ``far`` and in an occupied cell; rays [R, 3]."""
    count = max(math.ceil(float((far - near).max()) / step), 1)
    start = near[:, None] + step * torch.arange(count, device=near.device, dtype=near.dtype)
    middle = start + step / 2
    x = origins[:, None] + middle[..., None] * directions[:, None]
    cell = ((x / bound + 1) / 2 * len(occupied)).floor().long().clamp(0, len(occupied) - 1)
    rays, k = torch.nonzero(occupied[cell.unbind(-1)] & (middle < far[:, None]), as_tuple=True)
    return rays, start[rays, k], start[rays, k] + step


def _nerfacc_march(
    occupied: torch.Tensor, bound: float, origins: torch.Tensor, directions: torch.Tensor, near: torch.Tensor,
    far: torch.Tensor, step: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Do the same by nerfacc, which loses rays that run in a plane between cells because of rounding; so such rays are
    tilted slightly."""
    directions = torch.where(directions.abs() < PARALLEL, PARALLEL, directions)
    grid = nerfacc_grid(bound, len(occupied), origins.device)
    grid.binaries = occupied[None]
    return grid.sampling(
        origins.contiguous(), directions.contiguous(), t_min=near.contiguous(), t_max=far.contiguous(),
        render_step_size=step,
    )  # fmt: skip


@functools.lru_cache(1)
def nerfacc_grid(bound: float, cells: int, device: torch.device) -> Any:
    """Return nerfacc's grid of that many cells a side; scenes share it, as only the occupancy differs."""
    from nerfacc import OccGridEstimator

    return OccGridEstimator([-bound] * 3 + [bound] * 3, resolution=cells).to(device)


@functools.cache
def backend(device: torch.device, dtype: torch.dtype) -> str:
    """Return what marches rays on a device, "nerfacc" or "torch"; log once why nerfacc does not work on CUDA."""
    if device.type != "cuda" or dtype != torch.float32:
        return "torch"
    try:
        ray = torch.tensor([[0.0, 0.0, 1.0]], device=device)
        ends = torch.tensor([1.0], device=device), torch.tensor([3.0], device=device)
        _nerfacc_march(torch.ones(2, 2, 2, dtype=torch.bool, device=device), 1.0, 2 * ray, -ray, *ends, 0.5)
    except Exception as error:  # it compiles its kernels on first use, which may fail in many ways
        logger.warning(
            "packed renderer: torch marches the rays (nerfacc: %s)", (str(error) or repr(error)).splitlines()[0]
        )
        return "torch"
    return "nerfacc"
