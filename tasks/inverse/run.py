"""Restoration as a Python API: ``rsd.restore(y, operator)``, and the pieces under it for people's own loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from rsd.distributed import Ensemble
from rsd.engine import Embed, Record, distill
from rsd.features import Decoded
from rsd.memory import Memory, plan, save_memory
from rsd.priors import load_prior
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.runs.api import drive
from rsd.runs.run import Run as BaseRun
from rsd.spread import Spread

from . import given
from .methods import METHODS, run_class
from .operators import load_operator
from .options import Settings
from .rlsd import Restored, Weights, image_shape


@dataclass(frozen=True)
class Restoration:
    """``images`` [N, 3, H, W] in [-1, 1] (not clamped) and the run's records; ``settings``: what it ran with, and
    ``source``: where they come from."""

    images: torch.Tensor
    records: list[Record]
    settings: Settings = field(default_factory=Settings)
    source: str = ""


class Run(BaseRun):
    """One restoration in progress: iterate over :meth:`steps`, look at :attr:`particles`, then :meth:`finish`.

    ``operator``: an Operator, or whatever ``load_operator`` makes one of: a differentiable function or module, a
    physics. ``y``: the measurement, [1, ...], real or complex, the shape of ``operator(x)``. ``embed``: features of a
    latent, [N, d], for the repulsion. ``ids``: the particles' numbers in the ensemble; ``ensemble``: which of them are
    here, where several processes share them. ``image``: names the image in the random numbers. ``plan``: of the memory,
    :func:`rsd.memory.plan`, or one that remembers (``Plans``).
    """

    def __init__(
        self, prior: Prior, operator: Callable[[torch.Tensor], torch.Tensor] | str, y: torch.Tensor,
        settings: Settings,
        *, embed: Embed | None = None, image: str = "", ids: Sequence[int] | None = None,
        ensemble: Ensemble | None = None, plan: Callable[..., Memory] = plan,
    ):  # fmt: skip
        self.prior, self.settings, self.embed = prior, settings, embed
        s = settings
        self.stream = Stream(s.seed, image)
        ids = list(range(s.particles)) if ids is None else ids
        self.ensemble = ensemble or Ensemble.of(len(ids))
        ids = [ids[row] for row in self.ensemble.mine]
        self.operator, self.y = load_operator(operator).to(prior.device), y.to(prior.device)
        self.timesteps = prior.schedule.descending(s.steps) if METHODS[s.method].descends else []
        self.condition = prior.condition(s.prompt, s.negative_prompt, s.guidance)
        entries = math.prod(prior.latent_shape) + math.prod(image_shape(prior))  # of z and x, each with two moments
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None, through=METHODS[s.method].through,
            state=3 * entries * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        self.particles = self.begin(Spread(ids, self.memory, self.ensemble))

    def begin(self, spread: Spread) -> Any:
        """The particles at their start."""
        s, method = self.settings, METHODS[self.settings.method]
        if method.averages and not self.ensemble.alone:
            raise ValueError(
                f"Method {s.method} averages over all particles, so they must be in one process; start just one."
            )
        augmented, exact = method.augmented, method.augmented and s.x_step == "exact"
        weights = Weights(lambda_=s.lambda_, lr_z=s.lr_z, rho=s.rho, lr_x=s.lr_x, exact=exact)
        return Restored(
            self.prior, self.operator, self.y, weights, augmented=augmented, spread=spread, stream=self.stream
        )

    @cached_property
    def given(self) -> dict[str, torch.Tensor]:
        """What the run is to explain: y, and how the operator measures a fixed picture, which tells its mask, kernel or
        code from another's."""
        prior = self.prior
        x = Stream(0).noise("probe", image_shape(prior), [0])
        with torch.no_grad():
            return {"y": self.y, "probe": self.operator(x.tanh().to(prior.device, prior.dtype))}

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on with the same pixels."""
        return {**super().state(), "given": self.given}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken. Raises ValueError if that was with another measurement or operator."""
        before = state.get("given", self.given)
        rough = max(1e-4, 4 * torch.finfo(self.prior.dtype).eps)
        for name, what, share in (("y", "measurement", 1e-4), ("probe", "operator (mask, kernel, function)", rough)):
            if not alike(before[name], self.given[name], share):
                raise ValueError(
                    f"The {what} is not the one that this run began with; bring that back, or choose another --out."
                )
        super().load_state(state)

    def records(self) -> Iterator[Record]:
        interaction = replace(self.settings.interaction, embed=self.embed)
        return distill(
            self.particles, self.prior, timesteps=self.timesteps, stream=self.stream, condition=self.condition,
            interaction=interaction, start=self.step,
        )  # fmt: skip


def alike(a: torch.Tensor, b: torch.Tensor, share: float = 1e-4) -> bool:
    """Whether two measurements are the same but for the rounding of another device or number of threads: entries differ
    by no more than that share of the largest."""
    if a.shape != b.shape or a.is_complex() != b.is_complex():
        return False
    a, b = (x.cpu().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
    most = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=share * most, equal_nan=True)


def restore(
    y: torch.Tensor,
    operator: Callable[[torch.Tensor], torch.Tensor] | str,
    *,
    prior: Prior | str = "heads",
    features: Callable[[torch.Tensor], torch.Tensor] | str = "auto",
    settings: Settings | None = None,
    task: str | None = None,
    preset: int | None = None,
    image: str = "",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Restoration:
    """Draw ``particles`` restorations of a measurement ``y = operator(x) + noise``, by RLSD (Algorithm 1) or another
    ``method``, with the settings that ``rsd restore`` has for the operator's task and the prior.

    y: [1, ...]. operator: of ``rsd.tasks.inverse.operators.make_operator``, or any differentiable function or module,
    images [B, 3, H, W] in [-1, 1] to measurements [B, ...]. prior and features: objects, or names for
    ``load_prior`` and ``load_features``; features "auto": as ``rsd restore`` chooses them. ``changes``: fields of
    Settings, e.g. ``gamma=20``, which win over the packaged ones, as ``settings`` do, which replace them.
    ``task``: whose settings to take for an operator of your own; ``preset``: those for so many steps. ``image``: names
    the image in the random numbers (``rsd restore photo.png`` says "photo").
    Raises ValueError, before any model is loaded, for unknown names and settings, values that cannot work, and an
    operator or a y that cannot; what ``load_prior`` raises for a model it cannot get; and for a run that diverged.
    """
    from rsd.features import load_features

    from .operators import Inpaint

    asked = given.check(y, operator, prior, features, changes)
    f = load_operator(operator)
    settings, source = given.settle(settings, changes, task or f.task, asked, preset)
    given.try_out(y, f, prior, asked, settings)
    prior = load_prior(asked) if isinstance(prior, str | Path) else prior
    embed = None
    if settings.interaction.acts(settings.particles):
        name = given.features_name(asked) if features == "auto" else features
        embed = Decoded(prior, load_features(name, device=prior.device) if isinstance(name, str) else name)
    run = run_class(settings.method)(prior, f, y, settings, embed=embed, image=image)
    images, records = drive(run, diverged=partial(given.diverged, settings=settings), progress=progress)
    if isinstance(f, Inpaint) and settings.sigma_v == 0:  # as rsd restore does with a measurement said to be exact
        assert f.observed is not None
        images = torch.where(f.observed, y.to(images), images)
    return Restoration(images, records, settings, source)
