"""The scores of a set of pictures: their diversity, and their agreement with the prompt."""

from __future__ import annotations

from typing import Any

import torch

from rsd import metrics
from rsd.heads.agreement import agreement, readings
from rsd.heads.attributes import ATTRIBUTES, ON_FACE
from rsd.heads.reading import PromptAttributes, read
from rsd.metrics.scoring import (
    CLIP,
    DIVERSITY,
    NOT_FINITE,
    ONE_IMAGE,
    Found,
    Score,
    ScoreRequest,
    Scorers,
    Subject,
    difference,
)
from rsd.metrics.scoring import pictures as pictures
from rsd.metrics.selection import Fit
from rsd.priors import over_heads

FIGURES = ("div", "vendi", "agreement", "coverage", "clip", "aesthetic", "seconds")
"""The columns of a summary."""


def figures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Return one number per figure of metrics.json: the mean over particles, or over open attributes for the
    coverage."""
    found = {name: metrics.get(name) for name in FIGURES}
    return {k: v.get("mean") if isinstance(v, dict) else v for k, v in found.items()}


def heads(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure the figures of heads, see :func:`heads_figures`; None for other priors."""
    if scorers.judge is None:
        return {"agreement": None, "coverage": None}, {}
    reasons: dict[str, str] = {}
    faces = scorers.face.sees(scorers.judge, images) if scorers.face else None
    return heads_figures(scorers.judge.probabilities(images), read(subject.prompt), reasons, faces), reasons


def prompt_fit(images: torch.Tensor, prompt: str, scorers: Scorers) -> Fit | None:
    """Return how well each of the images [M, 3, H, W] follows the prompt, for the selection of those to keep; None if
    nothing measures that.

    For heads: the share of the prompt's attributes that are read as the prompt says, as in :func:`heads_figures`; 0 if
    none of them can be read. Otherwise CLIP's cosine similarity x 100, if it is loaded; the score is its cube, so that
    pictures down to 0.89 of the best one fit.
    """
    named = read(prompt) if scorers.judge else None
    if scorers.judge and named and named.seen:
        faces = scorers.face.sees(scorers.judge, images) if scorers.face else None
        found = readings(scorers.judge.probabilities(images), {a: named.values[a] for a in named.seen}, faces)
        counted = agreement(found).counted
        share = (found.right & counted).sum(-1).double() / counted.sum(-1)  # 0 / 0: nan
        if counted.any():
            return Fit("agreement", share, share.nan_to_num(0.0))
    if scorers.clip and prompt:
        values = 100 * scorers.clip(images, prompt).clamp(min=0).double()
        return Fit("clip", values, values**3)
    return None


def no_heads(asked: ScoreRequest) -> str | None:
    """Return why the figures of heads are null, or None."""
    return None if over_heads(asked.prior) else "needs a prior over heads, whose attributes are known"


def heads_figures(
    probabilities: dict[str, torch.Tensor],
    named: PromptAttributes,
    reasons: dict[str, str],
    faces: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Measure how heads follow a prompt, and how they vary in the attributes that it leaves open.

    ``probabilities``: for each attribute [N, K] (see HeadsClassifier); ``faces``: which particles show a face, bool
    [N], or None if unknown. Missing figures are None, with an entry in ``reasons``:

    ``agreement``: share of the pairs of a particle and a visible attribute of the prompt that are classified as the
    prompt says, where readable (:mod:`rsd.heads.agreement`); ``agreement_particles``: mean, best and std of the
    particles' shares; ``agreement_attributes``: each attribute's share, None if fewer than half of the particles are
    readable; ``agreement_read``: the readable share of each attribute; ``agreement_told``: all this in words.
    ``coverage``: for each visible attribute that is open, the number of values among the particles (``distinct``)
    ``of`` those possible, counting confident classifications (0.8) only; ``mean`` over these attributes. Attributes
    hidden by the particle's own sunglasses or bald head, and attributes of a missing face, have no value.
    """
    names = ("agreement", "agreement_particles", "agreement_attributes", "agreement_read", "agreement_told")
    figures: dict[str, Any] = dict.fromkeys(names)
    if named.seen:
        found = readings(probabilities, {a: named.values[a] for a in named.seen}, faces)
        whole = agreement(found)
        each = [right[at].double().mean() for right, at in zip(found.right, whole.counted, strict=True) if at.any()]
        figures["agreement_particles"] = metrics.summary(torch.stack(each), best="max") if each else None
        figures |= {
            "agreement": whole.value, "agreement_attributes": whole.attributes, "agreement_read": whole.read,
            "agreement_told": whole.describe(),
        }  # fmt: skip
        if whole.value is None:
            reasons["agreement"] = f"the pictures do not show the attributes of the prompt; {whole.reason}"
        elif whole.unread:
            reasons["agreement_attributes"] = f"not averaged; {whole.reason}"
    else:
        figures["agreement_attributes"] = {}
        reasons["agreement"] = "the prompt names no attribute that is visible from the view"
    covered = None
    if named.open:
        counted = metrics.coverage(_shown(probabilities, named, faces), named.open, {})
        of = {a: len(ATTRIBUTES[a]) for a in named.open}
        covered = {"mean": counted["mean"], "distinct": counted["distinct"], "of": of}
    else:
        reasons["coverage"] = "the prompt leaves no attribute open that is visible from the view"
    return {**figures, "coverage": covered}


def _shown(
    probabilities: dict[str, torch.Tensor], named: PromptAttributes, faces: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return the probabilities of the open attributes; nan if the particle, as classified, hides the attribute or has
    no face."""
    found = {a: p.argmax(1).tolist() for a, p in probabilities.items()}
    shown = {a: probabilities[a].clone() for a in named.open}
    for k in range(len(next(iter(probabilities.values())))):
        values = {a: ATTRIBUTES[a][codes[k]] for a, codes in found.items()}
        for a in named.open:
            faceless = faces is not None and a in ON_FACE and not faces[k]
            if faceless or not named.shows(values, a):
                shown[a][k] = torch.nan
    return shown


def aesthetic(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure LAION's aesthetic rating."""
    if scorers.aesthetic is None:
        return {"aesthetic": None}, {}
    rated = metrics.summary(scorers.aesthetic(images), best="max")
    return {"aesthetic": {**rated, "weights": scorers.aesthetic_name, "model": scorers.clip_name}}, {}


def fid(images: torch.Tensor, scorers: Scorers) -> dict[str, Any] | None:
    """Return the Frechet distance of images [N, 3, H, W] (of one prompt, or better of many) to the reference folder,
    with what was compared; None without a folder, for one image, or for images that are not finite."""
    if scorers.fid is None or scorers.references is None or len(images) < 2 or not images.isfinite().all():
        return None
    found = torch.cat([scorers.fid(part) for part in images.cpu().float().split(16)])
    return {
        "value": metrics.frechet(found, scorers.references), "features": scorers.fid_name,
        "folder": scorers.fid_folder, "images": len(images), "references": len(scorers.references),
    }  # fmt: skip


def distance(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure the :func:`fid` of one prompt's pictures."""
    found = fid(images, scorers)
    if found or scorers.fid is None:
        return {"fid": found}, {}
    return {"fid": None}, {"fid": ONE_IMAGE if images.isfinite().all() else NOT_FINITE}


def no_folder(asked: ScoreRequest) -> None:
    """Raise ValueError if FID has no reference folder."""
    if asked.fid_folder is None:
        raise ValueError("The metric fid compares with a folder of images; give --fid-folder DIR.")


def fid_by(asked: ScoreRequest) -> dict[str, Any]:
    """Return what FID compares."""
    assert asked.fid_folder is not None
    features = asked.div_name if asked.fid_features == "auto" else asked.fid_features
    return {
        "features": features, "folder": str(asked.fid_folder.resolve()), "references": len(pictures(asked.fid_folder)),
    }  # fmt: skip


SCORES = (
    DIVERSITY,
    Score("difference", lambda images, subject, scorers: difference(images)),
    Score("agreement", heads, no_heads),
    Score("coverage", lambda images, subject, scorers: ({}, {}), no_heads),  # measured with the agreement
    CLIP,
    Score(
        "aesthetic",
        aesthetic,
        by=lambda asked: {"weights": asked.aesthetic_weights, "model": asked.clip_model},
        optional=True,
    ),  # fmt: skip
    Score("fid", distance, no_folder, fid_by, optional=True),
)
