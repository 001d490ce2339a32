"""Text to image by score distillation (the paper's D.10.2): latents z_i ~ N(0, I) that descend

    w(t) [eps_theta(z_t^i, t, text) - eps_ref - gamma sigma_t R_i],   w(t) = sigma_t^2

with Adam. The method chooses eps_ref: the noise (SDS), a score learned during the run (VSD), NFSD's, or the noise with
scores averaged over the particles (SVGD, the update of collaborative score distillation).

Particles are coupled only by the force and by VSD's shared adapters; otherwise a particle does not depend on N.
Gradients are not averaged over entries, so Adam's eps of 1e-8 has no effect.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rsd.distributed import Ensemble
from rsd.engine import Average, Embed, Record, distill
from rsd.latents import Leaves
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Condition, Prior
from rsd.randomness import Stream
from rsd.reference import NFSD, LoraScore, Reference, UNetScore, sds
from rsd.reference.noise import Reused, make_noise
from rsd.runs.run import Distillation
from rsd.schedule import Schedule
from rsd.spread import Spread

from .options import Settings


def draw_timesteps(
    settings: Settings, schedule: Schedule, *, ids: Sequence[int], stream: Stream
) -> list[int] | list[torch.Tensor]:
    """Return the timestep of each step, an int or int64 [N], none of them above the schedule's last one with a signal.
    Raise ValueError for a range outside 0 .. T-1."""
    low, high = settings.t_range
    if not 0 <= low <= high < schedule.T:
        last = schedule.T - 1
        raise ValueError(f"t_range is {low} to {high}; it must lie in 0 to {last}, the timesteps of this prior.")
    low, high = min(low, schedule.last), min(high, schedule.last)
    steps = settings.steps
    if settings.timesteps == "annealed":
        return [round(high + (low - high) * step / max(steps - 1, 1)) for step in range(steps)]
    particles = list(ids) if settings.t_per_particle else [0]
    drawn = [stream.integers("timestep", low, high, particles, step) for step in range(steps)]
    return drawn if settings.t_per_particle else [int(t) for t in drawn]


class Latents:
    """The particles z_i, with Adam (0.9, 0.999). ``ddim``: with DDIM's step, sigma_t/alpha_t r, instead."""

    def __init__(self, prior: Prior, spread: Spread, stream: Stream, *, lr: float, ddim: bool = False):
        self.prior, self.spread, self.ddim = prior, spread, ddim
        drawn = stream.noise("initial z", prior.latent_shape, spread.ids).to(prior.device, prior.dtype)
        self.z = Leaves(drawn, lr=lr, betas=(0.9, 0.999))

    def render(self) -> torch.Tensor:
        """Return z [N, *latent_shape], a copy without gradient."""
        return self.z.values

    def step(self, r: torch.Tensor, t: int | torch.Tensor, average: Average) -> dict[str, float]:
        """Descend w(t) r, or take DDIM's step; t is an int or [N]."""
        schedule = self.prior.schedule
        if self.ddim:
            alpha, sigma = schedule.coefficients(t, r)
            self.z.put(self.z.values - sigma / alpha * r)
        else:
            self.z.descend(schedule.weight(t, r) * r)
        return {}

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """Return D(z) [N, 3, H, W]."""
        return self.spread.cat(lambda rows: self.prior.decode(self.z[rows]))

    def finish(self) -> torch.Tensor:
        """Return the result [N, 3, H, W]."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return self.z.state("z")

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.z.load_state(state, "z")


def nfsd_negative(prior: Prior, negative_prompt: str) -> Condition | None:
    """Return the condition of NFSD's negative term, by default its paper's words; None for a prior without text."""
    if prior.condition().embeddings is None:
        return None
    with warnings.catch_warnings():
        if not negative_prompt:  # do not warn that the default is too long for some priors
            warnings.simplefilter("ignore")
        return prior.condition(negative_prompt or NFSD.NEGATIVE)


def make_reference(prior: Prior, prompt: str, settings: Settings, spread: Spread, stream: Stream) -> Reference:
    """Return the method's eps_ref."""
    s = settings
    if s.method == "nfsd":
        return NFSD(prior, nfsd_negative(prior, s.negative_prompt), spread)
    if s.method != "vsd":
        return sds
    text = prior.condition(prompt)
    if s.score == "unet":
        return UNetScore(prior, text, spread, stream, lr=s.lr_phi)
    return LoraScore(prior, text, spread, stream, lr=s.lr_phi, rank=s.lora_rank, per_particle=s.score == "lora-each")


class Run(Distillation):
    """One prompt in progress: iterate over :meth:`steps`, read :attr:`particles`, then :meth:`finish`.

    ``embed``: features of a latent, [N, d], for the interaction. ``ids``: the particles' numbers in the ensemble;
    ``ensemble``: those of this process. ``image``: selects the run's random numbers. ``plan``: plans the memory
    (:func:`rsd.memory.plan` or ``Plans``). All prompts are embedded here; the prior's text encoder may be released
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
        ids = list(range(s.drawn)) if ids is None else list(ids)
        self.ensemble = ensemble or Ensemble.of(len(ids))
        self.timesteps = draw_timesteps(s, prior.schedule, ids=ids, stream=self.stream)
        ids = [ids[row] for row in self.ensemble.mine]
        self.condition: Condition = prior.condition(prompt, "" if s.method == "nfsd" else s.negative_prompt, s.guidance)
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None,
            through=("epsilon",) if s.method == "vsd" and s.score != "unet" else (),  # adapters learn through the UNet
            state=(3 + (s.noise in ("reused", "carried"))) * math.prod(prior.latent_shape) * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        spread = Spread(ids, self.memory, self.ensemble)
        self.reference = make_reference(prior, prompt, s, spread, self.stream)
        self.noise = make_noise(
            s.noise, self.stream, spread, prior, self.condition, self.timesteps, steps=s.inversion_steps
        )
        self.sampled = self.noise if isinstance(self.noise, Reused) else Reused(self.stream, spread)
        self.particles = Latents(prior, spread, self.stream, lr=s.lr, ddim=s.optimiser == "ddim")

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint, including the noise below ``sample_below``."""
        return {**super().state(), "sampled": self.sampled.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        super().load_state(state)
        self.sampled.load_state(state.get("sampled", {}))

    def records(self) -> Iterator[Record]:
        s, run = self.settings, partial(distill, self.particles, self.prior, stream=self.stream)
        interaction = replace(s.interaction, embed=self.embed)
        last = sum(t >= s.sample_below * self.prior.schedule.T for t in self.timesteps) if s.sample_below else s.steps
        yield from run(
            timesteps=self.timesteps[:last], condition=self.condition, reference=self.reference, noise=self.noise,
            interaction=interaction, start=self.step,
        )  # fmt: skip
        if last < s.steps:  # the DDIM sampler: SDS with the particle's own noise and DDIM's steps
            self.particles.ddim = True
            yield from run(
                timesteps=self.timesteps, condition=self.condition, noise=self.sampled, start=max(last, self.step)
            )
