"""How near a cheap force is to the exact one, along a run that the exact one moves."""

from __future__ import annotations

from typing import Any

import torch

from rsd.memory import Memory
from rsd.randomness import noise
from rsd.tasks.inverse.solve import Decoded
from scripts.bench.problem import Problem


def cosine(problem: Problem, cheap: Decoded, *, every: int = 1) -> float:
    """Of gamma sigma_t R over all steps, particles and entries together; steps that the cheap force skips are zero, the
    others ``every`` times as strong."""
    run = problem.run(memory="flat")
    interaction, s, prior = run.settings.interaction, run.settings, problem.prior
    dot = exact_square = cheap_square = 0.0
    steps = run.steps()
    for step, t in enumerate(run.timesteps):
        z = run.particles.render()
        sigma = prior.schedule.sigma(t)
        eps = noise(prior.latent_shape, seed=s.seed, purpose="diffusion", step=step, particles=range(s.particles)).to(z)
        z_t = prior.schedule.alpha(t) * z + sigma * eps
        exact = sigma * _force(interaction, run.embed, z_t)
        other = every * sigma * _force(interaction, cheap, z_t) if step % every == 0 else torch.zeros_like(z)
        dot += float((exact * other).sum())
        exact_square, cheap_square = (
            exact_square + float(exact.square().sum()),
            cheap_square + float(other.square().sum()),
        )
        next(steps)
    return dot / max((exact_square * cheap_square) ** 0.5, 1e-30)


def _force(interaction: Any, embed: Any, z_t: torch.Tensor) -> torch.Tensor:
    R, _ = interaction.force(embed, z_t, memory=Memory(1))
    return R
