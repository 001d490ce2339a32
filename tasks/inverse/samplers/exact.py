"""Problems with a known posterior, to evaluate methods: points, a Gaussian or mixture prior, a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rsd.priors.mixture import GaussianMixture
from rsd.schedule import Schedule

from ..operators.base import Operator


class Matrix(Operator):
    """y = A x for points x [B, d]; A [m, d]."""

    matrix: torch.Tensor

    def __init__(self, matrix: torch.Tensor):
        super().__init__("a matrix", linear=True)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x [B, m]."""
        return x @ self.matrix.T


@dataclass(frozen=True)
class Exact:
    """A prior, y [1, m] = A x + sigma_v v, and the posterior's ``mean`` [d] and ``covariance`` [d, d]."""

    prior: GaussianMixture
    operator: Matrix
    y: torch.Tensor
    sigma_v: float
    mean: torch.Tensor
    covariance: torch.Tensor


def gaussian(d: int = 4, m: int = 2, *, sigma_v: float = 0.3, seed: int = 3, schedule: Schedule | None = None) -> Exact:
    """Return a problem with prior N(0, I) in R^d and m random rows: covariance (I + A^T A / sigma_v^2)^-1, mean that
    times A^T y / sigma_v^2. ``schedule``: the prior's (default: Stable Diffusion's)."""
    generator = torch.Generator().manual_seed(seed)
    prior = GaussianMixture(torch.zeros(1, d, dtype=torch.float64), 1.0, schedule=schedule)
    A = torch.randn(m, d, generator=generator, dtype=torch.float64) / 2
    x, v = (torch.randn(1, k, generator=generator, dtype=torch.float64) for k in (d, m))
    y = x @ A.T + sigma_v * v
    covariance = torch.linalg.inv(torch.eye(d, dtype=torch.float64) + A.T @ A / sigma_v**2)
    return Exact(prior, Matrix(A), y, sigma_v, covariance @ A.T @ y[0] / sigma_v**2, covariance)


def blind(
    *, rare: float = 0.5, apart: float = 2.0, spread: float = 0.3, sigma_v: float = 0.1,
    schedule: Schedule | None = None,
) -> Exact:  # fmt: skip
    """Return a problem with two modes at (-apart, 0) and (apart, 0), the second of weight ``rare``, and an operator
    that measures only the second coordinate, y = 0: the posterior keeps both modes with their weights."""
    means = torch.tensor([[-apart, 0.0], [apart, 0.0]], dtype=torch.float64)
    prior = GaussianMixture(means, spread**2, [1 - rare, rare], schedule=schedule)
    second = 1 / (1 / spread**2 + 1 / sigma_v**2)
    mean = torch.tensor([(2 * rare - 1) * apart, 0.0], dtype=torch.float64)
    first = 4 * rare * (1 - rare) * apart**2 + spread**2
    covariance = torch.diag(torch.tensor([first, second], dtype=torch.float64))
    A = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    return Exact(prior, Matrix(A), torch.zeros(1, 1, dtype=torch.float64), sigma_v, mean, covariance)
