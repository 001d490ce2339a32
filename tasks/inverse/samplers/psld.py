"""PSLD: posterior sampling with latent diffusion (Rout et al. 2023, Algorithm 2), for linear operators.

    z_s = DDIM step from z_t  -  omega grad |y - A D(z_0)|  -  gamma grad |z_0 - E(A^T y + (I - A^T A) D(z_0))|

with gradients in z_t: the second, "gluing", term favours latents that the autoencoder reproduces after the decoded
image is glued to the measurement. If A A^T = c, as with block averages, A^T / c replaces A^T, since only that glues the
image; the published code upsamples images there, which is the same. The norms are not squared, as in that code.
omega is the paper's eta.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rsd.sampling import Method, StepResult

from ..operators.base import Operator
from .guidance import Transition, norm


@dataclass(frozen=True)
class PSLD(Method):
    """``omega``, ``gamma``: step sizes of the data term and of the gluing term; ``eta``: noise of the DDIM step."""

    omega: float = 1.0
    gamma: float = 0.1
    eta: float = 1.0

    def step(self, transition: Transition) -> StepResult:
        """Do the DDIM step, then a step of both terms through the networks."""
        prior, operator = transition.given.prior, transition.given.operator
        z = transition.z.detach().requires_grad_()
        with torch.enable_grad():
            eps = transition.epsilon(z)
            clean = transition.clean(z, eps)
            x = prior.decode(clean)
            misfit = transition.given.misfit(x)
            distance = norm(misfit)
            gluing = norm(clean - prior.encode(glued(operator, x, misfit)))
            (gradient,) = torch.autograd.grad((self.omega * distance + self.gamma * gluing).sum(), z)
        clean, eps = clean.detach(), eps.detach()
        return StepResult(transition.ddim(clean, eps, self.eta) - gradient, clean, x.detach())


def glued(operator: Operator, x: torch.Tensor, misfit: torch.Tensor) -> torch.Tensor:
    """Return x + A^T (y - A x) [n, 3, H, W], with A^T divided by c if A A^T = c is known. ``misfit``: y - A x [n,
    ...]."""
    return x + operator.adjoint(misfit, x) / (operator.gram_scale or 1.0)
