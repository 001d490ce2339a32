"""The samples to keep of those drawn (``--draw M --keep N``): the N that differ most among those that fit.

A broken picture differs most of all, so it has to be left out first. Diffused to a few noise levels with the same
noise for all, a broken picture is denoised worse by the prior: particle i is plausible if its error is at most 1.5
times the median. With features phi_i and scores s_i > 0 (larger for a better fit), and with s the best score of those,
particle i fits if it is plausible and s_i >= s / sqrt(2). Among those, with m the largest distance of a pair,

    k_ij = exp(-|phi_i - phi_j|^2 / m^2)            it never saturates, so that differences weigh more than q
    L_ij = q_i k_ij q_j,   q_i = (s_i / s)^(1/4)    without scores every particle fits, and q = 1

the set S of N particles with the largest det L_S = prod q_i^2 det K_S is kept: the mode of a determinantal point
process of N items (Kulesza & Taskar 2012), whose determinant is 0 if two samples are equal. Up to 5000 sets are all
compared. Beyond that each particle in turn begins a set that grows greedily (Chen et al. 2018), and the best set is
kept. If fewer than N fit, they are kept with those that come closest; implausible ones come last.

Everything here is deterministic and does not depend on the order of the particles; of equal sets the one with the
smaller numbers is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch

from rsd.priors.base import Condition, Prior
from rsd.randomness import noise

TOLERANCE = math.sqrt(2)
"""A particle fits if its score is at least the best one divided by this."""
SETS = 5000
"""The largest number of sets that are all compared."""
LEVELS = (0.05, 0.1, 0.2, 0.3)
"""The noise levels at which pictures are denoised, t / T: those where details are wrong or right."""
WEIGHT = 0.25
"""Exponent of s_i / s in q_i: among those that fit, differences count for more."""
IMPLAUSIBLE = 1.5
"""A particle is plausible if its denoising error is at most this many times the median."""
BATCH = 8
"""Images whose features are computed at once. It is fixed, so that --chunk does not change a rounding."""
ROUNDING = 1e-9
"""Log-determinants that differ by less are equal."""


@dataclass(frozen=True)
class Fit:
    """How well each of M particles fits. ``name``: what is measured; ``values`` [M] in its own units, nan if a particle
    could not be measured; ``scores`` [M], 0 or more, larger for a better fit."""

    name: str
    values: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class Selection:
    """``kept``: the numbers of the kept particles, ascending; ``fitting``: of those that fit. ``errors`` [M]: the
    denoising errors relative to their median, empty if no prior was asked."""

    kept: list[int]
    fitting: list[int]
    errors: list[float] = field(default_factory=list)


def select(
    features: torch.Tensor, number: int, scores: torch.Tensor | None = None, plausible: torch.Tensor | None = None
) -> Selection:
    """Select ``number`` of M particles with features [M, d], scores [M] (None: all fit equally well) and ``plausible``,
    bool [M] (None: all are, as if none is)."""
    if plausible is None or not plausible.any():
        plausible = torch.ones(len(features), dtype=torch.bool)
    relative = torch.zeros(len(features), dtype=torch.float64)
    relative[plausible] = to_best(None if scores is None else scores[plausible], int(plausible.sum()))
    fitting = [i for i, value in enumerate(relative.tolist()) if value * TOLERANCE >= 1 - ROUNDING]
    if len(fitting) <= number:
        nearest = sorted(range(len(features)), key=lambda i: (-float(relative[i]), i))
        return Selection(sorted(nearest[:number]), fitting)
    q = relative[fitting] ** WEIGHT
    L = q[:, None] * kernel(features[fitting]) * q
    few = math.comb(len(fitting), number) <= SETS
    found = best_set(L, number) if few else greedy_set(L, number)
    return Selection([fitting[i] for i in found], fitting)


def to_best(scores: torch.Tensor | None, number: int) -> torch.Tensor:
    """Return the ``scores`` [M] relative to the best one, in [0, 1]; 1 for all if there are none or all are 0."""
    if scores is None or not (best := float(scores.max())) > 0:
        return torch.ones(number, dtype=torch.float64)
    return scores.detach().cpu().double() / best


def kernel(features: torch.Tensor) -> torch.Tensor:
    """Return K [n, n] of features [n, d] in float64; 1 if all are equal."""
    phi = features.detach().cpu().double()
    squared = torch.cdist(phi, phi, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return (-squared / (float(squared.max()) or 1.0)).exp()


def log_determinants(L: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Return log det L_S [C] of ``sets`` [C, N] of rows of L [n, n], -inf for equal samples."""
    signs, values = torch.linalg.slogdet(L[sets[:, :, None], sets[:, None, :]])
    return values.masked_fill(signs <= 0, -torch.inf)


def best_set(L: torch.Tensor, number: int) -> list[int]:
    """Return the ``number`` rows of L [n, n] with the largest determinant, ascending, by comparing all sets."""
    sets = torch.tensor(list(combinations(range(len(L)), number)))
    return sets[_first_best(log_determinants(L, sets))].tolist()


def greedy_set(L: torch.Tensor, number: int) -> list[int]:
    """Return ``number`` rows of L [n, n] with a large determinant, ascending: the best of the greedy sets that begin
    with each row."""
    sets = torch.tensor([sorted(_grow(L, number, first)) for first in range(len(L))])
    sets = sets.unique(dim=0)  # in lexicographic order
    return sets[_first_best(log_determinants(L, sets))].tolist()


def _grow(L: torch.Tensor, number: int, first: int) -> list[int]:
    """Add to the row ``first`` of L the row that increases the determinant most, until there are ``number``."""
    gains, rows = L.diagonal().clone(), [first]  # det L_(S + i) / det L_S, by an incremental Cholesky decomposition
    factors = L.new_zeros(len(L), 0)
    while len(rows) < number:
        last = rows[-1]
        pivot = gains[last].clamp(min=1e-300).sqrt()
        column = (L[last] - factors @ factors[last]) / pivot
        factors, gains = torch.cat([factors, column[:, None]], 1), (gains - column**2).clamp(min=0)
        left = gains.clone()
        left[rows] = -1.0
        rows.append(int((left >= left.max() - ROUNDING).nonzero()[0]))
    return rows


def _first_best(values: torch.Tensor) -> int:
    """Return the first of the largest values up to rounding."""
    return int((values >= values.max() - ROUNDING).nonzero()[0])


@torch.no_grad()
def features_of(images: torch.Tensor, features: Callable[[torch.Tensor], torch.Tensor], device: Any) -> torch.Tensor:
    """Return features [M, d] of images [M, 3, H, W] in [-1, 1] (clamped), on the CPU. ``device``: of the features."""
    x = images.detach().float().clamp(-1, 1)
    return torch.cat([features(part.to(device)).flatten(1).cpu() for part in x.split(BATCH)])


@torch.no_grad()
def denoising_errors(images: torch.Tensor, prior: Prior, condition: Condition | None) -> torch.Tensor:
    """Return the prior's denoising errors of images [M, 3, H, W] relative to their median, [M] in float64: the
    geometric mean over LEVELS of |eps_theta(z_t) - eps|^2, with the same eps for all images and without guidance. Of an
    even number, the median is the smaller one of the middle two, so up to half of the images may be broken.

    Each image goes through the networks alone, so that the errors do not depend on --chunk."""
    if condition is not None:
        condition = replace(condition, guidance=1.0, negative=None, negative_mask=None, negative_pooled=None)
    rows = []
    for image in images.detach().clamp(-1, 1).split(1):
        z, row = prior.encode(image.to(prior.device, prior.dtype)), []
        for k, level in enumerate(LEVELS):
            t = int(level * prior.schedule.T)
            eps = noise(z.shape[1:], seed=0, purpose="plausibility", step=k, particles=[0]).to(z)
            z_t = prior.schedule.alpha(t) * z + prior.schedule.sigma(t) * eps
            row.append(float((prior.epsilon(z_t, t, condition) - eps).double().square().mean()))
        rows.append(row)
    errors = torch.tensor(rows, dtype=torch.float64).clamp_min(1e-300)
    return (errors / errors.median(0).values).log().mean(1).exp()


def choose(
    images: torch.Tensor, number: int, *, features: Callable[[torch.Tensor], torch.Tensor], fit: Fit | None,
    device: Any, prior: Prior | None = None, condition: Condition | None = None,
) -> Selection:  # fmt: skip
    """Select ``number`` of the drawn ``images`` [M, 3, H, W] by :func:`select` on their features. ``prior``: leaves out
    what it denoises badly, under ``condition``; None: all images are plausible."""
    scores = None if fit is None else fit.scores.cpu()
    phi = features_of(images, features, device)
    if prior is None:
        return select(phi, number, scores)
    errors = denoising_errors(images, prior, condition)
    return replace(select(phi, number, scores, errors <= IMPLAUSIBLE), errors=errors.tolist())


def report(selection: Selection, fit: Fit | None, *, drawn: int, features: str, div: float | None) -> dict[str, Any]:
    """Return a selection for metrics.json. ``features``: the name of what was compared; ``div``: of all drawn."""
    values = None if fit is None else [value if math.isfinite(value) else None for value in fit.values.tolist()]
    return {
        "drawn": drawn, "kept": selection.kept, "fitting": selection.fitting, "fit": None if fit is None else fit.name,
        "values": values, "errors": [round(error, 3) for error in selection.errors], "features": features,
        "div_drawn": div,
    }  # fmt: skip
