"""Text to 3D by score distillation (the paper's 3-D experiments, after DreamFusion): scenes that descend, at a timestep
shared by all,

    w(t) [eps_theta(z_t, t, text of the view) - eps_ref - gamma sigma_t R],   w(t) = sigma_t^2

through their renderer. eps_ref is the noise (SDS) or a score learned during the run (VSD) and conditioned on the camera
pose, as in ProlificDreamer (Wang et al. 2023).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from rsd.distributed import Ensemble
from rsd.engine import Embed, Record, distill
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Condition, Prior
from rsd.randomness import Stream
from rsd.reference import LoraScore, Reference, sds
from rsd.reference.noise import make_noise
from rsd.repulsion import Interaction
from rsd.runs.run import Distillation
from rsd.schedule import Schedule
from rsd.spread import Spread

from .options import Settings
from .prompts import ViewPrompts
from .scene.settings import SceneSettings
from .scenes import Scenes


def draw_timesteps(settings: Settings, schedule: Schedule, stream: Stream) -> list[int]:
    """Return a timestep for each step, the same for all scenes and views: drawn uniformly in the range, or straight
    down from the highest; none is above the schedule's last one with a signal."""
    low, high = (min(round(edge * schedule.T), schedule.last) for edge in settings.t_range)
    if settings.timesteps == "annealed":
        return [round(high + (low - high) * step / max(settings.steps - 1, 1)) for step in range(settings.steps)]
    return [int(stream.integers("timestep", low, high, [0], step)) for step in range(settings.steps)]


@dataclass(frozen=True)
class ViewStream(Stream):
    """The random numbers of a run whose views, numbered scene by scene, begin with the same noise: their scene's, and
    mirror-symmetric, so that it decides colours, but not which side a view shows."""

    views: int = 1

    def noise(self, purpose: str, shape: Sequence[int], ids: Sequence[int], step: int = 0) -> torch.Tensor:
        """Draw normal numbers of variance 1, [len(ids), C, h, w]."""
        drawn = super().noise(purpose, shape, [view // self.views for view in ids], step)
        return (drawn + drawn.flip(-1)) / 2**0.5


def count_groups(scenes: Ensemble, settings: SceneSettings) -> int:
    """Return the number of groups that interact: V groups of N pictures, or N of V."""
    return settings.views if settings.interaction == "scenes" else scenes.total


class Run(Distillation):
    """One prompt in progress.

    ``embed``: features of a noisy picture in the prior's space, [N V, d], for the repulsion. ``numbers``: the scenes'
    numbers in the ensemble; ``ensemble``: those of this process. ``image``: selects the run's random numbers. ``plan``:
    plans the memory (:func:`rsd.memory.plan` or ``Plans``).
    All prompts are embedded here; the prior's text encoder may be released afterwards.
    """

    particles: Scenes

    def __init__(
        self, prior: Prior, prompt: str, settings: Settings,
        *, embed: Embed | None = None, image: str = "", numbers: Sequence[int] | None = None,
        ensemble: Ensemble | None = None, plan: Callable[..., Memory] = plan,
    ):  # fmt: skip
        self.prior, self.settings, self.embed = prior, settings, embed
        s = settings
        self.stream = Stream(s.seed, image)
        self.timesteps = draw_timesteps(s, prior.schedule, self.stream)
        self.numbers = list(range(s.particles) if numbers is None else numbers)
        self.ensemble = ensemble or Ensemble.of(len(self.numbers))
        mine = [self.numbers[k] for k in self.ensemble.mine]
        self.prompts = ViewPrompts(prior, prompt, s, seed=s.seed, numbers=mine)
        views = s.views
        self.interaction = Interaction(
            s.gamma, s.window, s.interacting, every=s.repel_every, limit=s.push_limit,
            ensembles=count_groups(self.ensemble, s), on_clean=s.clean,
        )  # fmt: skip
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(self.ensemble.mine) * views, prior=prior,
            condition=next(iter(self.prompts.conditions.values())),
            embed=embed if self.interaction.acts(self.ensemble.total * views) else None,
            through=("epsilon",) if s.method == "vsd" else (),  # adapters learn through the network
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        self.particles = self._scenes(Spread(mine, self.memory, self.ensemble))
        stream = ViewStream(s.seed, image, views) if s.view_noise == "alike" else self.stream
        self.noise = make_noise(
            s.noise, stream, self.particles.spread, prior, self.condition, self.timesteps, steps=s.inversion_steps
        )
        self.reference: Reference = sds
        if s.method == "vsd":
            self.reference = LoraScore(
                prior, lambda: self.condition(guided=False), self.particles.spread, self.stream, lr=s.lr_phi,
                rank=s.lora_rank,
            )  # fmt: skip

    def _scenes(self, spread: Spread) -> Scenes:
        s = self.settings
        return Scenes(self.prior, s, spread, self.stream, steps=s.steps)

    def collect_scenes(self) -> Scenes | None:
        """Return all processes' scenes on the main process, None on the others. Every process calls it."""
        if self.ensemble.alone:
            return self.particles
        here = [{k: v.detach().cpu() for k, v in scene.state_dict().items()} for scene in self.particles.scenes]
        parts = self.ensemble.collect(here)
        if parts is None:
            return None
        scenes = self._scenes(Spread(self.numbers))
        for scene, state in zip(scenes.scenes, itertools.chain(*parts), strict=True):
            scene.load_state_dict(state)
        return scenes

    def condition(self, *, guided: bool = True) -> Condition:
        """Return the condition of the scenes' current views."""
        unit = self.settings.mean_distance  # so that the poses' entries are about 1 in any world
        return self.prompts.condition(self.particles.shot.cameras, self.particles.rows, guided=guided, unit=unit)

    def records(self) -> Iterator[Record]:
        interaction = replace(self.interaction, embed=self.embed)
        return distill(
            self.particles, self.prior, timesteps=self.timesteps, stream=self.stream, condition=self.condition,
            reference=self.reference, noise=self.noise, interaction=interaction, start=self.step,
        )  # fmt: skip
