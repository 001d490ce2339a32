"""Text to image as the runner has it: each prompt is a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble, processes
from rsd.priors.base import Prior
from rsd.runs.batch import Item, Networks, PromptHead, run_all
from rsd.runs.folder import RunFolder
from rsd.runs.prompts import gather
from rsd.runs.session import plain_warnings
from rsd.runs.summary import particles

from . import distillation, samplers, scores
from .command import parse, resolved
from .names import SAMPLERS
from .options import TextToImage
from .scores import load_scorers, measure_again, pictures, score
from .summary import summarise

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

    @classmethod
    def of(cls, argv: list[str]) -> ImageHead:
        """What ``rsd text-to-image`` would run with these arguments."""
        options, _ = parse(argv)
        return cls(options, prompts_of(options))

    @classmethod
    def resolved(cls, options: TextToImage) -> dict[str, Any]:
        """The options as plain values."""
        return resolved(options)

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

    def scorers(self, todo: Sequence[Item], folders: Mapping[Item, RunFolder], device: torch.device) -> Any:
        """The networks that score pictures of the prior's size, or of that of finished runs."""
        size = self.size if todo else particles(next(iter(folders.values()))).shape[-1]
        names = dict.fromkeys(self.features_name(one.options) for one in todo or folders if self.interacts(one.options))
        return load_scorers(**asked(self.options), repulsion=list(names), size=size, device=device)

    def scored_together(self) -> bool:
        """Whether the distance of all pictures to a folder is asked for."""
        return "fid" in self.options.metrics

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all that the runs will ask for."""
        for options in {id(item.options): item.options for item in todo}.values():
            for item in todo:
                negative = "" if options.method == "nfsd" else options.negative_prompt
                prior.condition(item.source, negative, options.guidance)
            if options.method == "nfsd":
                distillation.nfsd_negative(prior, options.negative_prompt)

    def lacking(self, held: dict[str, Any], item: Item) -> list[str]:
        """The figures asked for that a finished run does not have."""
        return scores.lacking(held, **asked(item.options))

    def again(
        self, item: Item, held: dict[str, Any], lacks: Sequence[str], folder: RunFolder, networks: Networks
    ) -> tuple[dict[str, Any], list[str]]:
        """What --metrics asks for and a finished run lacks is measured on its pictures."""
        return measure_again(particles(folder), item.source, held, lacks, networks.scorers)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """The distillation or the sampling of a prompt."""
        module: Any = samplers if item.options.method in SAMPLERS else distillation
        settings = module.Settings(**{k: getattr(item.options, k) for k in module.Settings.__dataclass_fields__})
        yield module.Run(
            networks.prior, item.source, settings, embed=self.embed(item, networks), image=item.source,
            ensemble=ensemble, plan=networks.plans,
        ), None  # fmt: skip

    def leave(
        self, item: Item, images: torch.Tensor, about: None, folder: RunFolder, networks: Networks
    ) -> dict[str, Any]:
        """Write particles/ and grid.png; the figures."""
        o, n = item.options, len(images)
        text = {"seed": str(o.seed), "gamma": str(o.strength), "method": o.method, "prompt": item.source}
        for k, image in enumerate(images):
            media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**text, "particle": str(k)})
        labels = [f"particle {k}" for k in range(n)]
        columns = n if n <= 5 else math.ceil(math.sqrt(n))
        media.save_png(folder.path / "grid.png", media.grid([x[None] for x in images], labels=labels, columns=columns))
        return score(images, item.source, networks.scorers)

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

    def apart_by(self, options: TextToImage) -> str:
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

    def summarise(self, out: Path, done: dict[Item, RunFolder], failures: dict[str, str], networks: Networks) -> None:
        """summary.json and summary.csv."""
        summarise(out, {item.source: folder for item, folder in done.items()}, failures, networks.scorers)


def asked(options: TextToImage) -> dict[str, Any]:
    """Which figures are wanted, and what they are measured with."""
    same = ("prior", "div_features", "clip_model", "aesthetic_weights", "fid_folder", "fid_features")
    return {"wanted": options.metrics, **{name: getattr(options, name) for name in same}}
