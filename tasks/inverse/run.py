"""The Python API ``rsd.restore(y, operator)``, and the run behind it for custom loops."""

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
from rsd.metrics.selection import Selection, choose
from rsd.priors import load_prior
from rsd.priors.base import Prior
from rsd.priors.windows import for_picture
from rsd.randomness import Stream
from rsd.reference.noise import make_noise
from rsd.runs.options import features_of
from rsd.runs.run import Run as BaseRun
from rsd.runs.run import drive
from rsd.spread import Spread

from . import arguments
from .methods import METHODS, run_class
from .operators import load_operator
from .operators.base import measurement_fit
from .options import GREY_LEVEL, Settings
from .rlsd import LatentParticles, Weights, image_shape


@dataclass(frozen=True)
class Restoration:
    """``images`` [N, 3, H, W] in [-1, 1] (not clamped), the run's records, its ``settings`` and their ``source``;
    ``selection``: which of the drawn samples these are, None for all."""

    images: torch.Tensor
    records: list[Record]
    settings: Settings = field(default_factory=Settings)
    source: str = ""
    selection: Selection | None = None


class Run(BaseRun):
    """One restoration in progress: iterate over :meth:`steps`, read :attr:`particles`, then :meth:`finish`.

    ``operator``: an Operator, or anything that ``load_operator`` accepts: a differentiable function or module, a
    physics. ``y``: the measurement [1, ...], real or complex, with the shape of ``operator(x)``. ``embed``: the
    features of latents, [N, d], for the repulsion. ``ids``: the particles' numbers in the ensemble; ``ensemble``: how
    several processes share them. ``image``: identifies the image in the random numbers. ``plan``: plans the memory,
    :func:`rsd.memory.plan` or one with a cache (``Plans``).
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
        ids = list(range(s.drawn)) if ids is None else ids
        self.ensemble = ensemble or Ensemble.of(len(ids))
        ids = [ids[row] for row in self.ensemble.mine]
        self.operator, self.y = load_operator(operator).to(prior.device), y.to(prior.device)
        self.timesteps = prior.schedule.descending(s.steps) if METHODS[s.method].descends else []
        self.condition = prior.condition(s.prompt, s.negative_prompt, s.guidance)
        entries = math.prod(prior.latent_shape) + math.prod(image_shape(prior))  # z and x, each with two moments
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None, through=METHODS[s.method].through,
            state=3 * entries * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        spread = Spread(ids, self.memory, self.ensemble)
        self.particles = self.begin(spread)
        if "noise" in METHODS[s.method].uses:
            self.noise = make_noise(
                s.noise, self.stream, spread, prior, self.condition, self.timesteps, steps=s.inversion_steps
            )

    def begin(self, spread: Spread) -> Any:
        """Return the initial particles."""
        s, method = self.settings, METHODS[self.settings.method]
        if method.averages and not self.ensemble.alone:
            raise ValueError(
                f"Method {s.method} averages over all particles, so they must be in one process; start one process."
            )
        augmented, exact = method.augmented, method.augmented and s.x_step == "exact"
        weights = Weights(lambda_=s.lambda_, lr_z=s.lr_z, rho=s.rho, lr_x=s.lr_x, exact=exact)
        return LatentParticles(
            self.prior, self.operator, self.y, weights, augmented=augmented, spread=spread, stream=self.stream
        )

    @cached_property
    def fingerprint(self) -> dict[str, torch.Tensor]:
        """y, and the measurement of a fixed random image, which identifies the operator's mask, kernel or code."""
        prior = self.prior
        x = Stream(0).noise("probe", image_shape(prior), [0])
        with torch.no_grad():
            return {"y": self.y, "probe": self.operator(x.tanh().to(prior.device, prior.dtype))}

    def state(self) -> dict[str, Any]:
        """Return the checkpoint, from which :meth:`load_state` resumes with the same samples."""
        return {**super().state(), "given": self.fingerprint}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from ``state``. Raise ValueError if it belongs to another measurement or operator."""
        before = state.get("given", self.fingerprint)
        rough = max(1e-4, 4 * torch.finfo(self.prior.dtype).eps)
        for name, what, share in (("y", "measurement", 1e-4), ("probe", "operator (mask, kernel, function)", rough)):
            if not same_measurement(before[name], self.fingerprint[name], share):
                raise ValueError(
                    f"The {what} differs from the one that this run began with; use that one, or choose another --out."
                )
        super().load_state(state)

    def records(self) -> Iterator[Record]:
        interaction = replace(self.settings.interaction, embed=self.embed)
        return distill(
            self.particles, self.prior, timesteps=self.timesteps, stream=self.stream, condition=self.condition,
            noise=self.noise, interaction=interaction, start=self.step,
        )  # fmt: skip


def same_measurement(a: torch.Tensor, b: torch.Tensor, share: float = 1e-4) -> bool:
    """Return whether two measurements are equal up to the rounding of another device or number of threads: entries
    differ by at most ``share`` of the largest."""
    if a.shape != b.shape or a.is_complex() != b.is_complex():
        return False
    a, b = (x.cpu().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
    most = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=share * most, equal_nan=True)


@torch.enable_grad()  # also where the caller has turned gradients off
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
    ``method``, with the settings of ``rsd restore`` for the operator's task and the prior.

    y: [1, ...]; with a named prior that takes any size, the answers are as large as y says. operator: from
    ``rsd.tasks.inverse.operators.make_operator``, or any differentiable function or module from images [B, 3, H, W] in
    [-1, 1] to measurements [B, ...]. prior and features: objects, or names for ``load_prior`` and ``load_features``;
    features "auto": as in ``rsd restore``. ``settings`` replaces the packaged settings; ``changes``, fields of Settings
    such as ``gamma=20``, win over both. ``task``: whose settings to use for your own operator; ``preset``: settings for
    that many steps. ``image``: identifies the image in the random numbers (``rsd restore photo.png`` uses "photo").
    With ``draw=8, keep=4`` it draws 8 and returns the 4 that differ most among those that fit y.
    Raise ValueError, before any model is loaded, for unknown names and settings, invalid values, and an operator or a y
    that cannot work; what ``load_prior`` raises for a model that is not available; and ValueError if the run diverges.
    """
    from rsd.features import load_features

    from .operators import Inpaint, PhaseRetrieval, best_rotation

    prior_name = arguments.check(y, operator, prior, features, changes)
    f = load_operator(operator)
    settings, source = arguments.settle(settings, changes, task or f.task, prior_name, preset)
    arguments.try_out(y, f, prior, prior_name, settings)
    if isinstance(prior, str | Path):
        shape = arguments.picture_shape(y, f, prior, prior_name)
        prior = load_prior(prior_name)
        prior = for_picture(prior, (shape[1], shape[2])) if prior.image_size else prior
    compared: Callable[[torch.Tensor], torch.Tensor] | None = None
    interacts = settings.interaction.acts(settings.drawn)
    if interacts or settings.selects:
        name = features_of(features, prior_name) if isinstance(features, str) else features
        if isinstance(name, str):
            size = arguments.feature_size(settings, task or f.task, prior_name)
            compared = load_features(name, device=prior.device, size=size)
        else:
            compared = name
    embed = Decoded(prior, compared) if compared is not None and interacts else None
    run = run_class(settings.method)(prior, f, y, settings, embed=embed, image=image)
    images, records = drive(run, diverged=partial(arguments.diverged, settings=settings), progress=progress)
    if isinstance(f, Inpaint) and settings.sigma_v <= GREY_LEVEL:
        assert f.observed is not None
        images = torch.where(f.observed, y.to(images), images)
    chosen = None
    if compared is not None and settings.selects:
        fit = measurement_fit(f, images, y.to(images.device), settings.sigma_v)
        shown = best_rotation(images, images[:1]) if isinstance(f, PhaseRetrieval) else images
        chosen = choose(
            shown, settings.kept, features=compared, fit=fit, device=images.device, prior=prior,
            condition=run.condition,
        )  # fmt: skip
        images = images[chosen.kept]
    return Restoration(images, records, settings, source, chosen)
