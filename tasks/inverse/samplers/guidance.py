"""Code shared by the posterior samplers, beside :mod:`rsd.sampling`: the measurement and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rsd import sampling
from rsd.sampling import Denoiser, StepResult

from ..operators.base import Operator, data_residual

LEAST_SIGMA_V = 1e-3
"""The least sigma_v of samplers that divide by it (an 8-bit image is no more exact)."""


@dataclass(frozen=True)
class Measurement(Denoiser):
    """The measurement y [1, ...] = operator(x) + sigma_v v, and the denoiser of the particles."""

    operator: Operator
    y: torch.Tensor
    sigma_v: float

    @property
    def noise_level(self) -> float:
        """The noise of y, at least LEAST_SIGMA_V."""
        return max(self.operator.noise_level(self.sigma_v), LEAST_SIGMA_V)

    def misfit(self, x: torch.Tensor) -> torch.Tensor:
        """Return y - f(x) [n, ...] with unobserved entries zero."""
        return data_residual(self.operator, x, self.y)[0]

    def norms(self, result: StepResult) -> dict[str, torch.Tensor]:
        """Return the misfit of the decoded denoised estimates."""
        if result.x is None:
            raise ValueError(
                "The step of a posterior sampler returns the decoded estimate too: StepResult(z, clean, x)."
            )
        return {"misfit": norm(self.misfit(result.x))}


Transition = sampling.Transition[Measurement]


def norm(x: torch.Tensor) -> torch.Tensor:
    """Return |x| of each row, [n], real even if x is complex; its gradient at 0 is 0."""
    square = x.abs().square().flatten(1).sum(1)
    return square.clamp_min(1e-30).sqrt()


def noise_of_y(transition: Transition, purpose: str, y: torch.Tensor, times: int) -> torch.Tensor:
    """Return standard normal numbers like y [n times, ...], circular if y is complex: E|v|^2 = 1."""
    return noise_like(y, lambda shape: transition.noise(purpose, (times, *shape)).flatten(0, 1))


def noise_like(y: torch.Tensor, draw: Callable[[Sequence[int]], torch.Tensor]) -> torch.Tensor:
    """Return ``draw`` of the shape of one y, circular if y is complex: E|v|^2 = 1."""
    v = draw((*y.shape[1:], 2) if y.is_complex() else y.shape[1:])
    return torch.view_as_complex(v / math.sqrt(2)).to(y) if y.is_complex() else v


def guidance(transition: Transition) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, as in DPS, the denoised estimate of z_0, its eps, its decoded image, and the gradient of |y -
    f(D(estimate))| in z_t."""
    z = transition.z.detach().requires_grad_()
    with torch.enable_grad():
        eps = transition.epsilon(z)
        clean = transition.clean(z, eps)
        x = transition.given.prior.decode(clean)
        (gradient,) = torch.autograd.grad(norm(transition.given.misfit(x)).sum(), z)
    return clean.detach(), eps.detach(), x.detach(), gradient
