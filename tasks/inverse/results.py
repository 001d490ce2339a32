"""Score a finished restoration, write its images, and summarise its figures in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsd import media, metrics
from rsd.heads.agreement import open_values
from rsd.heads.classifier import HeadsClassifier
from rsd.metrics.scoring import CLIP, DIVERSITY, Found, Score, ScoreRequest, Scorers, Subject, difference
from rsd.priors import takes_any_size
from rsd.runs.folder import RunFolder

from .operators import BlindBlur, Inpaint, PoissonDenoise, data_residual
from .options import Restore
from .pictures.measured import about
from .problem import Problem

NOTHING_TO_COVER = {
    "mean": "the measurement leaves no attribute open", "agreement": "the measurement shows no attribute for certain",
}  # fmt: skip
"""The reason if a part of the coverage is null."""
EXACT = "a sample equals the clean image exactly, so its PSNR is infinite"
NO_TRUTH = "no clean image to compare with (see --clean)"
FAR = 10
"""The residual in sigma_v from which a measurement is hardly explained."""
SMALLEST = 32
"""The least image size in pixels for LPIPS and DISTS: their networks' pooling needs it."""


def check_metrics(options: Restore, size: int) -> None:
    """Raise ValueError for a metric that images of ``size`` px, the shorter side, do not support. Loads nothing."""
    for name in ("lpips", "dists"):
        if name in options.metrics and options.clean and size < SMALLEST:
            raise ValueError(
                f"{name.upper()} needs at least {SMALLEST} px, but images have {size} px; leave it out of --metrics."
            )


def coverage(images: torch.Tensor, problem: Problem, judge: HeadsClassifier | None) -> dict[str, Any]:
    """Return, for a known head, the number of distinct confident values of each hidden attribute over the samples, and
    the share of visible attributes that the samples reproduce."""
    if judge is None or problem.head is None:
        return {"coverage": None, "reason": "needs --clean, a prior over heads and an image from `rsd heads`"}
    left_open = open_values(problem.head, problem.operator, images.shape[-1])
    return {"coverage": coverage_of(images, left_open, judge)}


def coverage_of(images: torch.Tensor, left_open: dict[str, set[str]], judge: HeadsClassifier) -> dict[str, Any]:
    """Return the coverage of images [N, 3, H, W], given the open values of each attribute (:func:`open_values`)."""
    hidden = sorted(a for a, values in left_open.items() if len(values) > 1)
    visible = {a: next(iter(values)) for a, values in left_open.items() if len(values) == 1}
    return metrics.coverage(judge.probabilities(images.float()), hidden, visible)


def psnr_and_ssim(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return PSNR and SSIM."""
    clean = subject.problem.clean
    if clean is None:
        return {"psnr": None, "ssim": None}, dict.fromkeys(("psnr", "ssim"), NO_TRUTH)
    psnr = metrics.summary(metrics.psnr(images, clean), best="max")
    ssim = metrics.summary(metrics.ssim(images, clean), best="max")
    return {"psnr": psnr, "ssim": ssim}, {f"psnr.{part}": EXACT for part, value in psnr.items() if value is None}


def lpips(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return LPIPS to the clean image."""
    if scorers.lpips is None or subject.problem.clean is None:
        return {"lpips": None}, {"lpips": NO_TRUTH} if scorers.lpips else {}
    return {"lpips": metrics.summary(scorers.lpips(images, subject.problem.clean), best="min")}, {}


def dists(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return DISTS to the clean image."""
    if scorers.dists is None or subject.problem.clean is None:
        return {"dists": None}, {"dists": NO_TRUTH} if scorers.dists else {}
    return {"dists": metrics.summary(scorers.dists(images, subject.problem.clean), best="min")}, {}


def residual(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return the data residual in units of sigma_v."""
    problem = subject.problem
    sigma_v = problem.operator.noise_level(subject.options.sigma_v)
    if sigma_v == 0:
        return {"residual": None}, {"residual": "there is no noise, in whose units the residual is measured"}
    difference, count = data_residual(problem.operator, images, problem.y)
    return {"residual": metrics.summary(metrics.residual(difference, count, sigma_v), best="min")}, {}


def sample_difference(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return the difference between samples: in the hidden pixels of an inpainting mask, else everywhere."""
    operator = subject.problem.operator
    known = operator.observed if isinstance(operator, Inpaint) else None
    return difference(images, None if known is None else ~known)


def head_coverage(images: torch.Tensor, subject: Subject, scorers: Scorers) -> Found:
    """Return the coverage, and the reasons for parts that are null."""
    found = coverage(images, subject.problem, scorers.judge)
    if found["coverage"] is None:
        return {"coverage": None}, {"coverage": found["reason"]}
    return found, {f"coverage.{part}": why for part, why in NOTHING_TO_COVER.items() if found["coverage"][part] is None}


def no_prompt(asked: ScoreRequest) -> str | None:
    """Return the reason if CLIP has no prompt."""
    return None if asked.prompt else "no prompt to compare with (see --prompt)"


def no_truths(asked: ScoreRequest) -> str | None:
    """Return the reason if the distance between two sets of images is null."""
    if not asked.clean:
        return NO_TRUTH
    return None if asked.several else "it compares sets of images; give several images or a folder"


SCORES = (
    Score("psnr", psnr_and_ssim),
    Score("lpips", lpips, lambda asked: None if asked.clean else NO_TRUTH, lambda asked: {}, optional=True),
    Score("dists", dists, lambda asked: None if asked.clean else NO_TRUTH, lambda asked: {}, optional=True),
    replace(CLIP, why_not=no_prompt),
    Score("residual", residual),
    replace(DIVERSITY, by=lambda asked: None if asked.div_features == "auto" else {"div_features": asked.div_features}),
    Score("difference", sample_difference),
    Score("coverage", head_coverage),
    Score("fid", None, no_truths, optional=True),  # of all images together
)


def distance(
    samples: list[torch.Tensor], clean: list[torch.Tensor], scorers: Scorers
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the Frechet and kernel distances between all samples and all clean images, with the feature map and the
    counts; or None and the reason. One entry per image: [N, 3, H, W] and [1, 3, H, W] in [-1, 1]."""
    network = scorers.fid
    assert network is not None
    maps = [[network(x) for x in images] for images in (samples, clean)]
    if len({x.shape[1] for x in maps[0]}) > 1:  # pixels
        how = "choose a network with --fid-features, or give --fit crop"
        return None, f"{scorers.fid_name} of images of different sizes cannot be compared; {how}"
    a, b = map(torch.cat, maps)
    found = {"value": metrics.frechet(a, b), "kid": metrics.kernel_distance(a, b), "features": scorers.fid_name}
    return {**found, "images": len(b), "particles": len(a)}, None


def keep_known(options: Restore, problem: Problem) -> bool:
    """Return whether to copy the known pixels into the samples."""
    return isinstance(problem.operator, Inpaint) and options.keeps_known


def write_results(
    images: torch.Tensor, problem: Problem, folder: RunFolder, options: Restore, names: Sequence[str],
    estimate: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Write particles/, measurement, spread, and the grid with the samples' ``names``; the ``estimate`` [1, 3, h, w]
    that the samples start from, of priors that take any size the samples' mean, of task scratches the mask, and of task
    deblur_blind the kernels."""
    about = {"seed": str(options.seed), "gamma": str(options.gamma), "method": options.method, "task": options.task}
    about["prompt"] = options.prompt
    shown = write_samples(images, problem, folder, options, about)
    if takes_any_size(options.prior) and len(images) > 1:
        write_whole(folder.path / "mean.png", images.mean(0, keepdim=True), problem, options, about)
    if estimate is not None:
        estimate = write_whole(folder.path / "estimate.png", estimate, problem, options, about)
    if options.task == "scratches" and problem.given is not None and problem.given.hole is not None:
        known = problem.given.hole.known.float().expand(-1, 3, -1, -1)
        media.write_png(folder.path / "mask.png", 2 * known - 1)
    if isinstance(problem.operator, BlindBlur):
        write_kernels(folder.path, problem.operator.refit(problem.y.float(), images).kernel)
    picture = problem.operator.picture(problem.y)
    if problem.given is not None and isinstance(problem.operator, Inpaint):
        picture = problem.back(picture)
    media.write_png(folder.path / "measurement.png", picture)
    media.write_measurement(folder.path / "measurement.safetensors", problem.y, told(options, problem))
    media.save_png(folder.path / "spread.png", media.spread(shown))
    cells, labels = [picture], ["measurement"]
    if problem.clean is not None:
        cells, labels = [*cells, problem.clean], [*labels, "truth"]
    if estimate is not None:
        cells, labels = [*cells, media.shrunk(estimate, media.LARGEST)], [*labels, "estimate"]
    cells += [image[None] for image in shown]
    labels += names
    media.save_png(folder.path / "grid.png", media.grid(cells, labels=labels))


def told(options: Restore, problem: Problem) -> dict[str, str]:
    """Return the metadata of the measurement, with the noise that was estimated."""
    f = problem.operator
    peak = f.peak if isinstance(f, PoissonDenoise) else options.peak
    return about(replace(options, sigma_v=f.noise_level(options.sigma_v), peak=peak))


def write_kernels(folder: Path, kernels: torch.Tensor) -> None:
    """Write the kernels [N, side, side] that blur each sample to the measurement: kernel.npy, float32, and kernel.png,
    each with its largest entry white."""
    np.save(folder / "kernel.npy", kernels.float().numpy())
    light = kernels.float() / kernels.amax((-2, -1), keepdim=True)
    media.save_png(folder / "kernel.png", media.grid([(2 * one - 1).expand(1, 3, -1, -1) for one in light]))


def write_samples(
    images: torch.Tensor, problem: Problem, folder: RunFolder, options: Restore, about: dict[str, str]
) -> torch.Tensor:
    """Write particles/. Return the samples in the whole picture, [N, 3, H, W], large ones smaller (:func:`shrunk`)."""
    shown = []
    for k, image in enumerate(images):
        path = folder.path / "particles" / f"{k:02d}.png"
        whole = write_whole(path, image[None], problem, options, {**about, "particle": str(k)})
        shown.append(media.shrunk(whole, media.LARGEST))
    return torch.cat(shown)


def write_whole(
    path: Path, image: torch.Tensor, problem: Problem, options: Restore, text: dict[str, str]
) -> torch.Tensor:
    """Write a sample [1, 3, h, w] in the whole picture, with the profile and so on of its file; return it, [1, 3, H,
    W]."""
    given, share = problem.given, None
    whole = problem.back(image)
    if given is None:
        media.write_png(path, whole, text=text)
        return whole
    if isinstance(problem.operator, Inpaint) and keep_known(options, problem):
        known = problem.operator.observed
        assert known is not None
        share = (~known[0, 0]).float().cpu() if given.hole is None else given.hole.share
    given.source().answer(whole[0], share, colour=problem.grey, fill=given.hole is not None).save(path, text)
    return whole


def headline(figures: dict[str, Any]) -> str:
    """Return the figures of one image in a line."""
    parts = []
    if figures["psnr"]:
        mean, best = (figures["psnr"][part] for part in ("mean", "best"))
        parts.append(f"PSNR mean {_number(mean)} dB, best {_number(best)} dB")
    if figures["residual"]:
        mean = figures["residual"]["mean"]
        far = " (1 would explain the measurement: check the task, its options and --sigma-v)" if mean > FAR else ""
        parts.append(f"residual {mean:.2f} sigma_v{'' if figures['psnr'] else far}")
    if figures["div"] is not None:
        parts.append(f"Div {figures['div']:.3f}, Vendi {figures['vendi']:.2f}")
    if figures.get("nearly_equal"):
        parts.append("nearly equal")
    return ", ".join(parts) or "done"


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"
