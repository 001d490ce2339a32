"""Samplers: ancestral Euler, Particle Guidance on top of it, and the deterministic Euler steps of flow models.

Ancestral Euler (k-diffusion's ancestral step with Karras et al. 2022's sigma = sigma_t / alpha_t; equal to diffusers'
``EulerAncestralDiscreteScheduler``) is the DDIM step with eta 1 of :mod:`rsd.sampling`, started from sigma_T n.

Deterministic Euler is the DDIM step with eta 0: for a flow, the step of diffusers' ``FlowMatchEulerDiscreteScheduler``.
Its noise levels are those of FLUX's pipeline, s = 1, 1 - 1/n ... 1/n before the shift, which few-step models need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from rsd.distributed import Ensemble
from rsd.engine import Embed, Record
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.runs.run import Run as BaseRun
from rsd.sampling import (
    Chain,
    Denoiser,
    Level,
    Method,
    Push,
    StepResult,
    Transition,
    levels,
    reaching,
    sample,
)
from rsd.schedule import Schedule
from rsd.spread import Spread

from .options import SamplerSettings as Settings


class Run(BaseRun):
    """One prompt in progress: iterate over :meth:`steps`, read :attr:`particles`, then :meth:`finish`.

    The arguments are those of :class:`.distillation.Run`; ``embed`` is for Particle Guidance.
    """

    def __init__(
        self, prior: Prior, prompt: str, settings: Settings,
        *, embed: Embed | None = None, image: str = "", ids: Sequence[int] | None = None,
        ensemble: Ensemble | None = None, plan: Callable[..., Memory] = plan,
    ):  # fmt: skip
        self.prior, self.settings, self.embed = prior, settings, embed
        s = settings
        self.stream = Stream(s.seed, image)
        ids = list(range(s.drawn)) if ids is None else list(ids)
        self.ensemble = ensemble or Ensemble.of(len(ids))
        ids = [ids[row] for row in self.ensemble.mine]
        self.sampler = Euler() if s.method == "euler" else Ancestral()
        self.levels = self.sampler.levels(prior.schedule, s.steps)
        self.interaction = reaching(self.sampler.kind(s.interaction), self.levels, prior.schedule, self.ensemble.total)
        self.condition = prior.condition(prompt, s.negative_prompt, s.guidance)
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None,
            state=2 * math.prod(prior.latent_shape) * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        spread = Spread(ids, self.memory, self.ensemble)
        self.particles = Chain(prior, spread, self.stream, scale=self.levels[0].sigma)

    def log_weights(self) -> torch.Tensor:
        return self.ensemble.gather(self.particles.log_weights.to(self.prior.device).float(), what="weights")

    def records(self) -> Iterator[Record]:
        interaction = replace(self.interaction, embed=self.embed)
        given = Denoiser(self.prior, self.condition, self.stream)
        return sample(self.particles, self.sampler, given, levels=self.levels, interaction=interaction, start=self.step)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``; older versions stored z / alpha as ``x``."""
        if "x" in state:
            state = {**state, "z": self.levels[int(state["step"])].alpha * state["x"]}
        super().load_state(state)


@dataclass(frozen=True)
class Euler(Method):
    """The deterministic step; interacting particles repel one another (:func:`rsd.sampling.repel`)."""

    noise: ClassVar[str | None] = None

    eta: float = 0.0

    def step(self, transition: Transition[Any]) -> StepResult:
        """Denoise, then go to the next noise level without new noise."""
        eps = transition.epsilon(transition.z)
        clean = transition.clean(transition.z, eps)
        return StepResult(transition.ddim(clean, eps, eta=0.0), clean)

    def kind(self, interaction: Interaction) -> Interaction:
        """Return the interaction as the sampler uses it."""
        return interaction


@dataclass(frozen=True)
class Ancestral(Method):
    """DDPM's ancestral step; interacting particles repel one another by Particle Guidance."""

    noise: ClassVar[str | None] = "ancestral"

    def levels(self, schedule: Schedule, steps: int) -> list[Level]:
        """Return :func:`ancestral_levels`."""
        return ancestral_levels(schedule, steps)

    def kind(self, interaction: Interaction) -> Interaction:
        """Return the interaction as Particle Guidance's potential."""
        return replace(interaction, kind="potential")

    def step(self, transition: Transition[Any]) -> StepResult:
        """Denoise, then go to the next noise level with new noise."""
        eps = transition.epsilon(transition.z)
        clean = transition.clean(transition.z, eps)
        return StepResult(transition.ddim(clean, eps, eta=1.0, purpose="ancestral"), clean)

    def push(
        self, transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread
    ) -> Push | None:
        """Return the potential's force; the record has its share of the prior's eps."""
        pushed = super().push(transition, result, self.kind(interaction), spread)
        return pushed and replace(pushed, change=pushed.eps)


def ancestral_levels(schedule: Schedule, steps: int = 30) -> list[Level]:
    """Return the noise levels of :func:`ancestral_timesteps`, and the final one."""
    return levels(schedule, ancestral_timesteps(schedule, steps))


def ancestral_timesteps(schedule: Schedule, steps: int = 30) -> list[int]:
    """Return ``steps`` evenly spaced integers from T-1 down to 0 (diffusers' default spacing "linspace").

    They equal diffusers' if steps - 1 divides T - 1 (28 at T = 1000), else they differ by at most half a timestep. A
    schedule with zero terminal SNR starts below T-1, where sigma/alpha is finite.
    Raises ValueError if ``steps`` is not in 1..T.
    """
    schedule.check_steps(steps)
    spaced = np.linspace(schedule.T - 1, 0, steps).round().astype(int).tolist()
    return [min(t, schedule.last) for t in spaced]
