"""Text to image for the runner and for Python: each prompt is a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble, processes
from rsd.engine import Record
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.metrics.scoring import Scorers
from rsd.metrics.selection import Fit
from rsd.priors import over_heads
from rsd.priors.base import Prior
from rsd.runs.batch import run_all
from rsd.runs.flags import fields_of
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item, JointFigures, Networks, PromptHead
from rsd.runs.prompts import PromptJob
from rsd.runs.run import Features, Samples, draw
from rsd.runs.summary import particles

from . import distillation, samplers
from .options import SAMPLERS, TextToImage
from .packaged import ADDED, packaged, resolved
from .scores import FIGURES, SCORES, fid, figures, pictures, prompt_fit

Run = distillation.Run | samplers.Run


def run(options: TextToImage, jobs: Sequence[PromptJob]) -> int:
    """Draw every prompt. Return the exit code, and raise, as :func:`rsd.runs.batch.run_all` does."""
    return run_all(ImageHead(options, jobs))


def text_to_image(
    prompt: str,
    *,
    prior: Prior | str = "heads",
    features: Features | str = "auto",
    method: str = "vsd",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Samples:
    """Draw ``particles`` pictures of a prompt by a distillation or a sampler, with repulsion.

    ``prior`` and ``features``: objects, or names as for ``rsd text-to-image``. ``changes``: fields of its options, such
    as ``gamma=20``; they win over the packaged settings of the method and the prior.
    With ``draw=8, keep=4`` it draws 8 and returns the 4 that differ most among those that follow the prompt.
    Raises ValueError for unknown names, unknown settings and invalid values before any model is loaded, and for a run
    that diverged.
    """
    return draw(
        TextToImage, packaged, prompt, prior, features, method, changes, progress, make_run=make_run, remedy=remedy,
        fit=fit,
    )[1]  # fmt: skip


def fit(images: torch.Tensor, prompt: str, options: TextToImage) -> Fit | None:
    """Return how well pictures of heads follow the prompt (:func:`prompt_fit`); None for other priors."""
    if not over_heads(options.prior):
        return None
    return prompt_fit(images, prompt, Scorers(judge=HeadsClassifier.load(), face=FaceReader.load()))


def make_run(prior: Prior, prompt: str, options: TextToImage, **where: Any) -> Run:
    """Return the distillation or the sampling of a prompt; ``where``: see :class:`distillation.Run`."""
    module: Any = samplers if options.method in SAMPLERS else distillation
    settings = module.Settings(**{name: getattr(options, name) for name in fields_of(module.Settings)})
    return module.Run(prior, prompt, settings, **where)


def remedy(options: TextToImage) -> str:
    """Return what to do about a run that diverged."""
    rates = "" if options.method in SAMPLERS else f"lr ({options.lr:g}), "
    return f"lower {rates}guidance ({options.guidance:g}) or gamma ({options.strength:g})"


class ImageHead(PromptHead):
    """Prompts to draw by a distillation or a sampler."""

    command = "text-to-image"
    added = ADDED
    scores = SCORES
    figures = FIGURES

    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of the run's config.yaml."""
        return {**resolved(item.options), "prompt": item.source}

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

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all texts of the runs."""
        for item in todo:
            options = item.options
            negative = "" if options.method == "nfsd" else options.negative_prompt
            prior.condition(item.source, negative, options.guidance)
            if options.method == "nfsd":
                distillation.nfsd_negative(prior, options.negative_prompt)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """Return the distillation or the sampling of a prompt."""
        assert networks.prior is not None
        yield make_run(
            networks.prior, item.source, item.options, embed=networks.embed(item.options), image=item.source,
            ensemble=ensemble, plan=networks.plans,
        ), None  # fmt: skip

    def fit(self, item: Item, images: torch.Tensor, context: None, scorers: Scorers) -> Fit | None:
        """Return how well each picture follows the prompt."""
        return prompt_fit(images, item.source, scorers)

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
        """Format the figures of one prompt in a line."""
        parts = [f"Div {figures['div']:.3f}"] if figures["div"] is not None else []
        parts += ["nearly equal"] if figures["nearly_equal"] else []
        parts += [f"agreement {figures['agreement_told']}"] if figures.get("agreement_told") else []
        parts += [f"coverage {figures['coverage']['mean']:.2f}"] if figures["coverage"] else []
        parts += [f"CLIP mean {figures['clip']['mean']:.1f}"] if figures["clip"] else []
        return ", ".join(parts) or "done"

    def remedy(self, item: Item) -> str:
        """Return what to do about a run that diverged."""
        return remedy(item.options)

    def diversity_remedy(self, options: TextToImage) -> str:
        """Say how to get more different pictures."""
        if options.method == "ancestral":
            return "ancestral sampling has no --gamma: take --method particle-guidance with one"
        return f"raise --gamma ({options.strength:g})"

    @classmethod
    def works(cls, options: TextToImage) -> list[str]:
        """Return the works that the method builds on."""
        method = {
            "vsd": ["vsd", *([] if options.score == "unet" else ["lora"])], "sds": ["sds"], "nfsd": ["nfsd"],
            "svgd": ["svgd", "csd"], "ancestral": ["edm"], "particle-guidance": ["particle-guidance", "edm"],
        }[options.method]  # fmt: skip
        repels = options.interacts and options.method not in ("svgd", "particle-guidance")
        return [*method, *(["rlsd"] if repels else [])]

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """Return a prompt's row of the summary."""
        return {"prompt": item.source, "folder": folder.path.name, **figures(held)}

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
