"""PiGDM: pseudoinverse-guided diffusion (Song et al. 2023), for linear operators.

With p(z_0 | z_t) approximated by N(z_0(z_t), r_t^2 I), r_t^2 = sigma_t^2 / (alpha_t^2 + sigma_t^2),

    g = grad_{z_t} log p(y | z_t) = J^T A^T (r_t^2 A A^T + sigma_v^2 I)^-1 (y - A z_0(z_t)),   J = d z_0/d z_t  (Eq. 7)

``adaptive`` is their Algorithm 1: z_s = DDIM step + alpha_s alpha_t r_t^2 g, whose weight suits few steps. Without it
g is added to the score, eps <- eps - sigma_t g, and the DDIM step is taken from that: with many steps and a prior
N(0, I), for which r_t is right, that samples the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rsd.sampling import Method, StepResult

from ..operators.base import variance
from ..operators.linear import solve_gram
from .guidance import Transition


@dataclass(frozen=True)
class PiGDM(Method):
    """``eta``: noise of the DDIM step; ``adaptive``: the paper's weight of g instead of the score's own."""

    eta: float = 1.0
    adaptive: bool = True

    def step(self, transition: Transition) -> StepResult:
        """Do the guided DDIM step."""
        prior, operator, now = transition.given.prior, transition.given.operator, transition.now
        z = transition.z.detach().requires_grad_()
        with torch.enable_grad():
            eps = transition.epsilon(z)
            clean = transition.clean(z, eps)
            x = prior.decode(clean)
            guess = x.detach()
            misfit, plus = transition.given.misfit(guess), variance(transition.given.y, transition.given.noise_level)
            pull = operator.adjoint(solve_gram(operator, misfit, guess, times=now.variance, plus=plus), guess)
            (g,) = torch.autograd.grad(x, z, pull)
        clean, eps = clean.detach(), eps.detach()
        if self.adaptive:
            z_s = transition.ddim(clean, eps, self.eta) + transition.then.alpha * now.alpha * now.variance * g
        else:
            eps = eps - now.sigma * g
            z_s = transition.ddim(transition.clean(transition.z, eps), eps, self.eta)
        return StepResult(z_s, clean, guess)
