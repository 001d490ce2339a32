"""What the posterior samplers have in common beside :mod:`rsd.sampling`: the measurement, and its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rsd import sampling
from rsd.sampling import Denoiser, Level, StepResult
from rsd.schedule import Schedule

from ..operators.base import Operator, data_residual

LEAST_SIGMA_V = 1e-3
"""Samplers that divide by sigma_v take a measurement for no more exact than that (an 8-bit picture is not)."""


@dataclass(frozen=True)
class Measurement(Denoiser):
    """What particles are to explain, and what denoises them: ``y`` [1, ...] = operator(x) + sigma_v v."""

    operator: Operator
    y: torch.Tensor
    sigma_v: float

    @property
    def noise_level(self) -> float:
        """sigma_v, but no less than LEAST_SIGMA_V."""
        return max(self.sigma_v, LEAST_SIGMA_V)

    def misfit(self, x: torch.Tensor) -> torch.Tensor:
        """y - f(x) [n, ...] with unobserved entries zero."""
        return data_residual(self.operator, x, self.y)[0]

    def norms(self, result: StepResult) -> dict[str, torch.Tensor]:
        """The misfit of the pictures of the estimates."""
        assert result.x is not None, "a posterior sampler decodes its estimates"
        return {"misfit": norm(self.misfit(result.x))}


Transition = sampling.Transition[Measurement]


def levels(schedule: Schedule, steps: int) -> list[Level]:
    """The levels of Schedule.descending, most noise first, and CLEAN: one more than ``steps``."""
    return sampling.levels(schedule, schedule.descending(steps))


def norm(x: torch.Tensor) -> torch.Tensor:
    """|x| of each row, [n], real also where x is complex; its gradient at 0 is 0."""
    square = x.abs().square().flatten(1).sum(1)
    return square.clamp_min(1e-30).sqrt()


def noise_of_y(transition: Transition, purpose: str, y: torch.Tensor, times: int) -> torch.Tensor:
    """Standard normal numbers like y [n times, ...], circular where y is complex: E|v|^2 = 1."""
    parts = (times, *y.shape[1:], 2) if y.is_complex() else (times, *y.shape[1:])
    v = transition.noise(purpose, parts).flatten(0, 1)
    return torch.view_as_complex(v / math.sqrt(2)).to(y) if y.is_complex() else v


def guidance(transition: Transition) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """DPS's pass through the network: the estimate of z_0, its eps and its picture, and the gradient of
    |y - f(D(estimate))| in z_t."""
    z = transition.z.detach().requires_grad_()
    with torch.enable_grad():
        eps = transition.epsilon(z)
        clean = transition.clean(z, eps)
        x = transition.given.prior.decode(clean)
        (gradient,) = torch.autograd.grad(norm(transition.given.misfit(x)).sum(), z)
    return clean.detach(), eps.detach(), x.detach(), gradient
