"""The base classes of all runs: particles, an iterator over the steps, and a state to resume from. And what the heads'
Python functions share: resolve the options, load the networks, run to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble, pick_device
from rsd.engine import Embed, Record, Reference
from rsd.features import Decoded, check_features_name, load_features
from rsd.features.tiny_decoder import check_decoder_name, load_decoder
from rsd.metrics.selection import Fit, Selection, choose
from rsd.priors import check_prior_name, check_size, load_prior
from rsd.priors.base import Prior
from rsd.priors.watch import watch_of
from rsd.reference.noise import Noise
from rsd.runs.flags import fields_of
from rsd.runs.options import PriorOptions, PromptOptions, RunOptions, ScoreOptions, SizeOptions, check_used
from rsd.runs.settings import Packaged
from rsd.runs.words import suggestion

Features = Callable[[torch.Tensor], torch.Tensor]


class Run:
    """A run in progress: iterate over :meth:`steps`, then call :meth:`finish`.

    A subclass sets ``particles`` (with ``images``, ``finish``, ``state``, ``load_state``) and defines :meth:`records`.
    ``step``: the number of finished steps. ``ensemble``: how processes share the particles. ``condition``: what the
    prior is conditioned on. ``noise``: the particles' noise in the engine, whose state is saved with them; None for
    samplers.
    """

    particles: Any
    prior: Any = None
    condition: Any = None
    step: int = 0
    ensemble: Ensemble = ALONE
    noise: Noise | None = None

    def records(self) -> Iterator[Record]:
        """Run from step ``self.step`` to the end and yield a Record per step."""
        raise NotImplementedError

    def steps(self) -> Iterator[Record]:
        """Run the remaining steps and yield a Record per step. Raise ValueError if the output of a network of the prior
        is implausible (rsd.priors.watch)."""
        for record in self.records():
            self.step = record.step + 1
            watch_of(self.prior).check()
            yield record

    def finish(self) -> torch.Tensor:
        """Return the result of all particles, [N, 3, H, W]. Raise as :meth:`steps`."""
        result = self.result()
        watch_of(self.prior).check()
        return self.ensemble.gather(result, what="pictures")

    def result(self) -> torch.Tensor:
        """Return the result of the local particles."""
        finished: torch.Tensor = self.particles.finish()
        return finished

    def log_weights(self) -> torch.Tensor | None:
        """Return the log weight of each particle (:class:`rsd.sampling.Chain`), [N]; None if there are none."""
        return None

    def images(self) -> torch.Tensor:
        """Return the current images of all particles, [N, 3, H, W]."""
        return self.ensemble.gather(self.particles.images(), what="pictures")

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint, from which a run resumes with identical results."""
        noise = {} if self.noise is None else {"noise": self.noise.state()}
        return {"step": self.step, **self.particles.state(), **noise}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        self.step = int(state["step"])
        self.particles.load_state(state)
        if self.noise is not None:
            self.noise.load_state(state.get("noise", {}))


class Distillation(Run):
    """A run with a reference score, whose learned state is saved with the particles."""

    reference: Reference

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint, including the reference's."""
        return {**super().state(), "reference": self.reference.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        super().load_state(state)
        self.reference.load_state(state.get("reference", {}))


def check_known(names: Collection[str], changes: Mapping[str, Any], files: Collection[str] = ()) -> None:
    """Raise ValueError for an unknown setting, with a suggestion, and for a setting of the command's ``files``."""
    for name in changes:
        if name in files:
            raise ValueError(f"{name} is for the command; the function writes no files and computes no scores.")
        if name not in names:
            hint = ' Did you mean "lambda_"?' if name == "lambda" else suggestion(name, names)
            raise ValueError(f'Unknown setting "{name}".{hint} There are: {", ".join(names)}.')


def command_only(kind: Any) -> set[str]:
    """Return the options of a command that a Python function has no use for: of its files, scores and several
    prompts."""
    own = kind.GROUPS["output"].split()
    return {*fields_of(RunOptions), *fields_of(ScoreOptions), *fields_of(PromptOptions), *own} - {"device"}


def resolve_options(
    kind: type, packaged: Callable[[Any], Packaged], prompt: str, prior: Prior | str, features: Features | str,
    method: str, changes: Mapping[str, Any],
) -> tuple[Any, str, Prior, Embed | None, Features | None]:  # fmt: skip
    """Return the options of class ``kind`` for a prompt, the name of their packaged settings, the prior, the feature
    map of latents (None if the particles do not interact), and that of images (None if it is not used). ``changes``
    override the packaged settings.

    Raises ValueError for unknown names, unknown settings, invalid values and settings without effect, before any model
    is loaded.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt is of type {type(prompt).__name__}; give text.")
    files = command_only(kind)
    check_known([name for name in fields_of(kind) if name not in {"method", "prior", *files}], changes, files)
    if not isinstance(prior, str):
        of_names = {*fields_of(PriorOptions), *fields_of(SizeOptions), "device"} - {"prior"}
        for name in filter(of_names.__contains__, changes):
            raise ValueError(f"{name} goes with the name of a prior; load the object as it should be.")
    if not isinstance(features, str) and "feature_size" in changes:
        raise ValueError("feature_size goes with the name of a feature map; load the object as it should be.")
    name = prior if isinstance(prior, str) else prior.name
    if isinstance(prior, str):
        check_prior_name(prior)
    named = {"features": features} if isinstance(features, str) else {}
    options: Any = kind(prompt=(prompt,), method=method, prior=name, **changes)
    options.check()
    found = packaged(options)
    options = replace(options, **{**found.values(kind), **named, **changes})
    options.check()
    check_used(changes, options.unread)
    if isinstance(features, str):
        check_features_name(options.features_name)
    if options.force_decoder:
        check_decoder_name(options.force_decoder)
    if isinstance(prior, str):
        dtype = getattr(torch, options.dtype)
        sides = getattr(options, "sides", None)
        if sides:
            check_size(prior, sides, options.revision)
        prior = load_prior(
            prior, device=pick_device(options.device), dtype=dtype, revision=options.revision,
            autocast=options.autocast, size=sides,
        )  # fmt: skip
    compared: Features | None = None
    if options.interacts or options.selects:
        if isinstance(features, str):
            compared = load_features(options.features_name, device=prior.device, size=options.feature_size)
        else:
            compared = features
    embed = None
    if compared is not None and options.interacts:
        embed = Decoded(prior, compared, options.force_decoder and load_decoder(options.force_decoder, prior))
    return options, found.name, prior, embed, compared


def drive(
    run: Run, *, diverged: Callable[[str], str], progress: Callable[[Record], None] | None = None
) -> tuple[torch.Tensor, list[Record]]:
    """Run to the end. Return the result and the records. ``diverged`` formats the error message from the location.

    Raises ValueError if a record or the result is not finite.
    """
    records = []
    for record in run.steps():
        records.append(record)
        if not all(map(math.isfinite, (record.residual, record.repulsion, *record.losses.values()))):
            raise ValueError(diverged(f"step {record.step}"))
        if progress:
            progress(record)
    images = run.finish()
    if not images.isfinite().all():
        raise ValueError(diverged("its last step"))
    return images, records


@dataclass(frozen=True)
class Samples:
    """Results of a prompt: ``images`` [N, 3, H, W] in [-1, 1] (not clamped), the run's records, the options that it ran
    with, ``source``: where they come from, and ``selection``: which of the drawn samples these are, None for all."""

    images: torch.Tensor
    records: list[Record]
    options: Any
    source: str
    selection: Selection | None = field(default=None, kw_only=True)


def draw(
    kind: type, packaged: Callable[[Any], Packaged], prompt: str, prior: Prior | str, features: Features | str,
    method: str, changes: Mapping[str, Any], progress: Callable[[Record], None] | None,
    *, make_run: Callable[..., Run], remedy: Callable[[Any], str],
    fit: Callable[[torch.Tensor, str, Any], Fit | None] = lambda *about: None,
) -> tuple[Run, Samples]:  # fmt: skip
    """Draw the samples of a prompt; return the run and its results. Raises what :func:`resolve_options` and
    :func:`drive` raise.

    ``make_run``: (prior, prompt, options, embed=..., image=...) to a run; ``remedy``: what to do if it diverges;
    ``fit``: (images, prompt, options) to how well they fit, for the selection.
    """
    options, source, prior, embed, compared = resolve_options(kind, packaged, prompt, prior, features, method, changes)
    run = make_run(prior, prompt, options, embed=embed, image=prompt)
    advice = remedy(options)
    images, records = drive(run, diverged=lambda where: f"The run diverged at {where}; {advice}.", progress=progress)
    chosen = None
    if options.selects:
        assert compared is not None
        measured = fit(images, prompt, options)
        chosen = choose(
            images, options.kept, features=compared, fit=measured, device=images.device, prior=prior,
            condition=run.condition,
        )  # fmt: skip
        images = images[chosen.kept]
    return run, Samples(images, records, options, source, selection=chosen)
