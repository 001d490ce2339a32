"""Restoration as a Python API: ``rsd.restore(y, operator)``, and the pieces under it for people's own loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rsd.engine import Embed, Record, distill
from rsd.priors import load_prior
from rsd.priors.base import Prior
from rsd.repulsion import Interaction
from rsd.run import Run as BaseRun
from rsd.settings import known

from .names import METHODS
from .operators import Operator
from .rlsd import Augmented, NonAugmented, Weights


@dataclass(frozen=True)
class Settings:
    """What one restoration runs with; the defaults suit the built-in prior's half-face task (see configs/inverse)."""

    method: str = "rlsd"
    particles: int = 4
    steps: int = 100
    gamma: float = 6.0
    window: tuple[float, float] = (0.0, 1.0)
    interacting: int | None = None
    lambda_: float = 0.2
    rho: float = 0.075
    lr_x: float = 0.2
    lr_z: float = 0.4
    prompt: str = ""
    negative_prompt: str = ""
    guidance: float = 1.0
    seed: int = 0
    chunk: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown method."""
        if self.method not in METHODS:
            raise known("method", self.method, METHODS)

    @property
    def interaction(self) -> Interaction:
        """The method's repulsion: none for nonrepuls and latent-red-diff, among a part of the particles for hybrid."""
        gamma = 0.0 if self.method in ("nonrepuls", "latent-red-diff") else self.gamma
        part = self.interacting or max(self.particles - 1, 1)
        return Interaction(gamma, self.window, part if self.method == "hybrid" else None)


@dataclass(frozen=True)
class Restoration:
    """``images`` [N, 3, H, W] in [-1, 1] (not clamped) and the run's records."""

    images: torch.Tensor
    records: list[Record]


class Run(BaseRun):
    """One restoration in progress: iterate over :meth:`steps`, look at :attr:`particles`, then :meth:`finish`.

    ``y``: the measurement, [1, ...], the shape of ``operator(x)``. ``embed``: features of a latent, [N, d], for the
    repulsion. ``ids``: the particles' numbers in the ensemble. ``image``: names the image in the random numbers.
    """

    def __init__(
        self, prior: Prior, operator: Operator, y: torch.Tensor, settings: Settings,
        *, embed: Embed | None = None, image: str = "", ids: Sequence[int] | None = None,
    ):  # fmt: skip
        self.prior, self.settings, self.embed, self.image = prior, settings, embed, image
        s = settings
        weights = Weights(lambda_=s.lambda_, lr_z=s.lr_z, rho=s.rho, lr_x=s.lr_x)
        kind = NonAugmented if s.method in ("nonaug", "latent-red-diff") else Augmented
        ids = list(range(s.particles)) if ids is None else ids
        y = y.to(prior.device)
        self.particles = kind(prior, operator, y, weights, ids=ids, seed=s.seed, image=image, chunk=s.chunk)
        self.timesteps = prior.schedule.descending(s.steps)
        self.condition = prior.condition(s.prompt, s.negative_prompt, s.guidance)

    def records(self) -> Iterator[Record]:
        s = self.settings
        return distill(
            self.particles, self.prior, timesteps=self.timesteps, seed=s.seed, image=self.image,
            condition=self.condition, interaction=s.interaction, embed=self.embed, chunk=s.chunk, start=self.step,
        )  # fmt: skip


def decoded(prior: Prior, features: Callable[[torch.Tensor], torch.Tensor]) -> Embed:
    """Features of the decoded latent, phi = features(D(z_t)): the map the paper repels in."""
    return lambda z: features(prior.decode(z))


def restore(
    y: torch.Tensor,
    operator: Operator,
    *,
    prior: Prior | str = "heads",
    features: Callable[[torch.Tensor], torch.Tensor] | str = "heads",
    settings: Settings = Settings(),
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Restoration:
    """Draw ``settings.particles`` restorations of a measurement ``y = operator(x) + noise`` by RLSD (Algorithm 1).

    y: [1, ...]. operator: see ``rsd.tasks.inverse.operators.make_operator``. prior and features: objects, or names for
    ``load_prior`` and ``load_features``. ``changes``: fields of Settings, e.g. ``gamma=20``.
    Raises ValueError for unknown names and values, and what ``load_prior`` raises for a model it cannot get.
    """
    from rsd.features import load_features

    settings = replace(settings, **changes)
    prior = load_prior(prior) if isinstance(prior, str) else prior
    features = load_features(features, device=prior.device) if isinstance(features, str) else features
    run = Run(prior, operator.to(prior.device), y, settings, embed=decoded(prior, features))
    records = []
    for record in run.steps():
        records.append(record)
        if progress:
            progress(record)
    return Restoration(run.finish(), records)
