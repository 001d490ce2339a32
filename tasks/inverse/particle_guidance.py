"""Particle Guidance (Corso et al. 2024, Eq. 4) on the posterior score of DPS, whose particles are kept apart.

    eps_i  <-  eps_i - gamma sigma_t grad_{z_t^i} log Phi,      log Phi = - 1/2 sum_{i != j} k_ij

with the kernel on features of D(z_0), the guess (z_t - sigma_t eps) / alpha_t with eps taken as constant. As the DDIM
step is linear in eps, z_s moves by (d z_s / d eps) times that change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rsd.repulsion import Force, Interaction, potential_gradient
from rsd.spread import Spread

from .diffusion import Move, Moved, fresh_noise
from .dps import DPS


@dataclass(frozen=True)
class ParticleGuidance(DPS):
    """DPS's ``zeta`` and ``eta``; the potential's weight gamma and its window are the run's."""

    def couple(
        self, move: Move, moved: Moved, interaction: Interaction, spread: Spread
    ) -> tuple[torch.Tensor, Force | None]:
        """What the potential adds to z_s of all particles here [n, ...] (empty where it does not act), and its
        Force."""
        now, then = move.now, move.then
        if not interaction.active(now.t, move.given.prior.schedule.T, spread.total):
            return torch.zeros(0), None
        assert interaction.embed is not None, "particle guidance needs a feature map"
        pulled, force = potential_gradient(interaction.embed, moved.clean, interaction.groups(spread.total), spread)
        change = -interaction.gamma * now.sigma / now.alpha * pulled
        keep = math.sqrt(max(0.0, then.sigma**2 - fresh_noise(now, then, self.eta) ** 2))
        return (keep - then.alpha * now.sigma / now.alpha) * change, force
