"""What Div is measured on: a network that the repulsion did not use, or none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from rsd.features import load_features, on_cpu
from rsd.heads.classifier import HeadsClassifier

Features = Callable[[torch.Tensor], torch.Tensor]

DIV = "facebook/dinov2-small"
"""For priors other than heads: not the repulsion's default, facebook/dino-vits16."""
CLASSIFIER = "heads classifier"


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
