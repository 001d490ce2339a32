"""The network that measures Div, which should not be the repulsion's, and the difference of samples in pixels."""

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
"""For priors other than heads; not the repulsion's default, facebook/dino-vits16."""
CLASSIFIER = "heads classifier"
NEARLY_EQUAL = 0.2
"""Samples below this difference (:func:`rsd.metrics.difference`) look the same. On heads, N = 4: super-resolution
without repulsion has 0.05 to 0.13 (Div below 0.001, no visible difference); half a face has 0.34 to 0.90 for five
methods, images of one prompt 0.64 (SDS without repulsion) to 1.0."""


@dataclass(frozen=True)
class DivNetwork:
    """``features``: maps CPU images [N, 3, H, W] in [-1, 1] to [N, d]; None: not available, see ``reason``. ``name``:
    in metrics.json."""

    features: Features | None = None
    name: str | None = None
    reason: str | None = None


def load_div(
    name: str, *, judge: HeadsClassifier | None, repulsion: Collection[str], device: str | torch.device
) -> DivNetwork:
    """Load the network of that name (see ``load_features``). "auto": the attribute classifier ``judge``, otherwise
    DINOv2, or none if that is not available. Warns if it is one of ``repulsion``, the networks of the
    repulsion and the selection.

    Raises ImportError, FileNotFoundError or ValueError if a network requested by name is not available.
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
        warnings.warn(
            f"Div is measured with {chosen}, which the repulsion or --draw used: it is too optimistic.", stacklevel=2
        )
    return DivNetwork(on_cpu(found, device), chosen)


def pixel_difference(images: torch.Tensor, where: torch.Tensor | None = None) -> dict[str, Any]:
    """Return for metrics.json the ``difference`` of samples [N, 3, H, W] (:func:`rsd.metrics.difference`) and whether
    they are ``nearly_equal``; None for a single sample or if they are not finite."""
    if len(images) < 2 or not images.isfinite().all():
        return {"difference": None, "nearly_equal": None}
    found = metrics.difference(images, where)
    return {"difference": found, "nearly_equal": found < NEARLY_EQUAL}


def warn_if_equal(figures: dict[str, Any], number: int, *, remedy: str) -> None:
    """Warn if ``number`` samples with these figures are nearly equal (once for many runs). ``remedy``: how to make them
    differ."""
    if figures["nearly_equal"]:
        warnings.warn(
            f"The {number} samples are nearly equal; {remedy}, or save time with --particles 1.", stacklevel=2
        )
