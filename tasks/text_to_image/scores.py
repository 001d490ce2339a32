"""Figures of a set of particles: how different they are, and how well they show what the prompt says.

What was not asked for, or cannot be had, is null, with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rsd import metrics
from rsd.features import load_features, on_cpu
from rsd.heads.agreement import agreement, readings
from rsd.heads.attributes import ATTRIBUTES, ON_FACE
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.face import FaceReader
from rsd.heads.reading import Told, read
from rsd.media import PICTURES, fit_to, read_image
from rsd.metrics.aesthetic import load_aesthetic
from rsd.metrics.networks import CLASSIFIER, DIV, Features, apart, load_div
from rsd.priors import over_heads

from .names import OPTIONAL

NOT_FINITE = "particles are not finite; the run diverged"
NO_PROMPT, ALONE, ONE_IMAGE = "the prompt is empty", "one particle has no diversity", "one image has no covariance"
NEVER = (NO_PROMPT, ALONE, ONE_IMAGE)
"""Reasons for which no network helps."""

NETWORKS = {"div": "features", "clip": "clip", "aesthetic": "aesthetic", "fid": "fid"}
"""Figures and the field of Scorers that measures each."""


@dataclass(frozen=True)
class Scorers:
    """What scores; all take images [N, 3, H, W] in [-1, 1] and answer on the CPU. None: not asked for, or not to be had
    (``reasons`` says why). ``references``: features [M, d] of ``fid_folder``, which FID compares with."""

    features: Features | None = None
    features_name: str | None = None
    judge: HeadsClassifier | None = None
    face: FaceReader | None = None
    clip: metrics.Match | None = None
    clip_name: str = ""
    aesthetic: Features | None = None
    aesthetic_name: str = ""
    fid: Features | None = None
    fid_name: str = ""
    fid_folder: str = ""
    references: torch.Tensor | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


def load_scorers(
    prior: str, *, repulsion: Collection[str] = (), div_features: str = "auto", wanted: tuple[str, ...] = (),
    clip_model: str = metrics.CLIP, aesthetic_weights: str | None = None, fid_folder: Path | None = None,
    fid_features: str = "auto", size: int = 64, device: str | torch.device = "cpu",
) -> Scorers:  # fmt: skip
    """The networks that score the pictures, ``size`` px, of a prior.

    ``repulsion``: the repulsion's feature maps, to warn if Div is measured on one of them. ``div_features``, "auto":
    the attribute classifier for heads, else DINOv2, or null where that cannot be had. ``wanted``: of ``OPTIONAL``.
    ``fid_features``: what FID compares, "auto": what Div is measured on; FID proper compares Inception's.
    Raises ImportError, FileNotFoundError or ValueError, in one sentence, for what was asked for and cannot be had.
    """
    unknown = sorted(set(wanted) - set(OPTIONAL))
    if unknown:
        raise ValueError(f'Unknown metric "{unknown[0]}"; use {", ".join(OPTIONAL)}.')
    reasons = {name: f"not asked for (see --metrics {name})" for name in OPTIONAL if name not in wanted}
    judge = HeadsClassifier.load() if over_heads(prior) else None
    face = FaceReader.load() if judge else None
    if judge is None:
        reasons["agreement"] = reasons["coverage"] = "needs a prior over heads, whose attributes are known"
    div = load_div(div_features, judge=judge, repulsion=repulsion, device=device)
    if div.reason:
        reasons["div"] = div.reason
    clip = metrics.load_clip_score(clip_model, device=device) if "clip" in wanted else None
    rate = load_aesthetic(aesthetic_weights, clip=clip_model, device=device) if "aesthetic" in wanted else None
    compare, compare_name, references = None, "", None
    if "fid" in wanted:
        if fid_folder is None:
            raise ValueError("The metric fid compares with a folder of images; give --fid-folder DIR.")
        files = pictures(fid_folder)
        compare, compare_name = div.features, div.name or ""
        if fid_features != "auto":
            compare, compare_name = on_cpu(load_features(fid_features, device=device), device), fid_features
        if compare is None:
            raise ValueError(f"The metric fid compares {DIV}, which cannot be had here; give other --fid-features.")
        references = reference_features(files, size, compare)
    return Scorers(
        features=div.features, features_name=div.name, judge=judge, face=face, clip=clip, clip_name=clip_model,
        aesthetic=rate, aesthetic_name=aesthetic_weights or "", fid=compare, fid_name=compare_name,
        references=references, fid_folder=str(fid_folder.resolve()) if fid_folder else "", reasons=reasons,
    )  # fmt: skip


def lacking(
    held: Mapping[str, Any], prior: str, *, div_features: str = "auto", wanted: tuple[str, ...] = (),
    clip_model: str = metrics.CLIP, aesthetic_weights: str | None = None, fid_folder: Path | None = None,
    fid_features: str = "auto",
) -> list[str]:  # fmt: skip
    """The figures asked for that a finished run's metrics.json does not hold, or holds as another network measured
    them; not those that it can never have. The arguments are :func:`load_scorers`'. Loads nothing."""
    own = div_features if div_features != "auto" else CLASSIFIER if over_heads(prior) else DIV
    asked: dict[str, dict[str, Any]] = {"div": {"div_features": own}}
    if "clip" in wanted:
        asked["clip"] = {"model": clip_model}
    if "aesthetic" in wanted:
        asked["aesthetic"] = {"weights": aesthetic_weights, "model": clip_model}
    if "fid" in wanted and fid_folder:
        features = own if fid_features == "auto" else fid_features
        count = len(pictures(fid_folder))
        asked["fid"] = {"features": features, "folder": str(fid_folder.resolve()), "references": count}

    def missing(name: str, by: dict[str, Any]) -> bool:
        found = held if name == "div" else held[name] or {}
        return held["reasons"].get(name) not in NEVER and any(found.get(k) != v for k, v in by.items())

    return [name for name, by in asked.items() if missing(name, by)]


def measure_again(
    images: torch.Tensor, prompt: str, held: dict[str, Any], names: Collection[str], scorers: Scorers
) -> tuple[dict[str, Any], list[str]]:
    """metrics.json of a finished run with the figures ``names`` measured on its pictures, and which of them could be;
    what cannot be measured stays as it was."""
    others: dict[str, Any] = {where: None for name, where in NETWORKS.items() if name not in names}
    found = score(images, prompt, replace(scorers, judge=None, **others))
    done = [name for name in names if found[name] is not None]
    new = {name: found[name] for name in done} | ({"div_features": found["div_features"]} if "div" in done else {})
    why = {name: found["reasons"][name] for name in names if held[name] is None and name not in done}
    kept = {k: v for k, v in {**held["reasons"], **why}.items() if k not in done}
    return {**held, **new, "reasons": kept}, done


def score(images: torch.Tensor, prompt: str, scorers: Scorers) -> dict[str, Any]:
    """The figures of one prompt's particles, images [N, 3, H, W] in [-1, 1]: ``div``, ``difference``, ``agreement``,
    ``coverage``, ``clip``, ``aesthetic``, ``fid``, and ``reasons`` for those that are null."""
    images = images.detach().cpu().float()
    reasons = dict(scorers.reasons)
    found: dict[str, Any] = {"div": None, "div_features": scorers.features_name}
    finite = bool(images.isfinite().all())
    if scorers.features and len(images) < 2:
        reasons["div"] = ALONE
    elif scorers.features and not finite:
        reasons["div"] = NOT_FINITE
    elif scorers.features:
        found["div"] = metrics.diversity(scorers.features(images))
    found |= apart(images)
    if found["difference"] is None:
        reasons["difference"] = NOT_FINITE if not finite else ALONE
    if scorers.judge:
        faces = scorers.face.sees(scorers.judge, images) if scorers.face else None
        found |= heads_figures(scorers.judge.probabilities(images), read(prompt), reasons, faces)
    else:
        found |= {"agreement": None, "coverage": None}
    found |= {"clip": None, "aesthetic": None}
    if scorers.clip and prompt:
        values = 100 * scorers.clip(images, prompt).clamp(min=0)
        found["clip"] = {**metrics.summary(values, best="max"), "model": scorers.clip_name}
    elif scorers.clip:
        reasons["clip"] = NO_PROMPT
    if scorers.aesthetic:
        rated = metrics.summary(scorers.aesthetic(images), best="max")
        found["aesthetic"] = {**rated, "weights": scorers.aesthetic_name, "model": scorers.clip_name}
    found["fid"] = fid(images, scorers)
    if scorers.fid and found["fid"] is None:
        reasons["fid"] = ONE_IMAGE if finite else NOT_FINITE
    return {**found, "reasons": reasons}


def heads_figures(
    probabilities: dict[str, torch.Tensor], told: Told, reasons: dict[str, str], faces: torch.Tensor | None = None
) -> dict[str, Any]:
    """How a head's particles follow a prompt, and what they make of what it leaves open.

    ``probabilities``: for each attribute [N, K] (see HeadsClassifier); ``faces``: which particles show a face, bool
    [N]; None if nobody looked. ``agreement``: share of (particle, told attribute that the view shows) pairs classified
    as told, where it can be read (:mod:`rsd.heads.agreement`); ``agreement_particles``: mean, best and std of the
    particles' own shares; ``agreement_attributes``: each attribute's share, None where fewer than half of the particles
    can be read; ``agreement_read``: how many can, each attribute's share; ``agreement_told``: all this in words.
    ``coverage``: for each attribute that is open and shows from the view, how many values the particles have
    (``distinct``) ``of`` how many there are, confident classifications (0.8) only; ``mean`` over these attributes. An
    attribute that a particle's own sunglasses or bald head hide, or one of the face where there is none, has no value
    there. Missing ones are None, with an entry in ``reasons``.
    """
    names = ("agreement", "agreement_particles", "agreement_attributes", "agreement_read", "agreement_told")
    figures: dict[str, Any] = dict.fromkeys(names)
    if told.seen:
        found = readings(probabilities, {a: told.values[a] for a in told.seen}, faces)
        whole = agreement(found)
        each = [right[at].double().mean() for right, at in zip(found.right, whole.counted, strict=True) if at.any()]
        figures["agreement_particles"] = metrics.summary(torch.stack(each), best="max") if each else None
        figures |= {
            "agreement": whole.value, "agreement_attributes": whole.attributes, "agreement_read": whole.read,
            "agreement_told": whole.told(),
        }  # fmt: skip
        if whole.value is None:
            reasons["agreement"] = f"the pictures do not show what the prompt tells; {whole.reason}"
        elif whole.unread:
            reasons["agreement_attributes"] = f"not averaged; {whole.reason}"
    else:
        figures["agreement_attributes"] = {}
        reasons["agreement"] = "the prompt tells nothing that the view shows"
    covered = None
    if told.open:
        counted = metrics.coverage(_shown(probabilities, told, faces), told.open, {})
        of = {a: len(ATTRIBUTES[a]) for a in told.open}
        covered = {"mean": counted["mean"], "distinct": counted["distinct"], "of": of}
    else:
        reasons["coverage"] = "the prompt leaves nothing open that the view shows"
    return {**figures, "coverage": covered}


def _shown(
    probabilities: dict[str, torch.Tensor], told: Told, faces: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The probabilities of the open attributes, nan where the particle itself, as classified, hides the attribute, or
    has no face that it would be on."""
    found = {a: p.argmax(1).tolist() for a, p in probabilities.items()}
    shown = {a: probabilities[a].clone() for a in told.open}
    for k in range(len(next(iter(probabilities.values())))):
        values = {a: ATTRIBUTES[a][codes[k]] for a, codes in found.items()}
        for a in told.open:
            faceless = faces is not None and a in ON_FACE and not faces[k]
            if faceless or not told.shows(values, a):
                shown[a][k] = torch.nan
    return shown


def fid(images: torch.Tensor, scorers: Scorers) -> dict[str, Any] | None:
    """The Frechet distance of images [N, 3, H, W] (of one prompt, or better of many) to the reference folder, and what
    it compares; None without a folder, for one image or for images that are not finite."""
    if scorers.fid is None or scorers.references is None or len(images) < 2 or not images.isfinite().all():
        return None
    found = torch.cat([scorers.fid(part) for part in images.cpu().float().split(16)])
    return {
        "value": metrics.frechet(found, scorers.references), "features": scorers.fid_name,
        "folder": scorers.fid_folder, "images": len(images), "references": len(scorers.references),
    }  # fmt: skip


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
