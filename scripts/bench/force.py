"""How near cheap forces are to the exact one, along a run that the exact one moves."""

from __future__ import annotations

from typing import Any

import torch

from rsd.memory import Memory
from rsd.randomness import noise
from rsd.tasks.inverse.solve import Decoded
from scripts.bench.problem import Problem

Compared = tuple[Decoded, int]
"""What is compared instead, and at every which step."""


def cosines(problem: Problem, cheap: dict[str, Compared]) -> dict[str, float]:
    """Of sigma_t R over all steps, particles and entries together; steps that a cheap force skips are zero, the others
    so many times as strong."""
    run = problem.run(memory="flat")
    interaction, s, prior = run.settings.interaction, run.settings, problem.prior
    exact: list[torch.Tensor] = []
    others: dict[str, list[torch.Tensor]] = {name: [] for name in cheap}
    steps = run.steps()
    for step, t in enumerate(run.timesteps):
        z, sigma = run.particles.render(), prior.schedule.sigma(t)
        eps = noise(prior.latent_shape, seed=s.seed, purpose="diffusion", step=step, particles=range(s.particles)).to(z)
        z_t = prior.schedule.alpha(t) * z + sigma * eps
        exact.append(sigma * _force(interaction, run.embed, z_t))
        for name, (embed, every) in cheap.items():
            R = _force(interaction, embed, z_t) if step % every == 0 else torch.zeros_like(z)
            others[name].append(every * sigma * R)
        next(steps)
    whole = torch.stack(exact).flatten()
    return {name: float(torch.cosine_similarity(torch.stack(R).flatten(), whole, dim=0)) for name, R in others.items()}


def _force(interaction: Any, embed: Any, z_t: torch.Tensor) -> torch.Tensor:
    R, _ = interaction.force(embed, z_t, memory=Memory())
    return R
