"""Samplers to compare distillation with, on the same prior: ancestral Euler, and Particle Guidance on top of it.

Ancestral Euler (Karras et al. 2022's sigma = sigma_t / alpha_t, k-diffusion's ancestral step; the numbers of diffusers'
``EulerAncestralDiscreteScheduler``) is the DDIM step with eta 1 of :mod:`rsd.sampling`, from sigma_T n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rsd.distributed import Ensemble
from rsd.engine import Embed, Record
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.runs.run import Run as BaseRun
from rsd.sampling import (
    Chain,
    Coupling,
    Denoiser,
    Level,
    Method,
    StepResult,
    Transition,
    levels,
    particle_guidance,
    sample,
)
from rsd.schedule import Schedule
from rsd.spread import Spread

from .options import SamplerSettings as Settings


class Run(BaseRun):
    """One prompt in progress, used as the distillation's: iterate over :meth:`steps`, look at :attr:`particles`, then
    :meth:`finish`.

    ``embed``: features of a latent, [N, d], for particle guidance. ``ids``: the particles' numbers in the ensemble;
    ``ensemble``: which of them are here, where several processes share them. ``image``: names the run in the random
    numbers. ``plan``: as the distillation's. The prompts are embedded here: the prior's text encoder may be released
    afterwards.
    """

    def __init__(
        self, prior: Prior, prompt: str, settings: Settings,
        *, embed: Embed | None = None, image: str = "", ids: Sequence[int] | None = None,
        ensemble: Ensemble | None = None, plan: Callable[..., Memory] = plan,
    ):  # fmt: skip
        self.prior, self.settings, self.embed = prior, settings, embed
        s = settings
        self.stream = Stream(s.seed, image)
        ids = list(range(s.particles)) if ids is None else list(ids)
        self.ensemble = ensemble or Ensemble.of(len(ids))
        ids = [ids[row] for row in self.ensemble.mine]
        self.levels = ancestral_levels(prior.schedule, s.steps)
        self.condition = prior.condition(prompt, s.negative_prompt, s.guidance)
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None,
            state=2 * math.prod(prior.latent_shape) * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        spread = Spread(ids, self.memory, self.ensemble)
        self.particles = Chain(prior, spread, self.stream, scale=self.levels[0].sigma)

    def records(self) -> Iterator[Record]:
        interaction = replace(self.settings.interaction, embed=self.embed)
        given = Denoiser(self.prior, self.condition, self.stream)
        return sample(self.particles, Ancestral(), given, levels=self.levels, interaction=interaction, start=self.step)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; that of an older version kept z / alpha as ``x``."""
        if "x" in state:
            state = {**state, "z": self.levels[int(state["step"])].alpha * state["x"]}
        super().load_state(state)


@dataclass(frozen=True)
class Ancestral(Method):
    """DDPM's ancestral step; particles that interact are kept apart by Particle Guidance."""

    def step(self, transition: Transition[Any]) -> StepResult:
        """Denoise, and go to the next level with new noise."""
        eps = transition.epsilon(transition.z)
        clean = transition.clean(transition.z, eps)
        return StepResult(transition.ddim(clean, eps, eta=1.0, purpose="ancestral"), clean)

    def couple(
        self, transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread
    ) -> Coupling | None:
        """The potential's push; the record tells what it takes from the prior's eps."""
        pushed = particle_guidance(transition, result, interaction, spread, eta=1.0)
        return pushed and replace(pushed, change=pushed.eps)


def ancestral_levels(schedule: Schedule, steps: int = 30) -> list[Level]:
    """The noise levels of :func:`ancestral_timesteps`, and the end."""
    return levels(schedule, ancestral_timesteps(schedule, steps))


def ancestral_timesteps(schedule: Schedule, steps: int = 30) -> list[int]:
    """``steps`` timesteps evenly from T-1 down to 0 (diffusers' default spacing "linspace"), rounded to whole ones.

    The same as diffusers' where steps - 1 divides T - 1 (28 at T = 1000), else within half a timestep of them. A
    schedule with zero terminal SNR starts below T-1, where sigma/alpha is finite; one step is taken from there.
    Raises ValueError if ``steps`` is not in 1..T.
    """
    schedule.check_steps(steps)
    spaced = np.linspace(schedule.T - 1, 0, steps).round().astype(int).tolist()
    return [min(t, schedule.last) for t in spaced]
