"""What a finished restoration is scored by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rsd import metrics
from rsd.heads.agreement import open_values
from rsd.heads.classifier import HeadsClassifier
from rsd.metrics.scoring import CLIP, DIVERSITY, Found, Score, ScoreRequest, Scorers, Subject, difference

from .operators import Inpaint, data_residual
from .problem import Problem

NOTHING = {
    "mean": "the measurement leaves no attribute open", "agreement": "the measurement shows no attribute for certain",
}  # fmt: skip
"""Why a part of the coverage is null."""
EXACT = "an answer equals the truth to the bit, which is infinitely many dB"
NO_TRUTH = "no clean image to compare with (see --clean)"


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


def to_truth(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """PSNR and SSIM."""
    clean = subject.problem.clean
    if clean is None:
        return {"psnr": None, "ssim": None}, dict.fromkeys(("psnr", "ssim"), NO_TRUTH)
    psnr = metrics.summary(metrics.psnr(images, clean), best="max")
    ssim = metrics.summary(metrics.ssim(images, clean), best="max")
    return {"psnr": psnr, "ssim": ssim}, {f"psnr.{part}": EXACT for part, value in psnr.items() if value is None}


def lpips(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """LPIPS to the truth."""
    if scorers.lpips is None or subject.problem.clean is None:
        return {"lpips": None}, {"lpips": NO_TRUTH} if scorers.lpips else {}
    return {"lpips": metrics.summary(scorers.lpips(images, subject.problem.clean), best="min")}, {}


def residual(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """The data residual in units of sigma_v."""
    problem, sigma_v = subject.problem, subject.options.sigma_v
    if sigma_v == 0:
        return {"residual": None}, {"residual": "sigma_v is 0, and the residual is measured in units of it"}
    difference, count = data_residual(problem.operator, images, problem.y)
    return {"residual": metrics.summary(metrics.residual(difference, count, sigma_v), best="min")}, {}


def apart(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """How far samples are apart, in what an inpainting mask hides, else everywhere."""
    operator = subject.problem.operator
    known = operator.observed if isinstance(operator, Inpaint) else None
    return difference(images, None if known is None else ~known)


def heads(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """The coverage, and why parts of it are null."""
    found = coverage(images, subject.problem, scorers.judge)
    if found["coverage"] is None:
        return {"coverage": None}, {"coverage": found["reason"]}
    return found, {f"coverage.{part}": why for part, why in NOTHING.items() if found["coverage"][part] is None}


def no_prompt(asked: ScoreRequest) -> str | None:
    """Why CLIP has nothing to compare with."""
    return None if asked.prompt else "no prompt to compare with (see --prompt)"


def no_truths(asked: ScoreRequest) -> str | None:
    """Why the distance of two sets of images is null."""
    if not asked.clean:
        return NO_TRUTH
    return None if asked.several else "it compares many images with many; give several or a folder"


SCORES = (
    Score("psnr", to_truth),
    Score("lpips", lpips, lambda asked: None if asked.clean else NO_TRUTH, lambda asked: {}, optional=True),
    replace(CLIP, why_not=no_prompt),
    Score("residual", residual),
    replace(DIVERSITY, by=lambda asked: None if asked.div_features == "auto" else {"div_features": asked.div_features}),
    Score("difference", apart),
    Score("coverage", heads),
    Score("fid", None, no_truths, optional=True),  # of all images together
)


def distance(answers: list[torch.Tensor], truths: list[torch.Tensor], scorers: Scorers) -> dict[str, Any]:
    """The Frechet and kernel distances between all answers and all truths, an entry an image, [N, 3, H, W] and
    [1, 3, H, W] in [-1, 1], with what they are of."""
    network = scorers.fid
    assert network is not None
    a, b = (torch.cat([network(x) for x in images]) for images in (answers, truths))
    found = {"value": metrics.frechet(a, b), "kid": metrics.kernel_distance(a, b), "features": scorers.fid_name}
    return {**found, "images": len(b), "particles": len(a)}
