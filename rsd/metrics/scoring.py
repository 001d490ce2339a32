"""Scoring: a head has a list of scores, from which follow the networks to load, what is null and why, and what a
finished run lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from rsd import metrics
from rsd.features import load_features, on_cpu
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.face import FaceReader
from rsd.media import PICTURES, fit_to, read_image
from rsd.metrics.aesthetic import load_aesthetic
from rsd.metrics.networks import CLASSIFIER, DIV, Features, apart, load_div
from rsd.priors import over_heads

CLIP_MODEL = metrics.CLIP
NOT_FINITE = "particles are not finite; the run diverged"
NO_PROMPT, ALONE, ONE_IMAGE = "the prompt is empty", "one particle has no diversity", "one image has no covariance"
NEVER = (NO_PROMPT, ALONE, ONE_IMAGE)
"""Reasons for which no network helps."""


@dataclass(frozen=True)
class ScoreRequest:
    """Which figures are wanted and what they are measured with; the options of the same names. ``fact``: what else a
    head's scores go by."""

    prior: str
    metrics: tuple[str, ...] = ()
    div_features: str = "auto"
    clip_model: str = CLIP_MODEL
    aesthetic_weights: str | None = None
    fid_folder: Path | None = None
    fid_features: str = "auto"
    prompt: str | None = None
    clean: bool = True
    several: bool = True

    @classmethod
    def of(cls, options: Any, **facts: Any) -> ScoreRequest:
        """What a command's options ask for; those that it does not have stay as they are by default."""
        names = [one.name for one in fields(cls) if hasattr(options, one.name)]
        return cls(**{**{name: getattr(options, name) for name in names}, **facts})

    @property
    def div_name(self) -> str:
        """What Div is to be measured on, as metrics.json calls it."""
        if self.div_features != "auto":
            return self.div_features
        return CLASSIFIER if over_heads(self.prior) else DIV


@dataclass(frozen=True)
class Scorers:
    """The networks that score; all take images [N, 3, H, W] in [-1, 1] and answer on the CPU. None: not asked for, or
    not to be had (``reasons`` says why). ``references``: features [M, d] of ``fid_folder``, which FID compares with."""

    features: Features | None = None
    features_name: str | None = None
    judge: HeadsClassifier | None = None
    face: FaceReader | None = None
    lpips: metrics.Compare | None = None
    clip: metrics.Match | None = None
    clip_name: str = ""
    aesthetic: Features | None = None
    aesthetic_name: str = ""
    fid: Features | None = None
    fid_name: str = ""
    fid_folder: str = ""
    references: torch.Tensor | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What samples are of: their prompt, and the problem, options or cameras that a head's own scores go by."""

    prompt: str = ""
    problem: Any = None
    options: Any = None
    cameras: Any = None


Found = tuple[dict[str, Any], dict[str, str]]
"""Figures by name, and why those that are None are."""


@dataclass(frozen=True)
class Score:
    """A figure of metrics.json, ``name``, and those that come with it.

    ``measure``: of images [N, 3, H, W] in [-1, 1] on the CPU; None: of all runs together, in summary.json alone.
    ``why_not``: why it is null whatever the images are, or None. ``by``: what an up-to-date figure says that it was
    measured by; None: it is never measured again. ``optional``: measured only if --metrics names it.
    """

    name: str
    measure: Callable[[torch.Tensor, Subject, Scorers], Found] | None
    why_not: Callable[[ScoreRequest], str | None] = lambda asked: None
    by: Callable[[ScoreRequest], dict[str, Any] | None] = lambda asked: None
    optional: bool = False

    def missing(self, asked: ScoreRequest) -> str | None:
        """Why it is null whatever the images are; None if it is measured."""
        if self.optional and self.name not in asked.metrics:
            return f"not asked for (see --metrics {self.name})"
        return self.why_not(asked)


def reasons(scores: Sequence[Score], asked: ScoreRequest) -> dict[str, str]:
    """Why scores are null whatever the images are, by name."""
    return {score.name: why for score in scores if (why := score.missing(asked))}


def load_scorers(
    scores: Sequence[Score], asked: ScoreRequest, *, repulsion: Collection[str] = (), size: int = 64,
    device: str | torch.device = "cpu",
) -> Scorers:  # fmt: skip
    """The networks of ``scores``, for pictures of ``size`` px. ``repulsion``: the repulsion's feature maps, to warn if
    Div is measured on one of them. "auto" for ``div_features`` is the attribute classifier for heads, else DINOv2, or
    none where that cannot be had; for ``fid_features``: what Div is measured on (FID proper compares Inception's).

    Raises ImportError, FileNotFoundError or ValueError, in one sentence, for what was asked for and cannot be had.
    """
    names, optional = {score.name for score in scores}, [score.name for score in scores if score.optional]
    if unknown := sorted(set(asked.metrics) - set(optional)):
        raise ValueError(f'Unknown metric "{unknown[0]}"; use {", ".join(optional)}.')
    why = reasons(scores, asked)
    for name in asked.metrics:
        if name in why:
            print(f"{name} will be null: {why[name]}", flush=True)
    wanted = names - why.keys()
    judge = HeadsClassifier.load() if over_heads(asked.prior) else None
    face = None
    if judge and "agreement" in names:
        try:
            face = FaceReader.load()
        except ValueError as error:
            if "janus" not in names:
                raise
            why["janus"] = str(error)
    div = load_div(asked.div_features, judge=judge, repulsion=repulsion, device=device)
    if div.reason:
        why["div"] = div.reason
    lpips = metrics.load_lpips(device=device) if "lpips" in wanted else None
    clip = metrics.load_clip_score(asked.clip_model, device=device) if "clip" in wanted else None
    rate = None
    if "aesthetic" in wanted:
        rate = load_aesthetic(asked.aesthetic_weights, clip=asked.clip_model, device=device)
    compare, compare_name, references, folder = None, "", None, asked.fid_folder
    if "fid" in wanted:
        files = pictures(folder) if folder else []
        compare, compare_name = div.features, div.name or ""
        if asked.fid_features != "auto":
            compare, compare_name = on_cpu(load_features(asked.fid_features, device=device), device), asked.fid_features
        if compare is None:
            raise ValueError(f"The metric fid compares {DIV}, which cannot be had here; give --fid-features.")
        references = reference_features(files, size, compare) if files else None
    return Scorers(
        features=div.features, features_name=div.name, judge=judge, face=face, lpips=lpips, clip=clip,
        clip_name=asked.clip_model, aesthetic=rate, aesthetic_name=asked.aesthetic_weights or "", fid=compare,
        fid_name=compare_name, references=references, fid_folder=str(folder.resolve()) if folder else "", reasons=why,
    )  # fmt: skip


def measure(scores: Sequence[Score], images: torch.Tensor, subject: Subject, scorers: Scorers) -> dict[str, Any]:
    """metrics.json without the run's costs: all figures of a run, and ``reasons`` for those that are null."""
    images = images.detach().cpu().float()
    found: dict[str, Any] = {}
    own = {score.name for score in scores if score.measure is None}
    why = {name: reason for name, reason in scorers.reasons.items() if name not in own}
    for score in scores:
        if score.measure:
            figures, missing = score.measure(images, subject, scorers)
            found |= figures
            why |= missing
    return {**found, "reasons": why}


def missing_figures(scores: Sequence[Score], held: Mapping[str, Any], asked: ScoreRequest) -> list[str]:
    """The figures asked for that a finished run's metrics.json does not hold, or holds as another network measured
    them; not those that it can never have. Loads nothing."""
    names = []
    for score in scores:
        by = None if score.missing(asked) else score.by(asked)
        if by is None or held["reasons"].get(score.name) in NEVER:
            continue
        found = held if score.name == "div" else held.get(score.name) or {}
        if not found or any(found.get(k) != v for k, v in by.items()):
            names.append(score.name)
    return names


def measure_missing(
    scores: Sequence[Score], images: torch.Tensor, subject: Subject, held: Mapping[str, Any], names: Collection[str],
    scorers: Scorers,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """metrics.json of a finished run with the figures ``names`` measured on its pictures, and which of them could be;
    what cannot be measured stays as it was."""
    new, why, done = dict(held), dict(held["reasons"]), []
    for score in scores:
        if score.name not in names or not score.measure:
            continue
        figures, missing = score.measure(images, subject, scorers)
        if figures[score.name] is not None:
            new |= figures
            done.append(score.name)
            why.pop(score.name, None)
        elif held.get(score.name) is None:
            told = {**{k: v for k, v in scorers.reasons.items() if k == score.name}, **missing}
            why |= told
    return {**new, "reasons": why}, done


def diversity(images: torch.Tensor, scorers: Scorers) -> Found:
    """Div and what it is measured on, or None, and why."""
    found: dict[str, Any] = {"div": None, "div_features": scorers.features_name}
    if scorers.features is None:
        return found, {}
    if len(images) < 2:
        return found, {"div": ALONE}
    if not images.isfinite().all():
        return found, {"div": NOT_FINITE}
    return {**found, "div": metrics.diversity(scorers.features(images))}, {}


def difference(images: torch.Tensor, where: torch.Tensor | None = None) -> Found:
    """How far samples are apart, and whether that is next to nothing."""
    found = apart(images, where)
    if found["difference"] is not None:
        return found, {}
    return found, {"difference": ALONE if len(images) < 2 else NOT_FINITE}


def clip(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """100 x CLIP's cosine to the prompt, 0 where negative."""
    if scorers.clip is None or not subject.prompt:
        return {"clip": None}, {"clip": NO_PROMPT} if scorers.clip else {}
    values = 100 * scorers.clip(images, subject.prompt).clamp(min=0)
    return {"clip": {**metrics.summary(values, best="max"), "model": scorers.clip_name}}, {}


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted. Raises FileNotFoundError or ValueError unless there are two or more."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one of images to --fid-folder.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise ValueError(f"{folder} holds {len(files)} pictures; --fid-folder needs two or more.")
    return files


def reference_features(files: list[Path], size: int, features: Features) -> torch.Tensor:
    """Features [M, d] of pictures, cropped to their central square and resized to ``size`` px."""
    found = []
    for k in range(0, len(files), 16):
        images = torch.cat([fit_to(read_image(path), size, "crop")[0] for path in files[k : k + 16]])
        found.append(features(images))
    return torch.cat(found)


DIVERSITY = Score(
    "div",
    lambda images, subject, scorers: diversity(images, scorers),
    by=lambda asked: {"div_features": asked.div_name},
)
CLIP = Score("clip", clip, by=lambda asked: {"model": asked.clip_model}, optional=True)
