"""Problems whose posterior is known: a Gaussian prior over points and a linear operator."""

from __future__ import annotations

import torch

from rsd.priors.mixture import GaussianMixture
from rsd.tasks.inverse.base import Operator


class Matrix(Operator):
    """y = A x for points x [B, d]; A [m, d]."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__("a matrix", linear=True)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T


def unit_problem(d: int = 4, m: int = 2, sigma_v: float = 0.3):
    """A prior N(0, I) in R^d, an operator, y, sigma_v, and the mean [d] and covariance [d, d] of the posterior."""
    generator = torch.Generator().manual_seed(3)
    prior = GaussianMixture(torch.zeros(1, d, dtype=torch.float64), 1.0)
    A = torch.randn(m, d, generator=generator, dtype=torch.float64) / 2
    x = torch.randn(1, d, generator=generator, dtype=torch.float64)
    y = x @ A.T + sigma_v * torch.randn(1, m, generator=generator, dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(d, dtype=torch.float64) + A.T @ A / sigma_v**2)
    mean = covariance @ A.T @ y[0] / sigma_v**2
    return prior, Matrix(A), y, sigma_v, mean, covariance
