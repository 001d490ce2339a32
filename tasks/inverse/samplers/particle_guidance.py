"""Particle Guidance (Corso et al. 2024; :func:`rsd.sampling.repel`) on the posterior score of DPS.

The kernel is on features of D(z_0), the denoised estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsd.repulsion import Interaction
from rsd.sampling import Push, StepResult
from rsd.spread import Spread

from .dps import DPS
from .guidance import Transition


@dataclass(frozen=True)
class ParticleGuidance(DPS):
    """DPS's ``zeta`` and ``eta``; the potential's weight gamma and window are the run's settings."""

    def push(self, transition: Transition, result: StepResult, interaction: Interaction, spread: Spread) -> Push | None:
        """Return the potential's update; the record reports how far it moves z_s."""
        return super().push(transition, result, replace(interaction, kind="potential"), spread)
