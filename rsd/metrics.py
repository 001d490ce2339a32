"""Figures, with what they are of: mean over particles, best of N and spread are never mixed up."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from rsd.heads.attributes import ATTRIBUTES

CONFIDENT = 0.8


def psnr(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image, [N] dB, for x [N, 3, H, W] and truth [1 or N, 3, H, W] in [-1, 1] (x is
    clamped); equal images give infinity."""
    error = ((x.clamp(-1, 1) - truth) / 2).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, [N] in [-1, 1]: scikit-image's, 7 x 7 windows, mean over colours.

    Measured on intensities in [0, 1]: unlike PSNR it compares means, so it changes if black is -1 instead of 0.
    """
    from skimage.metrics import structural_similarity

    intensities = [((v.cpu().double() + 1) / 2).numpy() for v in (x.clamp(-1, 1), truth.expand_as(x))]
    pairs = zip(*intensities, strict=True)
    return torch.tensor([structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs])


def residual(difference: torch.Tensor, count: int, sigma_v: float) -> torch.Tensor:
    """|y - f(x)| / (sigma_v sqrt m) of each particle, [N]: about 1 if x explains y up to its noise.

    difference: y - f(x) [N, ...], zero where nothing is observed; count: m, the number of observed entries.
    """
    return difference.abs().square().flatten(1).sum(1).sqrt() / (sigma_v * math.sqrt(count))


def diversity(features: torch.Tensor) -> float:
    """Div = 1 - mean cosine similarity over the pairs i < j (Eq. 26, 27); features [N, d], N >= 2."""
    assert len(features) > 1, "one particle has no diversity"
    phi = F.normalize(features.double(), dim=1)
    rows, cols = torch.triu_indices(len(phi), len(phi), offset=1)
    return float(1 - (phi[rows] * phi[cols]).sum(1).mean())


def summary(values: torch.Tensor, *, best: Literal["max", "min"]) -> dict[str, float | None]:
    """{"mean", "best", "std"} over particles; values that are not finite (equal images have infinite PSNR) are null."""
    v = values.double().cpu()
    figures = {"mean": v.mean(), "best": v.max() if best == "max" else v.min(), "std": v.std(correction=0)}
    return {k: float(x) if math.isfinite(x) else None for k, x in figures.items()}


def coverage(probabilities: dict[str, torch.Tensor], hidden: list[str], visible: dict[str, str]) -> dict[str, Any]:
    """How the particles fill what the measurement hides, and whether they keep what it shows.

    probabilities: for each attribute [N, K] (see HeadsClassifier). ``distinct``: for each hidden attribute how many
    different values over the particles, confident classifications (0.8) only; ``mean``: over hidden attributes;
    ``agreement``: share of (particle, visible attribute) pairs classified as the truth. Null where there is none.
    """
    distinct = {}
    for attribute in hidden:
        confidence, value = probabilities[attribute].max(1)
        distinct[attribute] = len(set(value[confidence >= CONFIDENT].tolist()))
    right = [probabilities[a].argmax(1) == ATTRIBUTES[a].index(value) for a, value in visible.items()]
    return {
        "mean": float(np.mean(list(distinct.values()))) if distinct else None,
        "distinct": distinct,
        "agreement": float(torch.stack(right).double().mean()) if right else None,
    }
