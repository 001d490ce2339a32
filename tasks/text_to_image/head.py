"""Text to image as the runner has it: each prompt is a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble, processes
from rsd.errors import plain_warnings
from rsd.priors.base import Prior
from rsd.runs.batch import run_all
from rsd.runs.flags import fields_of
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item, JointFigures, Networks, PromptHead
from rsd.runs.prompts import gather
from rsd.runs.summary import particles

from . import distillation, samplers
from .names import SAMPLERS
from .options import TextToImage
from .packaged import ADDED, parse, resolved
from .scores import FIGURES, SCORES, fid, figures, pictures

Run = distillation.Run | samplers.Run


def run(options: TextToImage) -> int:
    """Draw every prompt; the exit code, and what is raised, is :func:`rsd.runs.batch.run_all`'s."""
    with plain_warnings():
        return run_all(ImageHead(options, prompts_of(options)))


def prompts_of(options: TextToImage) -> list[str]:
    """The prompts, checked."""
    return gather(options.prompt, options.prompts, allow_empty=options.allow_empty)


class ImageHead(PromptHead):
    """Prompts to draw by a distillation or a sampler."""

    command = "text-to-image"
    added = ADDED
    scores = SCORES
    figures = FIGURES

    @classmethod
    def of(cls, argv: list[str]) -> ImageHead:
        """What ``rsd text-to-image`` would run with these arguments."""
        options, _ = parse(argv)
        return cls(options, prompts_of(options))

    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of the run's config.yaml."""
        return {**resolved(item.options), "prompt": item.source}

    def check(self) -> None:
        """Raise ValueError for names, folders and numbers of processes that cannot be. Loads nothing."""
        super().check()
        if self.options.fid_folder:
            pictures(self.options.fid_folder)
        if self.options.method == "svgd" and not self.several and processes().size > 1:
            raise ValueError(
                "svgd averages the scores of all particles, which cannot be shared; start one process, or draw several "
                "prompts at once."
            )

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all that the runs will ask for."""
        for options in {id(item.options): item.options for item in todo}.values():
            for item in todo:
                negative = "" if options.method == "nfsd" else options.negative_prompt
                prior.condition(item.source, negative, options.guidance)
            if options.method == "nfsd":
                distillation.nfsd_negative(prior, options.negative_prompt)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """The distillation or the sampling of a prompt."""
        module: Any = samplers if item.options.method in SAMPLERS else distillation
        settings = module.Settings(**{k: getattr(item.options, k) for k in fields_of(module.Settings)})
        yield module.Run(
            networks.prior, item.source, settings, embed=networks.embed(item.options), image=item.source,
            ensemble=ensemble, plan=networks.plans,
        ), None  # fmt: skip

    def write(self, item: Item, images: torch.Tensor, context: None, folder: RunFolder) -> torch.Tensor:
        """Write particles/ and grid.png."""
        o, n = item.options, len(images)
        text = {"seed": str(o.seed), "gamma": str(o.strength), "method": o.method, "prompt": item.source}
        for k, image in enumerate(images):
            media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**text, "particle": str(k)})
        labels = [f"particle {k}" for k in range(n)]
        columns = n if n <= 5 else math.ceil(math.sqrt(n))
        media.save_png(folder.path / "grid.png", media.grid([x[None] for x in images], labels=labels, columns=columns))
        return images

    def headline(self, figures: dict[str, Any]) -> str:
        """The figures of one prompt in a line."""
        parts = [f"Div {figures['div']:.3f}"] if figures["div"] is not None else []
        parts += ["nearly equal"] if figures["nearly_equal"] else []
        parts += [f"agreement {figures['agreement_told']}"] if figures.get("agreement_told") else []
        parts += [f"coverage {figures['coverage']['mean']:.2f}"] if figures["coverage"] else []
        parts += [f"CLIP mean {figures['clip']['mean']:.1f}"] if figures["clip"] else []
        return ", ".join(parts) or "done"

    def remedy(self, item: Item) -> str:
        """What to do about a run that diverged."""
        o = item.options
        rates = "" if o.method in SAMPLERS else f"lr ({o.lr:g}), "
        return f"lower {rates}guidance ({o.guidance:g}) or gamma ({o.strength:g})"

    def diversity_remedy(self, options: TextToImage) -> str:
        """What makes pictures differ that are nearly equal."""
        if options.method == "ancestral":
            return "ancestral sampling has no --gamma: take --method particle-guidance with one"
        return f"raise --gamma ({options.strength:g})"

    @classmethod
    def works(cls, options: TextToImage) -> list[str]:
        """The works that the method rests on."""
        method = {
            "vsd": ["vsd", *([] if options.score == "unet" else ["lora"])], "sds": ["sds"], "nfsd": ["nfsd"],
            "svgd": ["svgd", "csd"], "ancestral": ["edm"], "particle-guidance": ["particle-guidance", "edm"],
        }[options.method]  # fmt: skip
        repels = options.interacts and options.method not in ("svgd", "particle-guidance")
        return [*method, *(["rlsd"] if repels else [])]

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """A prompt's line of the summary."""
        return {"prompt": item.source, "folder": folder.path.name, **figures(held)}

    def joint_figures(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> JointFigures:
        """The distance of all runs' pictures to the folder of FID. Where it is not asked for, what the summary already
        holds of the same runs stays."""
        if networks.scorers.fid:
            found = fid(torch.cat([particles(folder) for folder in done.values()]), networks.scorers) if done else None
            return {"fid": (found, None if found else "it needs two pictures or more")}
        file = out / "summary.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"prompts": [], "fid": None}
        same = {row["folder"] for row in before["prompts"]} == {folder.path.name for folder in done.values()}
        if before["fid"] and same:
            return {"fid": (before["fid"], None)}
        return {"fid": (None, "not requested (see --metrics fid)")}
