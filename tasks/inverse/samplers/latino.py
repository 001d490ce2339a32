"""LATINO: a latent consistency inverse solver (Spagnoletti et al. 2025, Algorithm 1): a few steps, and no gradients.

    z_t = alpha_t E(x) + sigma_t n,    u = D(G(z_t, t)),    x = prox(u)
    prox(u) = argmin_x |y - A x|^2 / (2 sigma_v^2) + |x - u|^2 / (2 delta sigma_t^2)

Their G is a consistency model, whose single estimate of z_0 (``ode`` 1) is an image already. Another prior takes a few
DDIM steps of the probability flow, which consistency models learn to jump along. The first z_t is pure noise; the
result is D(E(x)), as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rsd.sampling import Method, StepResult

from ..operators.base import variance
from ..operators.linear import proximal
from .guidance import Transition


@dataclass(frozen=True)
class LATINO(Method):
    """``delta``: weight of the measurement against the denoised image; ``ode``: DDIM steps to the estimate."""

    positive: ClassVar[tuple[str, ...]] = ("delta",)
    renoises: ClassVar[bool] = True
    noise: ClassVar[str | None] = "latino"

    delta: float = 1.0
    ode: int = 1

    @torch.no_grad()
    def step(self, transition: Transition) -> StepResult:
        """Denoise, fit the measurement, add noise."""
        given, now, then = transition.given, transition.now, transition.then
        clean = transition.flow(transition.z, self.ode)
        u = given.prior.decode(clean)
        tau = variance(given.y, given.noise_level) / (self.delta * now.sigma**2)
        z = given.prior.encode(proximal(given.operator, given.y, u, tau))
        fresh = then.sigma * transition.noise("latino") if then.sigma > 0 else 0.0
        return StepResult(then.alpha * z + fresh, clean, u)
