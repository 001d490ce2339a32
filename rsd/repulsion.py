"""The force that keeps particles apart (Eq. 7, 13, with the signs and the bandwidth that repel: see docs/method.md).

    k_ij = exp(-|phi_i - phi_j|^2 / h)          RBF kernel on features phi
    R_i  = -grad_{z_i} log sum_{j != i} k_ij    points away from the other particles

The gradient treats the other particles' features as constants. It is analytic in feature space, so that a single
vector-Jacobian product through the feature map gives every R_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Interaction:
    """Who repels whom, how strongly and when.

    ``gamma``: weight of the force; negative attracts (the paper's footnote 2).
    ``window``: the force acts where lo <= (t+1)/T <= hi, in units of T.
    ``interacting``: in each ensemble the first so many repel one another, the others are alone (Hybrid); None: all.
    ``ensembles``: the particles are this many independent ensembles of equal size, one after another.
    ``include_self``: keep the term j = i in the sum (as Eq. 13 prints it); it weakens the force between far particles.
    """

    gamma: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    interacting: int | None = None
    ensembles: int = 1
    include_self: bool = False

    def groups(self, particles: int) -> torch.Tensor:
        """The rows that repel one another, int64 [ensembles, n]."""
        assert particles % self.ensembles == 0, "ensembles must be of equal size"
        return torch.arange(particles).view(self.ensembles, -1)[:, : self.interacting]

    def active(self, t: int, T: int, particles: int) -> bool:
        """Whether there is a force at timestep t among that many particles."""
        lo, hi = self.window
        return self.gamma != 0 and lo <= (t + 1) / T <= hi and self.groups(particles).shape[1] > 1


@dataclass(frozen=True)
class Force:
    """``direction``: -d log sum_j k_ij / d phi_i, [..., n, d]; ``bandwidth`` h and ``distance``, the mean over pairs
    i < j, each averaged over groups."""

    direction: torch.Tensor
    bandwidth: float
    distance: float


def median_bandwidth(distances: torch.Tensor) -> torch.Tensor:
    """h = m^2 / log n, m the median distance over the pairs i < j (mean of the middle two), [...].

    ``distances``: [..., n, n], n >= 2. Mostly identical particles give h = 0; :func:`feature_force` is zero then.
    """
    n = distances.shape[-1]
    rows, cols = torch.triu_indices(n, n, offset=1)
    m = distances[..., rows, cols].quantile(0.5, dim=-1)
    return m**2 / math.log(n)


def feature_force(features: torch.Tensor, *, include_self: bool = False) -> Force:
    """The force of each group of particles on one another, in feature space; ``features`` [..., n, d].

    A particle alone, or among identical ones, feels no force.
    """
    phi = features.detach()
    n = phi.shape[-2]
    if n < 2:
        return Force(torch.zeros_like(phi), 0.0, 0.0)
    distances = torch.cdist(phi, phi, compute_mode="donot_use_mm_for_euclid_dist")
    h = median_bandwidth(distances)[..., None, None]
    safe = torch.where(h > 0, h, torch.ones_like(h))
    logits = -(distances**2) / safe
    if not include_self:
        logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=phi.device), -torch.inf)
    w = logits.softmax(-1)  # k_ij / sum_j k_ij
    direction = torch.where(h > 0, 2 / safe * (phi - w @ phi), torch.zeros_like(phi))
    return Force(direction, float(h.mean()), float(distances.mean()) * n / (n - 1))
