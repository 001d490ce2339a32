"""What a finished restoration leaves: figures with their labels, and pictures to look at."""

from __future__ import annotations

from typing import Any

import torch

from rsd import metrics
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.hidden import open_values
from rsd.metrics.networks import apart

from .networks import Scorers, why_not
from .operators import Inpaint, data_residual
from .options import Restore
from .problem import Problem

NOTHING = {
    "mean": "the measurement leaves no attribute open", "agreement": "the measurement shows no attribute for certain",
}  # fmt: skip
"""Why a part of the coverage is null."""
ALONE = "one particle has no diversity"
EXACT = "an answer equals the truth to the bit, which is infinitely many dB"


def coverage(images: torch.Tensor, problem: Problem, judge: HeadsClassifier | None) -> dict[str, Any]:
    """For a known head: distinct confident values of each hidden attribute over the particles, and the share of
    visible attributes that the particles got right."""
    if judge is None or problem.head is None:
        return {"coverage": None, "reason": "needs --clean, a prior over heads and a picture from `rsd heads`"}
    left_open = open_values(problem.head, problem.operator, images.shape[-1])
    return {"coverage": covered(images, left_open, judge)}


def covered(images: torch.Tensor, left_open: dict[str, set[str]], judge: HeadsClassifier) -> dict[str, Any]:
    """The coverage of images [N, 3, H, W], given what is left open (:func:`open_values`)."""
    hidden = sorted(a for a, values in left_open.items() if len(values) > 1)
    visible = {a: next(iter(values)) for a, values in left_open.items() if len(values) == 1}
    return metrics.coverage(judge.probabilities(images.float()), hidden, visible)


def compared(
    images: torch.Tensor, problem: Problem, options: Restore, scorers: Scorers
) -> tuple[dict[str, Any], dict[str, str]]:
    """LPIPS to the truth and 100 x CLIP's cosine to the prompt (0 where negative), or None, and why."""
    found: dict[str, Any] = {"lpips": None, "clip": None}
    if scorers.lpips and problem.clean is not None:
        found["lpips"] = metrics.summary(scorers.lpips(images, problem.clean), best="min")
    if scorers.clip:
        values = 100 * scorers.clip(images, options.prompt).clamp(min=0)
        found["clip"] = {**metrics.summary(values, best="max"), "model": options.clip_model}
    why = why_not(options, several=True)
    return found, {name: why[name] for name in found if name in why}


def diversity(images: torch.Tensor, scorers: Scorers) -> tuple[dict[str, Any], dict[str, str]]:
    """Div and what it is measured on, or None, and why."""
    name, features = scorers.div.name, scorers.div.features
    found = {"div": None, "div_features": name}
    if len(images) < 2:
        return found, {"div": ALONE}
    if features is None:
        return found, {"div": scorers.div.reason or "no network measures it"}
    return {**found, "div": metrics.diversity(features(images))}, {}


def score(images: torch.Tensor, problem: Problem, options: Restore, scorers: Scorers) -> dict[str, Any]:
    """metrics.json without the run's costs: psnr, ssim, lpips, clip, residual, div, difference (of what an inpainting
    mask hides, else of all), coverage, and the reasons for those missing. images: [N, 3, H, W] in [-1, 1], aligned
    (:meth:`Problem.aligned`), on the CPU as the problem is.
    """
    images = images.float()
    found: dict[str, Any] = {"psnr": None, "ssim": None, "residual": None}
    others, reasons = compared(images, problem, options, scorers)
    if problem.clean is not None:
        found["psnr"] = metrics.summary(metrics.psnr(images, problem.clean), best="max")
        found["ssim"] = metrics.summary(metrics.ssim(images, problem.clean), best="max")
        reasons |= {f"psnr.{part}": EXACT for part, value in found["psnr"].items() if value is None}
    else:
        reasons["psnr"] = reasons["ssim"] = "no clean image to compare with (see --clean)"
    if options.sigma_v > 0:
        difference, count = data_residual(problem.operator, images, problem.y)
        found["residual"] = metrics.summary(metrics.residual(difference, count, options.sigma_v), best="min")
    else:
        reasons["residual"] = "sigma_v is 0, and the residual is measured in units of it"
    div, no_div = diversity(images, scorers)
    known = problem.operator.observed if isinstance(problem.operator, Inpaint) else None
    found |= {**div, **apart(images, None if known is None else ~known)}
    reasons |= no_div
    if found["difference"] is None:
        reasons["difference"] = ALONE if len(images) < 2 else "the samples are not finite"
    covered = coverage(images, problem, scorers.judge)
    found["coverage"] = covered["coverage"]
    if "reason" in covered:
        reasons["coverage"] = covered["reason"]
    for part, why in NOTHING.items():
        if found["coverage"] and found["coverage"][part] is None:
            reasons[f"coverage.{part}"] = why
    return {**found, **others, "reasons": reasons}
