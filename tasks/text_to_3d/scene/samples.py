"""Samples on rays and their weights: the same number on each ray (dense), or only occupied intervals (packed).

    alpha_k = 1 - exp(-sigma_k delta_k),   w_k = alpha_k prod_{j<k} (1 - alpha_j)

Samples are one list, ray after ray. ``expand`` copies values of rays to their samples, ``total`` sums over each ray.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Samples(Protocol):
    """M samples on the rays [V, R]. ``t``: their distances along the rays, [M]."""

    t: torch.Tensor

    def expand(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [M, ...] of each sample's ray; ``values`` [V, R, ...]."""
        ...

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums [V, R, ...] of samples' values [M, ...] over each ray."""
        ...

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        """Return the weights [M] of samples with ``density`` [M]."""
        ...


class DenseSamples:
    """The middles of S intervals on each ray, between ``edges`` [V, R, S + 1]."""

    def __init__(self, edges: torch.Tensor):
        self.edges = edges
        middles = (edges[..., 1:] + edges[..., :-1]) / 2
        self.shape, self.t = middles.shape, middles.flatten()

    def expand(self, values: torch.Tensor) -> torch.Tensor:
        V, R, S = self.shape
        return values[:, :, None].expand(V, R, S, *values.shape[2:]).flatten(0, 2)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(0, self.shape).sum(2)

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        return composite(density.view(self.shape), self.edges).flatten()


class PackedSamples:
    """The middles of the intervals from ``start`` to ``end`` [M] on the rays ``rays``, int64 [M] in ascending order;
    V x R rays in all."""

    def __init__(self, rays: torch.Tensor, start: torch.Tensor, end: torch.Tensor, shape: tuple[int, int]):
        self.rays, self.shape = rays, shape
        self.t, self.length = (start + end) / 2, end - start

    def expand(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(0, 1)[self.rays]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        V, R = self.shape
        zero = values.new_zeros(V * R, *values.shape[1:])
        return zero.index_add(0, self.rays, values).unflatten(0, (V, R))

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        """Return the weights on any device, from a table of rays padded to the longest."""
        counts = self.rays.bincount(minlength=self.shape[0] * self.shape[1])
        place = torch.arange(len(self.rays), device=self.rays.device) - (counts.cumsum(0) - counts)[self.rays]
        depth = density * self.length
        at = (self.rays, place)
        table = depth.new_zeros(len(counts), int(counts.max())).index_put(at, depth)
        return (-depth_before(table)[at]).exp() * -torch.expm1(-depth)


def span(origins: torch.Tensor, directions: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distances [...] at which rays [..., 3] enter and leave the cube of half side ``bound``; equal if they
    miss it."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (-bound - origins) / safe, (bound - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    return near, torch.maximum(torch.maximum(a, b).amin(-1), near)


def stratified(near: torch.Tensor, far: torch.Tensor, samples: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """Return edges [..., samples + 1] from near to far [...]; ``jitter`` [..., samples - 1] in [0, 1) moves the inner
    ones by up to half a step."""
    at = torch.arange(samples + 1, dtype=near.dtype, device=near.device).expand(*near.shape, -1)
    if jitter is not None:
        at = torch.cat([at[..., :1], at[..., 1:-1] + jitter.to(at) - 0.5, at[..., -1:]], -1)
    return near[..., None] + (far - near)[..., None] * at / samples


def composite(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return weights [..., S] of samples with ``density`` [..., S] between ``edges`` [..., S + 1]."""
    depth = density * edges.diff(dim=-1)
    return (-depth_before(depth)).exp() * -torch.expm1(-depth)


def depth_before(depth: torch.Tensor) -> torch.Tensor:
    """Return the optical depth in front of each sample: the exclusive cumulative sum of ``depth`` [..., S]."""
    return torch.cat([torch.zeros_like(depth[..., :1]), depth.cumsum(-1)[..., :-1]], -1)


def refine(edges: torch.Tensor, weights: torch.Tensor, count: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """Add ``count`` edges to ``edges`` [..., S + 1]; return them sorted, [..., S + 1 + count].

    They are drawn by inverting the distribution that is constant in each interval with masses ``weights`` [..., S],
    plus a little so that none is empty. ``jitter`` [..., count] in [0, 1) places each draw in its stratum; None: at its
    centre.
    """
    S = weights.shape[-1]
    mass = weights + 1e-3 / S
    cdf = torch.cat([torch.zeros_like(mass[..., :1]), mass.cumsum(-1)], -1)
    cdf = cdf / cdf[..., -1:]
    place = 0.5 if jitter is None else jitter.to(cdf)
    u = (torch.arange(count, dtype=cdf.dtype, device=cdf.device) + place).expand(*cdf.shape[:-1], count) / count
    right = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, S)
    low, high = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    start, end = edges.gather(-1, right - 1), edges.gather(-1, right)
    new = start + (u - low) / (high - low) * (end - start)
    return torch.cat([edges, new], -1).sort(-1).values
