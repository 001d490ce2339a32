"""DAPS: decoupled annealing posterior sampling (Zhang et al. 2025, Algorithm 1), in pixel space and in latent space.

At each noise level, in descending order: a few DDIM steps of the probability flow take z_t to an estimate of z_0;
Langevin steps take that to a sample of  N(z_0; estimate, r_t^2 I) exp(-|y - f(D(z_0))|^2 / (2 tau^2)),  r_t = sigma_t /
alpha_t (Eq. 7, 9); fresh noise takes that to the next level, z_s = alpha_s z_0 + sigma_s n. Their beta_y is tau here.
The step size falls linearly to ``lr_end`` of its first value and is at most r_t^2 / 2, above which Langevin steps are
unstable. With a momentum mu the steps are those of the authors' later code, which calls them Hamiltonian Monte Carlo:

    v <- mu v + sqrt(lr) grad log p(z) + sqrt(2 (1 - mu)) n,    z <- z + sqrt(lr) v

In the long run they move like Langevin steps of size lr / (1 - mu), but are stable where steps of that size are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rsd.sampling import Method, StepResult

from ..operators.base import variance
from .guidance import Transition, norm


@dataclass(frozen=True)
class DAPS(Method):
    """``ode``: DDIM steps to the estimate; ``langevin``: Langevin steps of size ``lr``; ``tau``: assumed standard
    deviation of the measurement; ``momentum``: mu, 0 (Langevin) to below 1. Raise ValueError for another momentum."""

    positive: ClassVar[tuple[str, ...]] = ("lr", "lr_end", "tau")
    renoises: ClassVar[bool] = True
    noise: ClassVar[str | None] = "anneal"

    ode: int = 5
    langevin: int = 100
    lr: float = 5e-5
    lr_end: float = 0.01
    tau: float = 0.01
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum of DAPS is {self.momentum}; give 0 or more, and less than 1.")

    def step(self, transition: Transition) -> StepResult:
        """Estimate z_0, sample by Langevin steps, add noise."""
        with torch.no_grad():
            guess = transition.flow(transition.z, self.ode)
        drawn = self._langevin(transition, guess)
        with torch.no_grad():
            x = transition.given.prior.decode(drawn)
        then = transition.then
        fresh = then.sigma * transition.noise("anneal") if then.sigma > 0 else 0.0
        return StepResult(then.alpha * drawn + fresh, drawn, x)

    def _langevin(self, transition: Transition, guess: torch.Tensor) -> torch.Tensor:
        r = transition.now.sigma / transition.now.alpha
        lr = min(self.lr * (1 + (self.lr_end - 1) * transition.step / transition.steps), r**2 / 2)
        noises = transition.noise("langevin", (self.langevin, *guess.shape[1:])).unbind(1)
        z, v = guess, transition.noise("velocity")
        for n in noises:
            z = z.detach().requires_grad_()
            with torch.enable_grad():
                misfit = norm(transition.given.misfit(transition.given.prior.decode(z)))
                energy = misfit.square() / (2 * variance(transition.given.y, self.tau))
                energy = energy + (z - guess).square().flatten(1).sum(1) / (2 * r**2)
                (gradient,) = torch.autograd.grad(energy.sum(), z)
            # One Langevin step, with momentum.
            v = self.momentum * v - math.sqrt(lr) * gradient + math.sqrt(2 * (1 - self.momentum)) * n
            z = z + math.sqrt(lr) * v
        return z.detach()
