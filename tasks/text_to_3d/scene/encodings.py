"""Encodings of points of the unit cube for the field's network: [M, 3] to [M, outputs].

DenseGrid    trilinear grids of several resolutions; fast on a CPU
HashGrid     the multi-resolution hash grid of Mueller et al. (2022), with the parameter layout of tinycudann, which
             replaces it on CUDA if installed: checkpoints of one load into the other
Frequency    sines and cosines (NeRF, Mildenhall et al. 2020, Eq. 4)

All are twice differentiable in the point and in the parameters, as needed to train through normals.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

logger = logging.getLogger(__name__)
PRIMES = (1, 2654435761, 805459861)
SPREAD = 1e-4  # initial values are uniform in +- this, as tinycudann's


class DenseGrid(nn.Module):
    """Grids of ``resolutions`` corners a side (the outermost on the cube's faces) with ``features`` values a corner,
    interpolated trilinearly and concatenated. Level l is ``levels[l]``, [1, features, z, y, x]."""

    def __init__(self, resolutions: Sequence[int], *, features: int, generator: torch.Generator):
        super().__init__()
        self.outputs = features * len(resolutions)
        grids = [torch.empty(1, features, r, r, r).uniform_(-SPREAD, SPREAD, generator=generator) for r in resolutions]
        self.levels = nn.ParameterList([nn.Parameter(grid) for grid in grids])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode x [M, 3] in [0, 1]. Without gradient in x use torch's sampler: three times as fast, but without second
        derivatives."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            at = (2 * x - 1)[None, None, None]
            return torch.cat([F.grid_sample(g, at, align_corners=True)[0, :, 0, 0].T for g in self.levels], 1)
        return torch.cat([self._level(grid, x) for grid in self.levels], 1)

    @staticmethod
    def _level(grid: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        r = grid.shape[-1]
        position = x * (r - 1)
        corner = position.detach().floor().clamp(0, r - 2)
        corners, weights = _corners(corner.long(), position - corner)
        rows = corners[..., 0] + r * (corners[..., 1] + r * corners[..., 2])
        return _interpolate(grid.flatten(2)[0].T, rows, weights)


class HashGrid(nn.Module):
    """``levels`` grids of growing resolution, each of at most 2^log2_hashmap_size rows of ``features`` values; the
    corners of larger grids share rows by a hash.

    ``params``: flat, level after level, row after row, as tinycudann stores them. Level l has
    scale = base_resolution per_level_scale^l - 1 and resolution ceil(scale) + 1; a point is at x scale + 0.5.
    """

    def __init__(
        self, *, levels: int, features: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float,
        generator: torch.Generator,
    ):  # fmt: skip
        super().__init__()
        self.outputs, self.features = features * levels, features
        self.scales = [_scale(level, base_resolution, per_level_scale) for level in range(levels)]
        self.resolutions = [math.ceil(scale) + 1 for scale in self.scales]
        self.rows = [min((r**3 + 7) // 8 * 8, 2**log2_hashmap_size) for r in self.resolutions]
        values = torch.empty(sum(self.rows) * features).uniform_(-SPREAD, SPREAD, generator=generator)
        self.params = nn.Parameter(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode x [M, 3] in [0, 1]."""
        tables = self.params.view(-1, self.features).split(self.rows)
        out = []
        for table, scale, resolution in zip(tables, self.scales, self.resolutions, strict=True):
            position = x * scale + 0.5
            corner = position.detach().floor()
            corners, weights = _corners(corner.long(), position - corner)
            out.append(_interpolate(table, grid_rows(corners, resolution, len(table)), weights))
        return torch.cat(out, 1)


class TinyCudaGrid(nn.Module):
    """tinycudann's hash grid with the interface and the initial values of :class:`HashGrid`; CUDA only."""

    def __init__(self, tinycudann: Any, grid: HashGrid, config: dict[str, Any]):
        super().__init__()
        encoding = tinycudann.Encoding(3, config, dtype=torch.float32)
        assert encoding.params.shape == grid.params.shape, "tinycudann's layout has changed"
        self.outputs, self._encoding = (
            grid.outputs,
            [encoding],
        )  # in a list, so that its parameters are registered once, as params
        self.params = encoding.params
        with torch.no_grad():
            self.params.copy_(grid.params)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode x [M, 3] in [0, 1]."""
        return self._encoding[0](x)


class Frequency(nn.Module):
    """x mapped from [0, 1] to [-1, 1], and sin, cos of 2^k pi x, k = 0 .. octaves-1."""

    def __init__(self, octaves: int):
        super().__init__()
        self.octaves, self.outputs = octaves, 3 + 6 * octaves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode x [M, 3] in [0, 1]."""
        x = 2 * x - 1
        octaves = 2.0 ** torch.arange(self.octaves, dtype=x.dtype, device=x.device) * math.pi
        angles = (x[:, None] * octaves[:, None]).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], 1)


def hash_grid(
    *, levels: int, features: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float,
    generator: torch.Generator, device: str | torch.device = "cpu",
) -> HashGrid | TinyCudaGrid:  # fmt: skip
    """Return a hash grid on ``device``: tinycudann's on CUDA if it imports, else :class:`HashGrid`."""
    sizes = {"log2_hashmap_size": log2_hashmap_size, "base_resolution": base_resolution}
    grid = HashGrid(levels=levels, features=features, per_level_scale=per_level_scale, generator=generator, **sizes)
    if torch.device(device).type != "cuda":
        return grid
    tinycudann = _tinycudann()
    if tinycudann is None:
        return grid.to(device)
    config = {
        "otype": "HashGrid", "n_levels": levels, "n_features_per_level": features,
        "per_level_scale": per_level_scale, **sizes,
    }  # fmt: skip
    return TinyCudaGrid(tinycudann, grid, config).to(device)


@functools.cache
def _tinycudann() -> Any:
    """Return the module, or None; log the reason once."""
    try:
        import tinycudann
    except Exception as error:  # ImportError, or OSError if its library does not fit this machine
        logger.warning("hash grid: computed by torch (tinycudann: %s)", (str(error) or repr(error)).splitlines()[0])
        return None
    return tinycudann


def grid_rows(corners: torch.Tensor, resolution: int, rows: int) -> torch.Tensor:
    """Return the table rows [...] of integer corners [..., 3]: x fastest if the grid fits the table, else hashed."""
    x, y, z = corners.unbind(-1)
    if resolution**3 <= rows:
        return (x + resolution * (y + resolution * z)) % rows
    return ((x ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) & 0xFFFFFFFF) % rows  # 32 bits, as in tinycudann


def _scale(level: int, base: int, growth: float) -> float:
    """Return base growth^level - 1, rounded if nearly an integer, where 1e-13 would change the resolution."""
    scale = base * 2.0 ** (level * math.log2(growth)) - 1
    return float(round(scale)) if abs(scale - round(scale)) < 1e-6 else scale


def _corners(corner: torch.Tensor, fraction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 8 corners [M, 8, 3] of the cells at ``corner`` [M, 3] and their trilinear weights [M, 8]."""
    steps = torch.arange(8, device=corner.device)
    offsets = torch.stack([steps % 2, steps // 2 % 2, steps // 4], 1)
    sides = torch.stack([1 - fraction, fraction], 1)  # [M, 2, 3]
    along = [sides[:, offsets[:, axis], axis] for axis in range(3)]
    return corner[:, None] + offsets, along[0] * along[1] * along[2]


def _interpolate(table: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum [M, F] of rows [M, 8] of ``table`` [rows, F] with ``weights`` [M, 8]."""
    return (F.embedding(rows, table) * weights[..., None]).sum(1)
