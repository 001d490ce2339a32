"""What ``rsd compare`` measures on equal terms: all methods' pictures at one size, that of the smallest prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rsd import metrics
from rsd.heads.agreement import open_values
from rsd.media import fit_to, read_image
from rsd.metrics.scoring import ScoreRequest, Scorers, diversity, load_scorers
from rsd.priors import over_heads
from rsd.runs.session import pick_device
from rsd.runs.summary import particles

from ..inputs import Job
from ..networks import features_name, interacts
from ..problem import head_of, make
from ..report import SCORES, covered, distance
from .pairs import Compare, Pair, matched


@dataclass(frozen=True)
class Common:
    """``size``: pixels; ``reference``: those that srK is of; ``scorers``: the networks that score all methods alike."""

    size: int
    reference: int
    scorers: Scorers
    open: dict[tuple[str, Path], dict[str, set[str]] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, compare: Compare, pairs: Sequence[Pair], sizes: dict[str, int]) -> Common:
        """For these pairs, whose priors make ``sizes`` px; heads are judged only if all priors are over heads. Raises
        what ``load_scorers`` raises for a network that was asked for and cannot be had."""
        strangers = [pair for pair in pairs if not over_heads(pair.options.prior)]
        options = (strangers or pairs)[0].options
        asked = ScoreRequest.of(options, metrics=tuple(m for m in compare.metrics if m == "fid"))
        repulsion = [features_name(options)] if interacts(options) else []
        scorers = load_scorers(SCORES, asked, repulsion=repulsion, device=pick_device(options.device))
        return cls(min(sizes[pair.options.prior] for pair in pairs), sizes[compare.reference], scorers)

    def figures(self, pair: Pair, one: Job) -> dict[str, Any]:
        """A cell's size, psnr, ssim, div, div_features and coverage."""
        images, truth = self._pictures(pair, one)
        found: dict[str, Any] = {"size": self.size, "psnr": metrics.summary(metrics.psnr(images, truth), best="max")}
        found["ssim"] = metrics.summary(metrics.ssim(images, truth), best="max")
        found |= {**diversity(images, self.scorers)[0], "coverage": None}
        judge, left_open = self.scorers.judge, self._open(pair, one)
        if judge and left_open:
            found["coverage"] = covered(images, left_open, judge)
        return found

    def distance(self, pair: Pair, jobs: Sequence[Job]) -> dict[str, Any] | None:
        """As ``fid`` of a summary.json, of the cells of these jobs; None if it was not asked for, or of one image."""
        if self.scorers.fid is None or len(jobs) < 2:
            return None
        answers, truths = zip(*(self._pictures(pair, one) for one in jobs), strict=True)
        return distance(list(answers), list(truths), self.scorers)

    def _pictures(self, pair: Pair, one: Job) -> tuple[torch.Tensor, torch.Tensor]:
        """The answers [N, 3, size, size] and the truth [1, 3, size, size] of a cell that is done."""
        images = particles(pair.cell(one))
        truth = fit_to(read_image(one.path), images.shape[-1], pair.options.fit)[0]
        if images.shape[-1] != self.size:
            images, truth = (F.interpolate(x, size=(self.size, self.size), mode="area") for x in (images, truth))
        return images, truth

    def _open(self, pair: Pair, one: Job) -> dict[str, set[str]] | None:
        """What the task leaves open of a built-in head at this size, for all methods the same; None of another picture.
        Kept: it takes a second."""
        if (key := (pair.task, one.path)) not in self.open:
            task, head = matched(pair.task, self.size, self.reference), head_of(one.path)
            self.open[key] = None
            if task and head:
                operator = make(replace(pair.options, task=task), self.size)
                self.open[key] = open_values(head, operator, self.size)
        return self.open[key]
