"""Diffusion posterior sampling: DPS (Chung et al. 2023, Algorithm 1), and the same in latent space.

    z_s = ancestral step from z_t  -  zeta grad_{z_t} |y - f(D(z_0(z_t)))|

The paper writes zeta_i grad |.|^2 with zeta_i = zeta' / |.|; as in its published code, zeta here multiplies the
gradient of the norm itself. D is the identity for a prior in pixel space. Latent DPS is the name of Rout et al. (2023),
Eq. 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsd.sampling import Method, StepResult

from .guidance import Transition, guidance


@dataclass(frozen=True)
class DPS(Method):
    """``zeta``: step size of the data term; ``eta``: noise of the DDIM step, 1 for DDPM's."""

    zeta: float = 1.0
    eta: float = 1.0

    def step(self, transition: Transition) -> StepResult:
        """Do the ancestral step, then a step of the data term through the network."""
        clean, eps, x, gradient = guidance(transition)
        return StepResult(transition.ddim(clean, eps, self.eta) - self.zeta * gradient, clean, x)
