"""Samplers to compare distillation with, on the same prior: ancestral Euler, and Particle Guidance on top of it.

Ancestral Euler (Karras et al. 2022's sigma = sigma_t / alpha_t, k-diffusion's ancestral step; the numbers of diffusers'
``EulerAncestralDiscreteScheduler``) on x = z_t / alpha_t, from sigma to sigma':

    up   = sigma' sqrt(sigma^2 - sigma'^2) / sigma,   down = sqrt(sigma'^2 - up^2)
    x'   = x + (down - sigma) eps + up noise

Particle Guidance (Corso et al. 2024, "Particle Guidance: non-I.I.D. Diverse Sampling with Diffusion Models", ICLR) adds
the gradient of a joint log potential to every particle's score in the reverse SDE; where eps = -sigma_t score, that is

    eps_i  <-  eps_i - gamma sigma_t grad_{z_i} log Phi,    log Phi = - 1/2 sum_{i != j} k_ij    (their fixed potential)

with the RBF kernel and median bandwidth of :mod:`rsd.repulsion`. Their potential is a sum of kernels, where repulsive
distillation has the log of the sum: the same direction, times sum_{j != i} k_ij. As in their experiments with DINO, the
features are those of the *predicted clean* latent (z_t - sigma_t eps) / alpha_t, the prediction eps taken as constant.
Where those predictions all but agree (pure noise, a weak prior) the kernel is narrow and the force large; a window of
the interaction, as (0, 0.9), leaves those steps out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from rsd.distributed import Ensemble
from rsd.engine import Embed, Record, mean_square
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Condition, Prior, predict
from rsd.randomness import noise
from rsd.repulsion import Interaction, potential_gradient
from rsd.runs.run import Run as BaseRun
from rsd.schedule import Schedule

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
        self.prior, self.settings, self.embed, self.image = prior, settings, embed, image
        s = settings
        ids = list(range(s.particles)) if ids is None else list(ids)
        self.ensemble = ensemble or Ensemble.of(len(ids))
        ids = [ids[row] for row in self.ensemble.mine]
        self.timesteps = ancestral_timesteps(prior.schedule, s.steps)
        self.condition = prior.condition(prompt, s.negative_prompt, s.guidance)
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None,
            state=2 * math.prod(prior.latent_shape) * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        first = self.timesteps[0]
        self.particles = Samples(prior, ids=ids, first=first, seed=s.seed, image=image, memory=self.memory)

    def records(self) -> Iterator[Record]:
        s = self.settings
        return sample(
            self.particles, self.prior, timesteps=self.timesteps, seed=s.seed, image=self.image,
            condition=self.condition, interaction=s.interaction, embed=self.embed, memory=self.memory, start=self.step,
            ensemble=self.ensemble,
        )  # fmt: skip


def ancestral_timesteps(schedule: Schedule, steps: int = 30) -> list[int]:
    """``steps`` timesteps evenly from T-1 down to 0 (diffusers' default spacing "linspace"), rounded to whole ones.

    The same as diffusers' where steps - 1 divides T - 1 (28 at T = 1000), else within half a timestep of them. A
    schedule with zero terminal SNR starts below T-1, where sigma/alpha is finite; one step is taken from there.
    Raises ValueError if ``steps`` is not in 1..T.
    """
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps is {steps}; give 1 to {schedule.T}, the number of timesteps of this prior.")
    first = schedule.descending(1)[0]
    spaced = np.linspace(schedule.T - 1, 0, steps).round().astype(int).tolist()
    return [min(t, first) for t in spaced]


class Samples:
    """Latents on their way from noise to images: ``x`` = z_t / alpha_t, and ``clean``, the prior's guess of where they
    go, both [N, *latent_shape].

    ``ids``: the particles' numbers in the whole ensemble; their noise depends on (seed, image, number, step) alone.
    ``first``: the timestep that the run starts at.
    """

    def __init__(
        self, prior: Prior, *, ids: Sequence[int], first: int, seed: int, image: str = "", memory: Memory | None = None
    ):
        self.prior, self.ids, self.memory = prior, list(ids), memory or Memory()
        drawn = noise(prior.latent_shape, seed=seed, purpose="initial z", image=image, particles=self.ids)
        self.clean = drawn.to(prior.device, prior.dtype)
        self.x = self.clean * prior.schedule.noise(first)

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """D of the guess, [N, 3, H, W]; after the last step it is the result, before the first it is noise."""
        return torch.cat(self.memory.each(len(self.ids), lambda rows: self.prior.decode(self.clean[rows])))

    def finish(self) -> torch.Tensor:
        """The result [N, 3, H, W]."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"x": self.x, "clean": self.clean}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.x, self.clean = (state[name].to(self.x) for name in ("x", "clean"))


def sample(
    samples: Samples,
    prior: Prior,
    *,
    timesteps: Sequence[int],
    seed: int,
    image: str = "",
    condition: Condition | None = None,
    interaction: Interaction = Interaction(),
    embed: Embed | None = None,
    memory: Memory | None = None,
    start: int = 0,
    ensemble: Ensemble | None = None,
) -> Iterator[Record]:
    """Run steps ``start`` .. len(timesteps)-1, yielding a Record after each, as :func:`rsd.engine.distill` does.

    No interaction (gamma = 0) is ancestral sampling; with one it is Particle Guidance. ``embed``: latents [n, C, h, w]
    to features [n, d], given predicted clean latents. ``memory``: how many particles a network
    sees at once, by default all, and which graphs are kept; results differ by rounding alone. In the records
    ``residual`` is the size of the prior's guided eps, ``repulsion`` that of what the potential takes from it.
    """
    n, schedule = len(samples.ids), prior.schedule
    memory = memory or Memory()
    ensemble = ensemble or Ensemble.of(n)
    members = interaction.groups(ensemble.total).flatten()
    rows, _ = ensemble.among(members)
    for step in range(start, len(timesteps)):
        t = timesteps[step]
        alpha, sigma, level = schedule.alpha(t), schedule.sigma(t), schedule.noise(t)
        target = schedule.noise(timesteps[step + 1]) if step + 1 < len(timesteps) else 0.0
        with torch.no_grad():
            eps = torch.cat(memory.each(n, partial(predict, prior, alpha * samples.x, t, condition)))
        squares, force = {"residual": (mean_square(eps), n), "repulsion": (0.0, n)}, None
        if interaction.active(t, schedule.T, ensemble.total):
            assert embed is not None, "particle guidance needs a feature map"
            guess = (samples.x - level * eps)[rows]
            pulled, force = potential_gradient(
                embed, guess, interaction.ensembles, memory=memory, members=members, ensemble=ensemble
            )
            change = interaction.gamma * sigma / alpha * pulled  # d guess / d z_t = 1 / alpha
            eps[rows] -= change
            squares["repulsion"] = mean_square(change), len(change)
        up = target * max(level**2 - target**2, 0.0) ** 0.5 / level
        down = max(target**2 - up**2, 0.0) ** 0.5
        samples.clean = samples.x - level * eps
        samples.x = samples.x + (down - level) * eps
        if up > 0:
            fresh = noise(
                prior.latent_shape, seed=seed, purpose="ancestral", image=image, step=step, particles=samples.ids
            )
            samples.x = samples.x + up * fresh.to(samples.x)
        residual, push = map(math.sqrt, ensemble.means(squares).values())
        yield Record(
            step=step, t=t, losses={}, residual=residual, repulsion=push, ratio=push / max(residual, 1e-12),
            bandwidth=force.bandwidth if force else None, distance=force.distance if force else None,
        )  # fmt: skip
