"""Particle Guidance (Corso et al. 2024, Eq. 4) on the posterior score of DPS, whose particles are kept apart.

    eps_i  <-  eps_i - gamma sigma_t grad_{z_t^i} log Phi,      log Phi = - 1/2 sum_{i != j} k_ij

with the kernel on features of D(z_0), the guess (z_t - sigma_t eps) / alpha_t with eps taken as constant. As the DDIM
step is linear in eps, z_s moves by (d z_s / d eps) times that change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rsd.distributed import Ensemble
from rsd.memory import Memory
from rsd.repulsion import Force, Interaction, potential_gradient

from .dps import DPS
from .guidance import Move, Moved, fresh_noise


@dataclass(frozen=True)
class ParticleGuidance(DPS):
    """DPS's ``zeta`` and ``eta``; the potential's weight gamma and its window are the run's."""

    def couple(
        self, move: Move, moved: Moved, interaction: Interaction, *, memory: Memory, ensemble: Ensemble
    ) -> tuple[torch.Tensor, Force | None]:
        """What the potential adds to z_s of all particles here [n, ...] (empty where it does not act), and its
        Force."""
        now, then, embed = move.now, move.then, move.given.embed
        if not interaction.active(now.t, move.given.prior.schedule.T, ensemble.total):
            return torch.zeros(0), None
        assert embed is not None, "particle guidance needs a feature map"
        members = interaction.groups(ensemble.total).flatten()
        pulled, force = potential_gradient(embed, moved.clean, memory=memory, members=members, ensemble=ensemble)
        change = -interaction.gamma * now.sigma / now.alpha * pulled
        keep = math.sqrt(max(0.0, then.sigma**2 - fresh_noise(now, then, self.eta) ** 2))
        return (keep - then.alpha * now.sigma / now.alpha) * change, force
