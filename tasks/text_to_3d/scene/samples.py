"""Where rays are sampled, and what the samples weigh: the same number on each ray, or as many as there is something.

    alpha_k = 1 - exp(-sigma_k delta_k),   w_k = alpha_k prod_{j<k} (1 - alpha_j)

Samples are one list, ray after ray, whichever they are; ``spread`` brings what rays have to it, ``total`` sums it back.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Samples(Protocol):
    """M samples on the rays [V, R]. ``t``: their distances along the rays, [M]."""

    t: torch.Tensor

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """What rays have, [V, R, ...], for each sample, [M, ...]."""
        ...

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Samples' values [M, ...], summed over each ray, [V, R, ...]."""
        ...

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        """Weights of samples with ``density``, both [M]."""
        ...


class DenseSamples:
    """The middles of S intervals on each ray, between ``edges`` [V, R, S + 1]."""

    def __init__(self, edges: torch.Tensor):
        self.edges = edges
        middles = (edges[..., 1:] + edges[..., :-1]) / 2
        self.shape, self.t = middles.shape, middles.flatten()

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        V, R, S = self.shape
        return values[:, :, None].expand(V, R, S, *values.shape[2:]).flatten(0, 2)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(0, self.shape).sum(2)

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        return composite(density.view(self.shape), self.edges).flatten()


class PackedSamples:
    """The middles of the intervals from ``start`` to ``end`` [M] on the rays numbered ``rays``, int64 [M] that never
    falls; V x R rays in all."""

    def __init__(self, rays: torch.Tensor, start: torch.Tensor, end: torch.Tensor, shape: tuple[int, int]):
        self.rays, self.shape = rays, shape
        self.t, self.length = (start + end) / 2, end - start

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(0, 1)[self.rays]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        V, R = self.shape
        zero = values.new_zeros(V * R, *values.shape[1:])
        return zero.index_add(0, self.rays, values).unflatten(0, (V, R))

    def composite(self, density: torch.Tensor) -> torch.Tensor:
        """As a table of rays, whose rows are as long as the longest: what nerfacc does on CUDA alone, anywhere."""
        counts = self.rays.bincount(minlength=self.shape[0] * self.shape[1])
        place = torch.arange(len(self.rays), device=self.rays.device) - (counts.cumsum(0) - counts)[self.rays]
        depth = density * self.length
        at = (self.rays, place)
        table = depth.new_zeros(len(counts), int(counts.max())).index_put(at, depth)
        return (-before(table)[at]).exp() * -torch.expm1(-depth)


def span(origins: torch.Tensor, directions: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays [..., 3] enter and leave the cube of half side ``bound``, distances [...]; equal where they miss."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (-bound - origins) / safe, (bound - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    return near, torch.maximum(torch.maximum(a, b).amin(-1), near)


def stratified(near: torch.Tensor, far: torch.Tensor, samples: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """Edges [..., samples + 1] from near to far [...]; the inner ones moved by up to half a step either way with
    ``jitter`` [..., samples - 1] in [0, 1)."""
    at = torch.arange(samples + 1, dtype=near.dtype, device=near.device).expand(*near.shape, -1)
    if jitter is not None:
        at = torch.cat([at[..., :1], at[..., 1:-1] + jitter.to(at) - 0.5, at[..., -1:]], -1)
    return near[..., None] + (far - near)[..., None] * at / samples


def composite(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Weights [..., S] of samples with ``density`` [..., S] between ``edges`` [..., S + 1]."""
    depth = density * edges.diff(dim=-1)
    return (-before(depth)).exp() * -torch.expm1(-depth)


def before(depth: torch.Tensor) -> torch.Tensor:
    """What lies in front of each of ``depth`` [..., S]: the sum of those before it."""
    return torch.cat([torch.zeros_like(depth[..., :1]), depth.cumsum(-1)[..., :-1]], -1)


def refine(edges: torch.Tensor, weights: torch.Tensor, count: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """``edges`` [..., S + 1] and ``count`` more in order, [..., S + 1 + count], drawn by inverting the distribution
    that is constant in each interval, with masses ``weights`` [..., S] (a little more, so that none is empty).

    ``jitter`` [..., count] in [0, 1) places each draw in its stratum; None: at its centre.
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
