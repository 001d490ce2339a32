"""ReSample: hard data consistency and stochastic resampling in latent space (Song et al. 2024, Algorithm 1).

DDIM steps with a gradient step of the data term as in DPS. After the first third, at every ``every``-th step, z_0 is
replaced by the solution of  min 1/2 |y - f(D(z))|^2  from there (Eq. 8; over images in the second third, z = E(x), and
over latents in the last, as in their Appendix C), and mapped back to the noise level (Prop. 1, Eq. 10):

    z_s ~ N( (r^2 alpha_s z_0(y) + sigma_s^2 z_s') / (r^2 + sigma_s^2),  r^2 sigma_s^2 / (r^2 + sigma_s^2) I )

with z_s' the DDIM step's and r^2 = gamma (sigma_s^2 / alpha_t^2) v_ts (rsd.sampling), where v_ts is the paper's
1 - alpha_t^2 / alpha_s^2. The result is the last z_0 after one more such fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from rsd.sampling import Method, StepResult, step_variance

from ..rlsd import data_loss
from .guidance import Transition, guidance


@dataclass(frozen=True)
class ReSample(Method):
    """``gamma``: scale of r^2; ``every``: steps between fits; ``fits``: Adam steps per fit, with learning rates
    ``lr_x`` for images and ``lr_z`` for latents; ``zeta``: step size of the data term, times alpha_t^2; ``eta``: noise
    of the DDIM step."""

    positive: ClassVar[tuple[str, ...]] = ("gamma", "lr_x", "lr_z")
    noise: ClassVar[str | None] = None
    gamma: float = 40.0
    every: int = 10
    fits: int = 200
    lr_x: float = 0.01
    lr_z: float = 0.005
    zeta: float = 0.5
    eta: float = 0.0

    def step(self, transition: Transition) -> StepResult:
        """Do one DDIM step and, at every ``every``-th step, a fit and a resampling."""
        clean, eps, x, gradient = guidance(transition)
        z_s = transition.ddim(clean, eps, self.eta) - self.zeta * transition.now.alpha**2 * gradient
        last = transition.step + 1 == transition.steps
        third = 3 * transition.step // transition.steps
        if last or (third > 0 and (transition.step + 1) % self.every == 0):
            fitted = self._in_pixels(transition, clean) if third == 1 else self._in_latents(transition, clean)
            z_s = fitted if last else self._resample(transition, fitted, z_s)
        return StepResult(z_s, clean, x)

    def _in_latents(self, transition: Transition, clean: torch.Tensor) -> torch.Tensor:
        given = transition.given
        return fit(given.prior.decode, clean, lambda x: data_loss(given.operator, x, given.y), self.fits, self.lr_z)

    def _in_pixels(self, transition: Transition, clean: torch.Tensor) -> torch.Tensor:
        given, prior = transition.given, transition.given.prior
        start = prior.decode(clean)
        x = fit(lambda x: x, start, lambda x: data_loss(given.operator, x, given.y), self.fits, self.lr_x)
        return prior.encode(x)

    def _resample(self, transition: Transition, clean: torch.Tensor, z_s: torch.Tensor) -> torch.Tensor:
        now, then = transition.now, transition.then
        r2 = self.gamma * then.sigma**2 / now.alpha**2 * step_variance(now, then)
        total = r2 + then.sigma**2
        mean = (r2 * then.alpha * clean + then.sigma**2 * z_s) / total
        return mean + (r2 * then.sigma**2 / total) ** 0.5 * transition.noise("resample")


def fit(
    decode: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor],
    steps: int, lr: float,
) -> torch.Tensor:  # fmt: skip
    """Take ``steps`` Adam steps on loss(decode(v)) [n], summed over particles, from v = ``start`` [n, ...]."""
    v = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([v], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            loss(decode(v)).sum().backward()
            optimiser.step()
    return v.detach()
