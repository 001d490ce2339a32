"""Figures of a prompt's scenes: how different they are, how well they show what it says, and which sides have faces.

What cannot be had is null, with a reason. Whatever sectors a run's prompts had, which cameras see front, side and back
is told by the default ones: figures compare. Images of N scenes from V cameras are [N, V, 3, H, W].
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
from rsd.metrics.scoring import Found, Score, Scorers, Subject
from rsd.priors import over_heads

from .prompts import PromptSettings
from .scene.cameras import Cameras

SIZE = 64
"""Pixels of the pictures that are scored."""
AGREEMENTS = (
    "agreement", "agreement_scenes", "agreement_attributes", "agreement_read", "agreement_views", "agreement_told",
)  # fmt: skip


def diversity(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Mean over cameras of Div across scenes (Eq. 26, 27)."""
    found: dict[str, Any] = {"div": None, "div_features": scorers.features_name}
    if scorers.features is None:
        return found, {}
    if len(images) < 2:
        return found, {"div": "one scene has no diversity"}
    each = [metrics.diversity(scorers.features(images[:, v])) for v in range(images.shape[1])]
    return {**found, "div": sum(each) / len(each)}, {}


def heads(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """The figures of heads. ``agreement``: share of (scene, front camera, told attribute that it shows) classified as
    told, where it can be read (:mod:`rsd.heads.agreement`); ``agreement_scenes``: mean, best and std of the scenes' own
    shares; ``agreement_attributes``: each attribute's, None where fewer than half of the pictures can be read;
    ``agreement_read``: how many can, each attribute's share; ``agreement_views``: each camera's, by azimuth, on what it
    shows, or None; ``agreement_told``: all this in words. ``face_front``, ``janus``, ``faces``: see :func:`sides`.
    """
    found: dict[str, Any] = dict.fromkeys((*AGREEMENTS, "face_front", "janus", "faces"))
    reasons: dict[str, str] = {}
    if scorers.judge is None:
        return found, {}
    faces, cameras = None, subject.cameras
    views = PromptSettings().views(cameras)
    if scorers.face:
        faces = scorers.face.sees(scorers.judge, images.flatten(0, 1)).view(images.shape[:2])
        found |= sides(faces, cameras, views, reasons)
    return found | agreements(images, faces, cameras, views, subject.prompt, scorers.judge, reasons), reasons


def no_heads(what: str) -> Any:
    """Why the figures of heads are null."""
    return lambda asked: None if over_heads(asked.prior) else f"needs a prior over heads, whose {what}"


def sides(
    seen: torch.Tensor, cameras: Cameras, views: Sequence[str], reasons: dict[str, str]
) -> dict[str, float | dict[str, float | None]]:
    """Where faces are, by whether one is ``seen``, bool [N, V]; what is missing has its reason in ``reasons``.

    ``faces``: each camera's share, by azimuth. ``face_front``: share of (scene, front camera) with a face. ``janus``:
    the same of back cameras, over the scenes with a face in at least half of their front views: of a scene without any
    face its back tells nothing.
    """
    seen = seen.double()
    front, back = (seen[:, [at == side for at in views]] for side in ("front", "back"))
    figures: dict[str, Any] = {"faces": _by_azimuth(cameras, seen.mean(0).tolist())}
    if not front.numel():
        reasons["janus"] = "no camera sees the front, so that nobody knows which scenes have a face"
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
    """The figures of agreement (see :func:`heads`), or what is missing of them in ``reasons``. ``faces``: where one is
    seen, bool [N, V]; None if nobody can tell."""
    told = read(prompt).values
    N, V = images.shape[:2]
    if not told:
        reasons["agreement"] = "the prompt tells nothing that heads have"
        return {}
    seen = torch.tensor([shown(told, *at) for at in zip(cameras.azimuth, cameras.elevation, strict=True)])  # [V, A]
    flat = None if faces is None else faces.flatten()
    found = readings(judge.probabilities(images.flatten(0, 1)), told, flat).unflatten((N, V))
    own = [agreement(found[:, v : v + 1], seen[v : v + 1]).value for v in range(V)]
    figures: dict[str, Any] = {"agreement_views": _by_azimuth(cameras, own)}
    front = seen & torch.tensor([view == "front" for view in views])[:, None]
    if not front.any():
        reasons["agreement"] = "the prompt tells nothing that a front view shows"
        return figures
    whole = agreement(found, front)
    if whole.value is None:
        reasons["agreement"] = f"front views do not show what the prompt tells; {whole.reason}"
    elif whole.unread:
        reasons["agreement_attributes"] = f"not averaged; {whole.reason}"
    each = [found.right[n][whole.counted[n]].double().mean() for n in range(N) if whole.counted[n].any()]
    return figures | {
        "agreement": whole.value, "agreement_scenes": metrics.summary(torch.stack(each), best="max") if each else None,
        "agreement_attributes": whole.attributes, "agreement_read": whole.read, "agreement_told": whole.describe(),
    }  # fmt: skip


def shown(told: Mapping[str, str], azimuth: float, elevation: float) -> list[bool]:
    """Whether each told attribute can be seen from a camera on a head of these values (the others: unremarkable)."""
    whole = {**{a: options[0] for a, options in ATTRIBUTES.items()}, "hair": "short", **told}
    seen = visible(whole, Camera(float(azimuth), float(elevation)))
    return [seen[a] for a in told]


def _by_azimuth(cameras: Cameras, values: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{angle:.0f}": value for angle, value in zip(cameras.azimuth.tolist(), values, strict=True)}


SCORES = (
    Score("div", diversity),
    Score("agreement", heads, no_heads("attributes are known")),
    Score("janus", lambda *_: ({}, {}), no_heads("faces the attribute classifier knows")),  # with the agreement
)
