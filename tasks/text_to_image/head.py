"""Text to image for the runner: each prompt is a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import processes
from rsd.metrics.scoring import Scorers
from rsd.metrics.selection import Fit
from rsd.priors import check_size, image_size
from rsd.priors.base import Prior
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item, JointFigures, Networks, PromptHead
from rsd.runs.summary import particles

from . import distillation, samplers
from .options import SAMPLERS, TextToImage
from .packaged import ADDED, COMMAND
from .scores import FIGURES, SCORES, fid, figures, pictures, prompt_fit

Run = distillation.Run | samplers.Run


class ImageHead(PromptHead):
    """Prompts to draw by a distillation or a sampler."""

    command = COMMAND
    added = ADDED
    scores = SCORES
    figures = FIGURES

    def check(self) -> None:
        """Raise ValueError for invalid names, folders and numbers of processes. Loads nothing."""
        super().check()
        if self.options.fid_folder:
            pictures(self.options.fid_folder)
        if self.options.method == "svgd" and not self.several and processes().size > 1:
            raise ValueError(
                "svgd averages the scores of all particles, which cannot be shared; start one process, or draw several "
                "prompts at once."
            )

    @cached_property
    def size(self) -> int:
        """The longer side of the pictures in pixels."""
        return max(self.options.sides or (image_size(self.options.prior, self.options.revision),))

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError, OSError or ImportError if no item can run, or if the prior makes no pictures of --size."""
        super().check_shared(device)
        if self.options.sides:
            check_size(self.options.prior, self.options.sides, self.options.revision)

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all texts of the runs."""
        for item in todo:
            options = item.options
            negative = "" if options.method == "nfsd" else options.negative_prompt
            prior.condition(item.source, negative, options.guidance)
            if options.method == "nfsd":
                distillation.nfsd_negative(prior, options.negative_prompt)

    @staticmethod
    def make_run(prior: Prior, prompt: str, options: TextToImage, **where: Any) -> Run:
        """Return the distillation or the sampling of a prompt."""
        if options.method in SAMPLERS:
            return samplers.Run(prior, prompt, samplers.Settings.of(options), **where)
        return distillation.Run(prior, prompt, distillation.Settings.of(options), **where)

    def fit(self, item: Item, images: torch.Tensor, context: None, scorers: Scorers) -> Fit | None:
        """Return how well each picture follows the prompt."""
        return prompt_fit(images, item.source, scorers)

    def write(
        self, item: Item, images: torch.Tensor, context: None, folder: RunFolder, labels: Sequence[str]
    ) -> torch.Tensor:
        """Write particles/ and grid.png."""
        o, n = item.options, len(images)
        text = {"seed": str(o.seed), "gamma": str(o.strength), "method": o.method, "prompt": item.source}
        for k, image in enumerate(images):
            media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**text, "particle": str(k)})
        columns = n if n <= 5 else math.ceil(math.sqrt(n))
        media.save_png(folder.path / "grid.png", media.grid([x[None] for x in images], labels=labels, columns=columns))
        return images

    @staticmethod
    def headline(figures: dict[str, Any]) -> str:
        """Format the figures of one prompt in a line."""
        parts = [f"Div {figures['div']:.3f}, Vendi {figures['vendi']:.2f}"] if figures["div"] is not None else []
        parts += ["nearly equal"] if figures["nearly_equal"] else []
        parts += [f"agreement {figures['agreement_told']}"] if figures.get("agreement_told") else []
        parts += [f"coverage {figures['coverage']['mean']:.2f}"] if figures["coverage"] else []
        parts += [f"CLIP mean {figures['clip']['mean']:.1f}"] if figures["clip"] else []
        return ", ".join(parts) or "done"

    @staticmethod
    def remedy(options: TextToImage) -> str:
        """Return what to do about a run that diverged."""
        rates = "" if options.method in SAMPLERS else f"lr ({options.lr:g}), "
        return f"lower {rates}guidance ({options.guidance:g}) or gamma ({options.strength:g})"

    def diversity_remedy(self, options: TextToImage) -> str:
        """Say how to get more different pictures."""
        if options.method == "ancestral":
            return "ancestral sampling has no --gamma: take --method particle-guidance or euler with one"
        return f"raise --gamma ({options.strength:g})"

    @classmethod
    def works(cls, options: TextToImage) -> list[str]:
        """Return the works that the method builds on."""
        method = {
            "vsd": ["vsd", *([] if options.score == "unet" else ["lora"])], "sds": ["sds"], "nfsd": ["nfsd"],
            "svgd": ["svgd", "csd"], "ancestral": ["edm"], "particle-guidance": ["particle-guidance", "edm"],
            "euler": ["edm"],
        }[options.method]  # fmt: skip
        repels = options.interacts and options.method not in ("svgd", "particle-guidance")
        return [*method, *(["rlsd"] if repels else [])]

    @staticmethod
    def row_figures(held: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a run's metrics for the summary."""
        return figures(held)

    def joint_figures(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> JointFigures:
        """Return the FID of all runs' pictures. If it is not requested, keep the value that the summary has for the
        same runs."""
        if networks.scorers.fid:
            found = fid(torch.cat([particles(folder) for folder in done.values()]), networks.scorers) if done else None
            return {"fid": (found, None if found else "it needs two pictures or more")}
        file = out / "summary.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"prompts": [], "fid": None}
        same = {row["folder"] for row in before["prompts"]} == {folder.path.name for folder in done.values()}
        if before["fid"] and same:
            return {"fid": (before["fid"], None)}
        return {"fid": (None, "not requested (see --metrics fid)")}
