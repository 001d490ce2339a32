"""Scoring: a head has a list of scores, which determines the networks to load, the null figures and their reasons, and
what a finished run is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from rsd import metrics
from rsd.features import load_features, on_cpu
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.media import PICTURES, fit_to, read_image
from rsd.metrics.aesthetic import load_aesthetic
from rsd.metrics.networks import CLASSIFIER, DIV, Features, load_div, pixel_difference
from rsd.priors import over_heads

CLIP_MODEL = metrics.CLIP
NOT_FINITE = "particles are not finite; the run diverged"
NO_PROMPT, ALONE, ONE_IMAGE = "the prompt is empty", "one particle has no diversity", "one image has no covariance"
SPREADS = ("div", "vendi")
"""The figures of how different samples are, measured on the same features."""
NEVER = (NO_PROMPT, ALONE, ONE_IMAGE)
"""Reasons that no network can change."""


@dataclass(frozen=True)
class ScoreRequest:
    """Which figures are requested, and the networks that measure them: the options of the same names. ``clean``:
    whether there is a clean image; ``several``: whether there are several runs."""

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
        """Create the request of a command's options; options that it does not have keep the defaults."""
        names = [one.name for one in fields(cls) if hasattr(options, one.name)]
        return cls(**{**{name: getattr(options, name) for name in names}, **facts})

    @property
    def div_name(self) -> str:
        """The requested network of Div, as in metrics.json."""
        if self.div_features != "auto":
            return self.div_features
        return CLASSIFIER if over_heads(self.prior) else DIV


@dataclass(frozen=True)
class Scorers:
    """The networks that score. All take images [N, 3, H, W] in [-1, 1] and return CPU tensors. None: not requested, or
    not available (see ``reasons``). ``references``: features [M, d] of the images in ``fid_folder``."""

    features: Features | None = None
    features_name: str | None = None
    judge: HeadsClassifier | None = None
    face: FaceReader | None = None
    lpips: metrics.Compare | None = None
    dists: metrics.Compare | None = None
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
    """What samples are scored against: their prompt, and the problem, options or cameras that a head's scores read."""

    prompt: str = ""
    problem: Any = None
    options: Any = None
    cameras: Any = None


Found = tuple[dict[str, Any], dict[str, str]]
"""Figures by name, and the reason of each None."""


@dataclass(frozen=True)
class Score:
    """The figure ``name`` of metrics.json, and those measured with it.

    ``measure``: its function of CPU images [N, 3, H, W] in [-1, 1]; None for a figure of all runs together, which is
    only in summary.json. ``why_not``: why it is null for all images, or None. ``by``: the entries of metrics.json that
    name the requested network (the figure is measured again if they differ); None: it is never measured again.
    ``optional``: measured only if --metrics names it.
    """

    name: str
    measure: Callable[[torch.Tensor, Subject, Scorers], Found] | None
    why_not: Callable[[ScoreRequest], str | None] = lambda request: None
    by: Callable[[ScoreRequest], dict[str, Any] | None] = lambda request: None
    optional: bool = False

    def why_null(self, request: ScoreRequest) -> str | None:
        """Return why it is null for all images; None if it is measured."""
        if self.optional and self.name not in request.metrics:
            return f"not requested (see --metrics {self.name})"
        return self.why_not(request)


def reasons(scores: Sequence[Score], request: ScoreRequest) -> dict[str, str]:
    """Return why scores are null for all images, by name."""
    return {score.name: why for score in scores if (why := score.why_null(request))}


def load_scorers(
    scores: Sequence[Score], request: ScoreRequest, *, repulsion: Collection[str] = (), size: int = 64,
    device: str | torch.device = "cpu",
) -> Scorers:  # fmt: skip
    """Load the networks of ``scores`` for images of ``size`` px. ``repulsion``: the repulsion's feature maps, to warn
    if Div is measured with one of them. "auto" means for ``div_features`` the attribute classifier for heads, otherwise
    DINOv2, or none if that is not available; for ``fid_features`` Div's network (the usual FID uses Inception).

    Raises ImportError, FileNotFoundError or ValueError if something requested is not available.
    """
    names, optional = {score.name for score in scores}, [score.name for score in scores if score.optional]
    if unknown := sorted(set(request.metrics) - set(optional)):
        raise ValueError(f'Unknown metric "{unknown[0]}"; use {", ".join(optional)}.')
    why = reasons(scores, request)
    for name in request.metrics:
        if name in why:
            print(f"{name} will be null: {why[name]}", flush=True)
    wanted = names - why.keys()
    judge = HeadsClassifier.load() if over_heads(request.prior) else None
    face = None
    if judge and "agreement" in names:
        try:
            face = FaceReader.load()
        except ValueError as error:
            if "janus" not in names:
                raise
            why["janus"] = str(error)
    div = load_div(request.div_features, judge=judge, repulsion=repulsion, device=device)
    if div.reason:
        why |= dict.fromkeys(SPREADS, div.reason)
    lpips = metrics.load_lpips(device=device) if "lpips" in wanted else None
    dists = metrics.load_dists(device=device) if "dists" in wanted else None
    clip = metrics.load_clip_score(request.clip_model, device=device) if "clip" in wanted else None
    rate = None
    if "aesthetic" in wanted:
        rate = load_aesthetic(request.aesthetic_weights, clip=request.clip_model, device=device)
    compare, compare_name, references, folder = None, "", None, request.fid_folder
    if "fid" in wanted:
        files = pictures(folder) if folder else []
        compare, compare_name = div.features, div.name or ""
        if request.fid_features != "auto":
            compare, compare_name = (
                on_cpu(load_features(request.fid_features, device=device), device),
                request.fid_features,
            )
        if compare is None:
            raise ValueError(f"The metric fid uses {DIV}, which is not available here; give --fid-features.")
        references = reference_features(files, size, compare) if files else None
    return Scorers(
        features=div.features, features_name=div.name, judge=judge, face=face, lpips=lpips, dists=dists,
        clip=clip, clip_name=request.clip_model, aesthetic=rate, aesthetic_name=request.aesthetic_weights or "",
        fid=compare, fid_name=compare_name, references=references,
        fid_folder=str(folder.resolve()) if folder else "", reasons=why,
    )  # fmt: skip


def measure(scores: Sequence[Score], images: torch.Tensor, subject: Subject, scorers: Scorers) -> dict[str, Any]:
    """Measure all figures of a run. Return metrics.json without the costs, with ``reasons`` of null figures."""
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


def missing_figures(scores: Sequence[Score], held: Mapping[str, Any], request: ScoreRequest) -> list[str]:
    """Return the requested figures that are missing in a finished run's metrics.json, or were measured by another
    network, except those that can never be measured. Loads nothing."""
    names = []
    for score in scores:
        by = None if score.why_null(request) else score.by(request)
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
    """Measure the figures ``names`` of a finished run on its pictures. Return the new metrics.json and the names that
    were measured; other figures do not change."""
    new, why, done = dict(held), dict(held["reasons"]), []
    for score in scores:
        if score.name not in names or not score.measure:
            continue
        figures, missing = score.measure(images, subject, scorers)
        if figures[score.name] is not None:
            new |= figures
            done.append(score.name)
            why = {name: reason for name, reason in why.items() if name != score.name and figures.get(name) is None}
        elif held.get(score.name) is None:
            why |= {k: v for k, v in scorers.reasons.items() if k in figures} | missing
    return {**new, "reasons": why}, done


def diversity(images: torch.Tensor, scorers: Scorers) -> Found:
    """Measure Div and the Vendi score on the same features. Return them with the name of the network, or None with the
    reason."""
    found: dict[str, Any] = {**dict.fromkeys(SPREADS), "div_features": scorers.features_name}
    if scorers.features is None:
        return found, {}
    if len(images) < 2:
        return found, dict.fromkeys(SPREADS, ALONE)
    if not images.isfinite().all():
        return found, dict.fromkeys(SPREADS, NOT_FINITE)
    return {**found, **metrics.spread(scorers.features(images))}, {}


def difference(images: torch.Tensor, where: torch.Tensor | None = None) -> Found:
    """Measure the difference of samples in pixels, and whether they are nearly equal."""
    found = pixel_difference(images, where)
    if found["difference"] is not None:
        return found, {}
    return found, {"difference": ALONE if len(images) < 2 else NOT_FINITE}


def clip(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure 100 x CLIP's cosine similarity to the prompt, clamped at 0."""
    if scorers.clip is None or not subject.prompt:
        return {"clip": None}, {"clip": NO_PROMPT} if scorers.clip else {}
    values = 100 * scorers.clip(images, subject.prompt).clamp(min=0)
    return {"clip": {**metrics.summary(values, best="max"), "model": scorers.clip_name}}, {}


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, sorted. Raise FileNotFoundError or ValueError if there are fewer than two."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a folder of images to --fid-folder.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise ValueError(f"{folder} contains {len(files)} pictures; --fid-folder needs two or more.")
    return files


def reference_features(files: list[Path], size: int, features: Features) -> torch.Tensor:
    """Return features [M, d] of pictures, cropped to their central square and resized to ``size`` px."""
    found = []
    for k in range(0, len(files), 16):
        images = torch.cat([fit_to(read_image(path), size, "crop")[0] for path in files[k : k + 16]])
        found.append(features(images))
    return torch.cat(found)


DIVERSITY = Score(
    "div",
    lambda images, subject, scorers: diversity(images, scorers),
    by=lambda request: {"div_features": request.div_name},
)
CLIP = Score("clip", clip, by=lambda request: {"model": request.clip_model}, optional=True)
