"""FPS-SMC: filtering posterior sampling with sequential Monte Carlo (Dou & Song 2024, Algorithm 2), for linear A.

A path of measurements, y_t = alpha_t y + sigma_t A n_t, is drawn along with the particles as if it were diffused: from
t to s by the DDIM step with y as the estimate of y_0. Given that, x_s is Gaussian by both of

    p(x_s | x_t) = N(m, s~^2 I),  m the DDIM step's mean,        p(y_s | x_s) = N(A x_s, alpha_s^2 sigma_v^2 I)

so it is drawn from their product, after the M particles of one sample are resampled by p(y_s | x_t) = N(A m, s~^2 A A^T
+ alpha_s^2 sigma_v^2 I). As M grows, the samples follow the posterior if the prior's p(x_s | x_t) is Gaussian (many
steps). Each sample is one of its own M particles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rsd.sampling import Method, StepResult, fresh_noise

from ..operators.base import Operator, only_observed, variance
from ..operators.linear import dot, solve_gram
from .guidance import Transition, noise_of_y


@dataclass(frozen=True)
class FPS(Method):
    """``M``: particles of each sample; ``eta``: noise of the DDIM step, above 0."""

    positive: ClassVar[tuple[str, ...]] = ("eta",)
    noise: ClassVar[str | None] = None
    M: int = 5
    eta: float = 1.0

    def step(self, transition: Transition) -> StepResult:
        """Resample the particles of each sample, and draw each from the product of the two Gaussians."""
        given, now, then = transition.given, transition.now, transition.then
        n, shape = len(transition.z), transition.z.shape[1:]
        x = self._swarm(transition)  # [n, M, ...]
        eps = transition.epsilon(x.flatten(0, 1))
        clean = transition.clean(x.flatten(0, 1), eps)
        y = only_observed(given.operator, given.y)
        y_t = transition.extra.get("y_t")
        if y_t is None:
            y_t = now.alpha * y + now.sigma * self._measured_noise(transition, "path start")
        deviation = fresh_noise(now, then, self.eta)
        if deviation == 0:  # the last step
            picked = clean.view(n, self.M, *shape)[:, 0]
            return StepResult(picked, picked, given.prior.decode(picked), {"x": x, "y_t": y_t})
        keep = math.sqrt(max(0.0, then.sigma**2 - deviation**2))
        # Advance the path of measurements.
        y_s = (
            then.alpha * y
            + keep * (y_t - now.alpha * y) / now.sigma
            + deviation * self._measured_noise(transition, "path")
        )
        m = then.alpha * clean + keep * eps
        spread = then.alpha * given.noise_level  # of y_s given x_s
        y_all = y_s.repeat_interleave(self.M, 0)
        # Resample the particles, then draw from the product of the two Gaussians.
        m = self._resample(transition, m, y_all, deviation, spread)
        x_s = product(given.operator, m, y_all, deviation, spread, self._noises(transition, m, y_all))
        first = clean.view(n, self.M, *shape)[:, 0]
        x_s = x_s.view(n, self.M, *shape)
        return StepResult(x_s[:, 0], first, given.prior.decode(first), {"x": x_s, "y_t": y_s})

    def _swarm(self, transition: Transition) -> torch.Tensor:
        x = transition.extra.get("x")
        return transition.noise("swarm", (self.M, *transition.z.shape[1:])) if x is None else x

    def _measured_noise(self, transition: Transition, purpose: str) -> torch.Tensor:
        """Return A n, n ~ N(0, I), one for each sample."""
        return only_observed(transition.given.operator, transition.given.operator(transition.noise(purpose)))

    def _noises(self, transition: Transition, m: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        of_x = transition.noise("swarm noise", (self.M, *m.shape[1:])).flatten(0, 1)
        return of_x, noise_of_y(transition, "measurement's", y, self.M)

    def _resample(
        self, transition: Transition, m: torch.Tensor, y: torch.Tensor, deviation: float, spread: float
    ) -> torch.Tensor:
        """Return the means m [n M, ...] of particles drawn with weights p(y_s | x_t) within each sample."""
        operator, n = transition.given.operator, len(transition.z)
        misfit = only_observed(operator, y - operator(m))
        weighed = solve_gram(operator, misfit, m, times=deviation**2, plus=variance(y, spread))
        log_w = -0.5 * dot(misfit, weighed).view(n, self.M)
        edges = log_w.softmax(1).cumsum(1)
        points = (transition.noise("resampling", (self.M,)) / math.sqrt(2)).erf() / 2 + 0.5  # uniform
        chosen = torch.searchsorted(edges.contiguous(), points).clamp(max=self.M - 1)
        rows = torch.arange(n, device=m.device)[:, None]
        return m.view(n, self.M, *m.shape[1:])[rows, chosen].flatten(0, 1)


def product(
    operator: Operator, m: torch.Tensor, y: torch.Tensor, deviation: float, spread: float,
    noises: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:  # fmt: skip
    """Draw from N(x; m, deviation^2 I) N(y; A x, spread^2 I) for each row: prior draw x', measurement draw y', and x' +
    deviation^2 A^T (deviation^2 A A^T + spread^2 I)^-1 (y - y' - A x')  (Matheron's rule; spread^2 / 2 if y is
    complex). ``noises``: standard normal numbers of m's and y's shapes, circular if y is complex."""
    x = m + deviation * noises[0]
    misfit = only_observed(operator, y - spread * noises[1] - operator(x))
    weighed = solve_gram(operator, misfit, m, times=deviation**2, plus=variance(y, spread))
    return x + deviation**2 * operator.adjoint(weighed, m)
