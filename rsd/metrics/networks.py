"""What Div is measured on: a network that the repulsion did not use, or none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from rsd import metrics
from rsd.features import load_features, on_cpu
from rsd.heads.classifier import HeadsClassifier

Features = Callable[[torch.Tensor], torch.Tensor]

DIV = "facebook/dinov2-small"
"""For priors other than heads: not the repulsion's default, facebook/dino-vits16."""
CLASSIFIER = "heads classifier"
NEARLY_EQUAL = 0.2
"""Below this distance (:func:`rsd.metrics.difference`) samples look the same. On heads, N = 4: super-resolution without
repulsion has 0.05 to 0.13 (Div below 0.001, and nobody sees a difference); half a face has 0.34 to 0.90 by five
methods, pictures of one prompt 0.64 (SDS without repulsion) to 1.0."""


@dataclass(frozen=True)
class DivNetwork:
    """``features``: images [N, 3, H, W] in [-1, 1] on the CPU to [N, d] there; None: not to be had, and ``reason`` says
    why. ``name``: what it is, as metrics.json calls it."""

    features: Features | None = None
    name: str | None = None
    reason: str | None = None


def load_div(
    name: str, *, judge: HeadsClassifier | None, repulsion: Collection[str], device: str | torch.device
) -> DivNetwork:
    """The network of that name (see ``load_features``). "auto": the attribute classifier ``judge``, else DINOv2, or
    none where that cannot be had. ``repulsion``: the repulsion's own, if any: using one of them again is warned of.

    Raises ImportError, FileNotFoundError or ValueError, in one sentence, if a network asked for by name cannot be had.
    """
    if name == "auto" and judge:
        return DivNetwork(judge.features, CLASSIFIER)
    chosen = DIV if name == "auto" else name
    try:
        found = load_features(chosen, device=device)
    except ValueError as error:
        if name != "auto":
            raise
        return DivNetwork(reason=f"{error} Or give --div-features.")
    if chosen in repulsion:
        warnings.warn(f"Div is measured on {chosen}, which the repulsion used: it says too much.", stacklevel=2)
    return DivNetwork(on_cpu(found, device), chosen)


def apart(images: torch.Tensor, where: torch.Tensor | None = None) -> dict[str, Any]:
    """For metrics.json: how far samples [N, 3, H, W] are apart (``difference``, of :func:`rsd.metrics.difference`) and
    whether that is next to nothing (``nearly_equal``); None for a single one, or for samples that are not finite."""
    if len(images) < 2 or not images.isfinite().all():
        return {"difference": None, "nearly_equal": None}
    found = metrics.difference(images, where)
    return {"difference": found, "nearly_equal": found < NEARLY_EQUAL}


def warn_if_equal(figures: dict[str, Any], number: int, *, remedy: str) -> None:
    """Warn if ``number`` samples with these figures are nearly equal; of many runs the same is told once. ``remedy``:
    what makes them differ."""
    if figures["nearly_equal"]:
        told = f"The {number} samples are nearly equal; {remedy}, or save time with --particles 1."
        warnings.warn(told, stacklevel=2)
