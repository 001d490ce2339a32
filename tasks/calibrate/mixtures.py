"""Mixtures of Gaussians in many dimensions under linear measurements, whose posteriors are mixtures too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from rsd.priors.mixture import GaussianMixture
from rsd.tasks.inverse.samplers.exact import Matrix


@dataclass(frozen=True)
class MixtureProblem:
    """y [1, m] = A x + sigma_v v for x [d] from the prior; the posterior has the components N(means_k, covariance) with
    ``weights`` [K]."""

    prior: GaussianMixture
    operator: Matrix
    y: torch.Tensor
    sigma_v: float
    x: torch.Tensor
    means: torch.Tensor
    covariance: torch.Tensor
    weights: torch.Tensor

    @cached_property
    def mean(self) -> torch.Tensor:
        """The posterior mean, [d]."""
        return self.weights @ self.means

    def draw(self, number: int, rng: torch.Generator) -> torch.Tensor:
        """Draw from the posterior, [number, d]."""
        k = torch.multinomial(self.weights, number, replacement=True, generator=rng)
        root = torch.linalg.cholesky(self.covariance)
        return self.means[k] + torch.randn(number, len(self.x), generator=rng, dtype=torch.float64) @ root.T

    def log_densities(self, x: torch.Tensor) -> torch.Tensor:
        """Return log w_k N(x; mean_k, covariance) for points [n, d], up to one constant, [n, K]."""
        root = torch.linalg.cholesky(self.covariance)
        offset = x[:, None] - self.means
        white = torch.linalg.solve_triangular(root, offset.mT, upper=False)
        return self.weights.log() - 0.5 * white.square().sum(1)

    def shares(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the share of points [n, d] in each component, by the posterior probability of the component, [K].
        ``weights`` [n]: of the points, with sum 1 (None: equal)."""
        each = self.log_densities(x).softmax(1)
        return each.mean(0) if weights is None else weights @ each

    @cached_property
    def least(self) -> float:
        """The posterior's mean variance of an entry: the least mean squared error of an estimate."""
        apart = self.weights @ (self.means - self.mean).square().mean(1)
        return float(apart + self.covariance.diagonal().mean())

    def densest_mass(self, x: torch.Tensor, level: float, draws: torch.Tensor) -> float:
        """Return the share of posterior draws [M, d] whose density exceeds that of all but ``level`` of the points
        [n, d]. It is ``level`` on average if the points are draws too: the n + 1 ranks are then equally likely."""
        own = self.log_densities(x).logsumexp(1).sort().values
        at = min(max((len(own) + 1) * (1 - level) - 1, 0.0), len(own) - 1.0)
        low, high = own[int(at)], own[min(int(at) + 1, len(own) - 1)]
        threshold = low + (at - int(at)) * (high - low)
        return float((self.log_densities(draws).logsumexp(1) >= threshold).double().mean())

    def in_densest(self, x: torch.Tensor, level: float) -> bool:
        """Return whether the truth lies where the posterior density is larger than at all but ``level`` of the points
        [n, d]: the coverage of the highest-density region that these points estimate."""
        threshold = self.log_densities(x).logsumexp(1).quantile(1 - level)
        return bool(self.log_densities(self.x[None]).logsumexp(1)[0] >= threshold)


def mixture_problem(
    d: int = 16, m: int = 4, K: int = 6, *, spread: float = 0.25, sigma_v: float = 0.1, seed: int = 0
) -> MixtureProblem:
    """Draw K means from N(0, I), weights, a matrix [m, d], a point and its measurement. ``spread``: the standard
    deviation within a component."""
    rng = torch.Generator().manual_seed(seed)
    means, A = (torch.randn(n, d, generator=rng, dtype=torch.float64) for n in (K, m))
    A = A / (4 * d**0.5)  # the components overlap in y, so that several remain possible
    weights = torch.rand(K, generator=rng, dtype=torch.float64) + 0.2
    weights = weights / weights.sum()
    prior = GaussianMixture(means, spread**2, weights)
    k = int(torch.multinomial(weights, 1, generator=rng))
    x = means[k] + spread * torch.randn(d, generator=rng, dtype=torch.float64)
    y = A @ x + sigma_v * torch.randn(m, generator=rng, dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(d, dtype=torch.float64) / spread**2 + A.T @ A / sigma_v**2)
    posterior_means = (means / spread**2 + A.T @ y / sigma_v**2) @ covariance
    S = spread**2 * A @ A.T + sigma_v**2 * torch.eye(m, dtype=torch.float64)
    wrong = y - means @ A.T
    log_evidence = -0.5 * (wrong * torch.linalg.solve(S, wrong.mT).mT).sum(1)
    posterior_weights = (weights.log() + log_evidence).softmax(0)
    return MixtureProblem(prior, Matrix(A), y[None], sigma_v, x, posterior_means, covariance, posterior_weights)
