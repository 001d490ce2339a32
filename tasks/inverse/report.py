"""What a finished restoration leaves: figures with their labels, and pictures to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rsd import metrics
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.hidden import open_values

from .operators import PhaseRetrieval, best_rotation, data_residual
from .problem import Problem

Features = Callable[[torch.Tensor], torch.Tensor]


def coverage(images: torch.Tensor, problem: Problem, judge: HeadsClassifier | None) -> dict[str, Any]:
    """For a known head: distinct confident values of each hidden attribute over the particles, and the share of
    visible attributes that the particles got right."""
    if judge is None or problem.head is None:
        return {"coverage": None, "reason": "needs --clean, the heads prior and a picture from `rsd heads`"}
    left_open = open_values(problem.head, problem.operator.cpu(), images.shape[-1])
    hidden = {a: len(values) for a, values in left_open.items() if len(values) > 1}
    visible = {a: problem.head[a] for a, values in left_open.items() if len(values) == 1}
    return {"coverage": metrics.coverage(judge.probabilities(images.float()), sorted(hidden), visible)}


def score(
    images: torch.Tensor, problem: Problem, sigma_v: float, *, features: Features, judge: HeadsClassifier | None
) -> dict[str, Any]:
    """metrics.json without the run's costs: psnr, ssim, residual, div, coverage, and the reasons for those missing.

    images: [N, 3, H, W] in [-1, 1]; ``features``: the map that Div is measured on.
    """
    images = images.cpu().float()
    found: dict[str, Any] = {"psnr": None, "ssim": None, "residual": None, "div": None}
    reasons: dict[str, str] = {}
    operator = problem.operator.cpu()
    if problem.clean is not None:
        turned = best_rotation(images, problem.clean) if isinstance(operator, PhaseRetrieval) else images
        found["psnr"] = metrics.summary(metrics.psnr(turned, problem.clean), best="max")
        found["ssim"] = metrics.summary(metrics.ssim(turned, problem.clean), best="max")
    else:
        reasons["psnr"] = reasons["ssim"] = "no clean image to compare with (see --clean)"
    if sigma_v > 0:
        difference, count = data_residual(operator, images, problem.y.cpu())
        found["residual"] = metrics.summary(metrics.residual(difference, count, sigma_v), best="min")
    else:
        reasons["residual"] = "sigma_v is 0, and the residual is measured in units of it"
    if len(images) > 1:
        with torch.no_grad():
            found["div"] = metrics.diversity(features(images))
    else:
        reasons["div"] = "one particle has no diversity"
    covered = coverage(images, problem, judge)
    found["coverage"] = covered["coverage"]
    if "reason" in covered:
        reasons["coverage"] = covered["reason"]
    return {**found, "reasons": reasons}
