"""How near cheap forces are to the exact one, along a run that the exact one moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rsd.spread import Spread
from rsd.tasks.inverse.run import Run
from scripts.bench.problem import Cheap, Problem


def cosines(problem: Problem, cheap: Sequence[Cheap]) -> dict[Cheap, float]:
    """Of sigma_t R over all steps, particles and entries together; steps that a cheap force skips are zero, with
    "every-..." the others so many times as strong."""
    run = problem.run(memory="flat")
    prior = problem.prior
    exact: list[torch.Tensor] = []
    others: dict[Cheap, list[torch.Tensor]] = {name: [] for name in cheap}
    compared = {name: problem.run(name, memory="flat") for name in cheap}
    steps = run.steps()
    for step, t in enumerate(run.timesteps):
        z, sigma = run.particles.render(), prior.schedule.sigma(t)
        eps = run.stream.noise("diffusion", prior.latent_shape, range(run.settings.particles), step).to(z)
        z_t = prior.schedule.alpha(t) * z + sigma * eps
        exact.append(sigma * _force(run, z_t))
        for name, other in compared.items():
            interaction = other.settings.interaction
            acts = interaction.active(t, prior.schedule.T, len(z)) and step % interaction.every == 0
            R = interaction.every * _force(other, z_t) if acts else torch.zeros_like(z)
            others[name].append(sigma * R)
        next(steps)
    whole = torch.stack(exact).flatten()
    return {name: float(torch.cosine_similarity(torch.stack(R).flatten(), whole, dim=0)) for name, R in others.items()}


def _force(run: Run, z_t: torch.Tensor) -> torch.Tensor:
    assert run.embed is not None
    return replace(run.settings.interaction, embed=run.embed).force(z_t, Spread(range(len(z_t))))[0]
