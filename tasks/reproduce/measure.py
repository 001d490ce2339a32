"""Read the figures of a finished run, per image or prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rsd import metrics
from rsd.media import read_image
from rsd.runs.folder import slug
from rsd.runs.summary import mean

from ..inverse.inputs import Job, list_jobs
from ..inverse.operators import Inpaint
from ..inverse.problem import load
from .plan import Plan

Figures = dict[str, float | None]
NAMES = {
    "psnr_mean": "psnr", "psnr_best": "psnr_best", "psnr_std": "psnr_std", "ssim_mean": "ssim", "lpips_mean": "lpips",
    "residual_mean": "residual", "div": "div", "vendi": "vendi", "coverage": "coverage", "agreement": "agreement",
    "seconds": "seconds",
}  # fmt: skip
"""The figures of a restoration's summary and their names here; without a suffix they are means over particles."""
SMALL = {"builtin": 32, "paper": 256}
"""The size in pixels of the priors in pixel space, at which psnr_small is measured."""


@dataclass(frozen=True)
class Measured:
    """The figures of a row: of each image or prompt, and of all together."""

    items: dict[str, Figures] = field(default_factory=dict)
    whole: Figures = field(default_factory=dict)

    def mean(self, figure: str) -> float | None:
        """Return the mean over images, or the figure of all together; None if it is not measured."""
        if figure in self.whole:
            return self.whole[figure]
        return mean([one.get(figure) for one in self.items.values()])


def measured(plan: Plan, folder: Path, wanted: Iterable[str], scale: str) -> Measured:
    """Return the figures of a finished run in ``folder``; expensive figures are measured only if they are in
    ``wanted``."""
    if plan.command == "toy":
        return toy_figures(_read(folder / "toy.json"))
    summary = _read(folder / "summary.json")
    whole = {"fid": summary["fid"]["value"]} if summary.get("fid") else {}
    if plan.command != "restore":
        rows = {
            row["prompt"]: {k: v for k, v in row.items() if k not in ("prompt", "folder")} for row in summary["prompts"]
        }
        return Measured(rows, whole)
    items = {row["image"]: {ours: row.get(theirs) for theirs, ours in NAMES.items()} for row in summary["images"]}
    wanted = {"psnr_small", "sharpness"}.intersection(wanted)
    if wanted:
        for title, figures in image_figures(plan, folder, SMALL[scale], items).items():
            items[title] |= {name: figures[name] for name in wanted}
    return Measured(items, whole)


def toy_figures(toy: dict[str, Any]) -> Measured:
    """Return the figures of the first gamma of a toy.json per pair. Pair k starts at the same points for every gamma,
    so differences between gammas are paired. Files of older versions have figures of all pairs together only."""
    gamma = toy["gamma"][0]
    if "pairs" not in toy:
        share = toy["collapsed"][0] / toy["realisations"]
        return Measured({f"gamma {gamma:g}": {"gamma": gamma, "collapsed": share, "misfit": toy["misfit"][0]}})
    collapsed, misfit = (toy["pairs"][name][0] for name in ("collapsed", "misfit"))
    return Measured({
        f"pair {k}": {"gamma": gamma, "collapsed": float(both), "misfit": away}
        for k, (both, away) in enumerate(zip(collapsed, misfit, strict=True))
    })  # fmt: skip


def image_figures(plan: Plan, folder: Path, small: int, titles: Iterable[str]) -> dict[str, Figures]:
    """Return psnr_small and sharpness from the images of the restorations in ``titles``."""
    found: dict[str, Figures] = {}
    for job in jobs_of(plan):
        if job.title not in titles:
            continue
        images = torch.cat([read_image(p) for p in sorted((folder / slug(job.title) / "particles").glob("*.png"))])
        problem = load(job.path, job.options, images.shape[-1], job.name)
        assert problem.clean is not None, "experiments restore clean pictures"
        observed = problem.operator.observed if isinstance(problem.operator, Inpaint) else None
        psnr = metrics.psnr(at_size(images, small), at_size(problem.clean, small))
        found[job.title] = {
            "psnr_small": metrics.summary(psnr, best="max")["mean"],
            "sharpness": sharpness(images, problem.clean, None if observed is None else ~observed),
        }
    return found


def jobs_of(plan: Plan) -> list[Job]:
    """Return the images that a restoration's plan restores."""
    return list_jobs(plan.options())


def at_size(images: torch.Tensor, side: int) -> torch.Tensor:
    """Downsample images [B, 3, H, H] to [B, 3, side, side] by block averages; return smaller ones unchanged. Raise
    ValueError if H is not a multiple of ``side``."""
    factor, rest = divmod(images.shape[-1], side)
    if images.shape[-1] <= side:
        return images
    if rest:
        raise ValueError(f"Images of {images.shape[-1]} px cannot be averaged to {side} px; give a multiple.")
    return F.avg_pool2d(images, factor)


def sharpness(images: torch.Tensor, truth: torch.Tensor, hidden: torch.Tensor | None) -> float:
    """Return the mean gradient magnitude of samples [N, 3, H, W] relative to that of the clean image [1, 3, H, W];
    ``hidden``: the region as a mask [1, 1, H, W] (None: everywhere).

    Below 1, samples have less detail. Noise counts as detail, so a figure above 1 is not an improvement.
    """

    def detail(x: torch.Tensor) -> float:
        down, right = x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]
        size = (down.square() + right.square()).sum(1, keepdim=True).sqrt()
        where = torch.ones_like(size) if hidden is None else hidden[..., :-1, :-1].expand_as(size).to(size)
        return float((size * where).sum() / where.sum())

    return detail(images.clamp(-1, 1)) / max(detail(truth), 1e-12)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
