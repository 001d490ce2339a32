"""Figures of a prompt's scenes: their diversity, their agreement with the prompt, and which sides have faces.

Missing figures are null, with a reason. Front, side and back cameras are those of the default sectors, whatever the
run's sectors, so that figures are comparable. Images of N scenes from V cameras are [N, V, 3, H, W].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rsd import metrics
from rsd.heads.agreement import agreement, readings
from rsd.heads.attributes import ATTRIBUTES, Camera, visible
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.reading import read
from rsd.metrics.scoring import SPREADS, Found, Score, Scorers, Subject, difference
from rsd.priors import over_heads

from .options import PromptSettings
from .prompts import views_of
from .scene.cameras import Cameras

SIZE = 64
"""Side of the scored pictures in pixels."""
AGREEMENTS = (
    "agreement", "agreement_scenes", "agreement_attributes", "agreement_read", "agreement_views", "agreement_told",
)  # fmt: skip


def diversity(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure Div (Eq. 26, 27) and the Vendi score across scenes, averaged over cameras."""
    found: dict[str, Any] = {**dict.fromkeys(SPREADS), "div_features": scorers.features_name}
    if scorers.features is None:
        return found, {}
    if len(images) < 2:
        return found, dict.fromkeys(SPREADS, "one scene has no diversity")
    each = [metrics.spread(scorers.features(images[:, v])) for v in range(images.shape[1])]
    return {**found, **{name: sum(one[name] for one in each) / len(each) for name in SPREADS}}, {}


def heads(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure the figures of heads.

    ``agreement``: share of the triples of a scene, a front camera and a visible attribute of the prompt that are
    classified as the prompt says, where readable (:mod:`rsd.heads.agreement`); ``agreement_scenes``: mean, best and std
    of the scenes' shares; ``agreement_attributes``: each attribute's share, None if fewer than half of the pictures are
    readable; ``agreement_read``: the readable share of each attribute; ``agreement_views``: each camera's share, by
    azimuth, or None; ``agreement_told``: all this in words. ``face_front``, ``janus``, ``faces``: see
    :func:`face_figures`.
    """
    found: dict[str, Any] = dict.fromkeys((*AGREEMENTS, "face_front", "janus", "faces"))
    reasons: dict[str, str] = {}
    if scorers.judge is None:
        return found, {}
    faces, cameras = None, subject.cameras
    views = views_of(PromptSettings(), cameras)
    if scorers.face:
        faces = scorers.face.sees(scorers.judge, images.flatten(0, 1)).view(images.shape[:2])
        found |= face_figures(faces, cameras, views, reasons)
    return found | agreements(images, faces, cameras, views, subject.prompt, scorers.judge, reasons), reasons


def no_heads(what: str) -> Any:
    """Return a function that says why the figures of heads are null, or returns None."""
    return lambda asked: None if over_heads(asked.prior) else f"needs a prior over heads, whose {what}"


def face_figures(
    seen: torch.Tensor, cameras: Cameras, views: Sequence[str], reasons: dict[str, str]
) -> dict[str, float | dict[str, float | None]]:
    """Count faces, from whether one is ``seen``, bool [N, V]. Reasons of missing figures go to ``reasons``.

    ``faces``: each camera's share, by azimuth. ``face_front``: share of (scene, front camera) with a face. ``janus``:
    the share of back cameras with a face, over the scenes with a face in at least half of their front views.
    """
    seen = seen.double()
    front, back = (seen[:, [at == side for at in views]] for side in ("front", "back"))
    figures: dict[str, Any] = {"faces": _by_azimuth(cameras, seen.mean(0).tolist())}
    if not front.numel():
        reasons["janus"] = "no camera sees the front, so it is unknown which scenes have a face"
        return figures
    figures["face_front"] = float(front.mean())
    faced = back[front.mean(1) >= 0.5]
    if not back.numel():
        reasons["janus"] = "no camera sees the back"
    elif not faced.numel():
        reasons["janus"] = "no scene shows a face in half of its front views"
    else:
        figures["janus"] = float(faced.mean())
    return figures


def agreements(
    images: torch.Tensor, faces: torch.Tensor | None, cameras: Cameras, views: Sequence[str], prompt: str,
    judge: HeadsClassifier, reasons: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Measure the figures of agreement (see :func:`heads`); reasons of missing ones go to ``reasons``. ``faces``: where
    a face is seen, bool [N, V]; None if unknown."""
    named = read(prompt).values
    N, V = images.shape[:2]
    if not named:
        reasons["agreement"] = "the prompt names no attribute of heads"
        return {}
    seen = torch.tensor(
        [visible_attributes(named, *at) for at in zip(cameras.azimuth, cameras.elevation, strict=True)]
    )  # [V, A]
    flat = None if faces is None else faces.flatten()
    found = readings(judge.probabilities(images.flatten(0, 1)), named, flat).unflatten((N, V))
    own = [agreement(found[:, v : v + 1], seen[v : v + 1]).value for v in range(V)]
    figures: dict[str, Any] = {"agreement_views": _by_azimuth(cameras, own)}
    front = seen & torch.tensor([view == "front" for view in views])[:, None]
    if not front.any():
        reasons["agreement"] = "the prompt names no attribute that a front view shows"
        return figures
    whole = agreement(found, front)
    if whole.value is None:
        reasons["agreement"] = f"front views do not show the attributes of the prompt; {whole.reason}"
    elif whole.unread:
        reasons["agreement_attributes"] = f"not averaged; {whole.reason}"
    each = [found.right[n][whole.counted[n]].double().mean() for n in range(N) if whole.counted[n].any()]
    return figures | {
        "agreement": whole.value, "agreement_scenes": metrics.summary(torch.stack(each), best="max") if each else None,
        "agreement_attributes": whole.attributes, "agreement_read": whole.read, "agreement_told": whole.describe(),
    }  # fmt: skip


def visible_attributes(named: Mapping[str, str], azimuth: float, elevation: float) -> list[bool]:
    """Return whether each attribute is visible from a camera on a head of these values (the others: default values)."""
    whole = {**{a: options[0] for a, options in ATTRIBUTES.items()}, "hair": "short", **named}
    seen = visible(whole, Camera(float(azimuth), float(elevation)))
    return [seen[a] for a in named]


def _by_azimuth(cameras: Cameras, values: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{angle:.0f}": value for angle, value in zip(cameras.azimuth.tolist(), values, strict=True)}


def distance(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Measure the difference between scenes over all cameras, and whether they are nearly equal."""
    return difference(images.transpose(1, 2).flatten(2, 3))  # a scene's views as one tall picture


SCORES = (
    Score("div", diversity),
    Score("difference", distance),
    Score("agreement", heads, no_heads("attributes are known")),
    Score("janus", lambda *_: ({}, {}), no_heads("faces the attribute classifier knows")),  # with the agreement
)
