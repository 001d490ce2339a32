"""The figures of ``rsd compare`` on equal terms: all methods' images at one size, that of the smallest prior, or at
their own, if all priors take any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from rsd import metrics
from rsd.distributed import pick_device
from rsd.heads.agreement import open_values
from rsd.metrics.scoring import ScoreRequest, Scorers, diversity, load_scorers
from rsd.priors import over_heads
from rsd.runs.summary import particles

from ..inputs import Job
from ..names import matched
from ..problem import head_of, make, truth
from ..results import SCORES, coverage_of, distance
from .pairs import Pair

if TYPE_CHECKING:
    from .options import Compare


@dataclass(frozen=True)
class Common:
    """The common ``size`` in pixels of the shorter side, None: that of each image; the ``reference`` size that srK
    refers to, and the ``scorers`` of all methods."""

    size: int | None
    reference: int
    scorers: Scorers
    open: dict[tuple[str, Path], dict[str, set[str]] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, compare: Compare, pairs: Sequence[Pair], sizes: dict[str, int]) -> Common:
        """Load the scorers for these pairs, whose priors have ``sizes`` px. Heads are classified only if all priors are
        over heads. Raise what ``load_scorers`` raises for a requested network that is not available."""
        others = [pair for pair in pairs if not over_heads(pair.options.prior)]
        options = (others or pairs)[0].options
        request = ScoreRequest.of(options, metrics=tuple(m for m in compare.metrics if m == "fid"))
        repulsion = [options.features_name] if options.interacts else []
        scorers = load_scorers(SCORES, request, repulsion=repulsion, device=pick_device(options.device))
        fixed = None if compare.whole else min(sizes[pair.options.prior] for pair in pairs)
        return cls(fixed, sizes[compare.reference], scorers)

    def figures(self, pair: Pair, job: Job) -> dict[str, Any]:
        """Return a cell's size, psnr, ssim, div, vendi, div_features and coverage."""
        images, clean = self._images(pair, job)
        found: dict[str, Any] = {"size": self.size, "psnr": metrics.summary(metrics.psnr(images, clean), best="max")}
        found["ssim"] = metrics.summary(metrics.ssim(images, clean), best="max")
        found |= {**diversity(images, self.scorers)[0], "coverage": None}
        judge = self.scorers.judge
        if judge and (left_open := self._open_values(pair, job)):
            found["coverage"] = coverage_of(images, left_open, judge)
        return found

    def distance(self, pair: Pair, jobs: Sequence[Job]) -> dict[str, Any] | None:
        """Return ``fid`` as in summary.json for the cells of these jobs; None if it is not requested, there is only
        one image, or, with a note, they cannot be compared."""
        if self.scorers.fid is None or len(jobs) < 2:
            return None
        samples, clean = zip(*(self._images(pair, job) for job in jobs), strict=True)
        value, why = distance(list(samples), list(clean), self.scorers)
        if why:
            print(f"note: {pair.title}: no fid: {why}")
        return value

    def _images(self, pair: Pair, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the samples [N, 3, h, w] and the clean image [1, 3, h, w] of a finished cell, at the common size."""
        images, clean = particles(pair.cell(job)), truth(job.path, job.options, job.name)
        sides = images.shape[-2:]
        if self.size is not None and min(sides) != self.size:
            smaller = [round(side * self.size / min(sides)) for side in sides]
            images, clean = (F.interpolate(x, size=smaller, mode="area") for x in (images, clean))
        return images, clean

    def _open_values(self, pair: Pair, job: Job) -> dict[str, set[str]] | None:
        """Return the open attribute values of a built-in head under the task at this size, the same for all methods;
        None for other images. Cached: it takes a second."""
        assert self.size is not None, "priors over heads have one size"
        if (key := (pair.task, job.path)) not in self.open:
            task, head = matched(pair.task, self.size, self.reference), head_of(job.path)
            self.open[key] = None
            if task and head:
                operator = make(replace(pair.options, task=task), self.size)
                self.open[key] = open_values(head, operator, self.size)
        return self.open[key]
