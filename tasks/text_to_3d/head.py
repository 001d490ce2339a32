"""Text to 3D for the runner: each prompt is a run, whose particles are scenes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rsd.distributed import Ensemble
from rsd.engine import Record
from rsd.priors import is_latent
from rsd.priors.base import Prior
from rsd.priors.index import FEW, POSED
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item, Networks, PromptHead

from . import outputs
from .distillation import Run
from .options import Settings, TextTo3D
from .packaged import ADDED, COMMAND
from .prompts import ViewPrompts, with_scene_words
from .scenes import Scenes
from .scores import SCORES

NEEDS = (
    ("mp4", "imageio-ffmpeg", "imageio_ffmpeg", "video"), ("texture", "xatlas", "xatlas", "mesh"),
    ("mesh_faces", "fast-simplification", "fast_simplification", "mesh"),
)  # fmt: skip
"""Flags that need a package that is not always installed: its name, its module, and the extra that has it."""


class PreviewedRun(Run):
    """A run that calls ``preview``, if there is one, after every ``every`` steps."""

    every = 1
    preview: Callable[[], None] | None = None

    def steps(self) -> Iterator[Record]:
        """Run the remaining steps, yielding one Record each."""
        for record in super().steps():
            if self.preview and self.step % self.every == 0:
                self.preview()
            yield record


class SceneHead(PromptHead):
    """Prompts to make scenes of."""

    command = COMMAND
    added = ADDED
    scores = SCORES
    figures = ("div", "vendi", "agreement", "face_front", "janus", "seconds")

    def check(self) -> None:
        """Raise ValueError for invalid names, and ImportError if an output needs a package that is not installed."""
        super().check()
        for flag, needed, package, extra in NEEDS:
            if getattr(self.options, flag) and importlib.util.find_spec(package) is None:
                raise ImportError(f"--{flag.replace('_', '-')} needs {needed}: pip install '.[{extra}]'.")

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError for options that no prompt can run with."""
        super().check_shared(device)
        check_fits(self.options, self.size)

    def check_item(self, item: Item, device: torch.device) -> None:
        """Raise ValueError for settings of a manifest's line that do not fit the prior."""
        check_fits(item.options, self.size)

    def other_texts(self, options: TextTo3D) -> Sequence[str]:
        """Return the prompts of single views, the negative one, and the scene words."""
        s = Settings.of(options)
        words = {with_scene_words("", s, seed=s.seed, number=number) for number in range(s.particles)}
        return (*options.own_prompts.values(), options.negative_prompt, *sorted(words - {""}))

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all prompts for all views."""
        for item in todo:
            s = Settings.of(item.options)
            ViewPrompts(prior, item.source, s, seed=s.seed, numbers=range(s.particles))

    def pictures(self, item: Item) -> int:
        """Return 0: what is missing of a finished run is made again from its scenes."""
        return 0

    def missing_figures(self, held: dict[str, Any], item: Item) -> list[str]:
        """Return the parts of a finished run that would differ now, or that are missing."""
        outdated = outputs.outdated_parts(held, item.options)
        lost = outputs.lost_parts(held, self.run_folder(item).path)
        return [part for part in outputs.PARTS if part in {*outdated, *lost}]

    def needs_scorers(self, missing: Sequence[str]) -> bool:
        """Return whether figures are among them; pictures and meshes need no networks."""
        return "figures" in missing

    def add_missing(
        self, item: Item, held: dict[str, Any], missing: Sequence[str], folder: RunFolder, networks: Networks
    ) -> tuple[dict[str, Any], list[str]] | None:
        """Make the missing parts from the scenes that the finished run kept."""
        o = item.options
        return outputs.remake(
            item.source, o, held, missing, folder, settings=Settings.of(o), scorers=networks.scorers,
            device=networks.device,
        )  # fmt: skip

    @staticmethod
    def make_run(prior: Prior, prompt: str, options: TextTo3D, **where: Any) -> PreviewedRun:
        """Return the distillation of a prompt's scenes."""
        return PreviewedRun(prior, prompt, Settings.of(options), **where)

    def announce(self, items: Sequence[Item]) -> None:
        """Warn also of a prior that is distilled to few noise levels."""
        if self.options.prior == FEW:
            warnings.warn(
                f"The prior {FEW} is distilled to four noise levels; a scene asks it at all of them, and gets wrong "
                "colours. Take --prior heads-views or heads-flow.",
                stacklevel=2,
            )
        super().announce(items)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Any, None]]:
        """Return a distillation whose main process writes previews of its scenes."""
        o = item.options
        with super().start(item, networks, ensemble, folder) as (run, _):
            if ensemble.main:
                run.every, run.preview = o.checkpoint_every, partial(outputs.preview, folder.path, run.particles)
            encoded, rendered = run.particles.backends.values()
            print(f"{item.title}: {o.encoding} encoding by {encoded}, {o.renderer} renderer by {rendered}", flush=True)
            yield run, None

    def gather(self, run: Any, context: None) -> Scenes | None:
        """Return all processes' scenes."""
        return run.collect_scenes()

    def save(
        self, item: Item, images: torch.Tensor, context: Scenes, folder: RunFolder, networks: Networks,
        weights: Sequence[float] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write pictures, meshes and scenes; return the figures, which are measured on views from all sides."""
        figures = outputs.write_outputs(
            outputs.PARTS,
            context,
            prompt=item.source,
            options=item.options,
            folder=folder.path,
            scorers=networks.scorers,
        )
        outputs.save_scenes(folder, context)
        return {**figures, **context.backends}

    @staticmethod
    def headline(figures: dict[str, Any]) -> str:
        """Format the figures of one prompt in a line; the agreement with its attributes, and those that were not
        read."""
        names = {"Div": "div", "Vendi": "vendi", "faces in front": "face_front", "Janus": "janus"}
        parts = {name: f"{figures[figure]:.2f}" for name, figure in names.items() if figures[figure] is not None}
        if figures.get("nearly_equal"):
            parts["scenes"] = "nearly equal"
        if figures["agreement_told"]:
            parts["agreement in front"] = figures["agreement_told"]
        return ", ".join(f"{name} {value}" for name, value in parts.items()) or "done"

    @staticmethod
    def remedy(options: TextTo3D) -> str:
        """Return what to do about a run that diverged."""
        return f"lower lr ({options.lr:g}), guidance ({options.guidance:g}) or gamma ({options.gamma:g})"

    def diversity_remedy(self, options: TextTo3D) -> str:
        """Say how to get more different scenes."""
        return f"raise --gamma ({options.gamma:g})"

    @classmethod
    def works(cls, options: TextTo3D) -> list[str]:
        """Return the works that the method and the scenes build on."""
        works = ["sds", "magic3d"]  # the loss, and the initial density
        works += ["perp-neg"] if options.negative_prompt and options.perp_neg is not None else []
        works += ["mvdream"] if options.prior == POSED else []
        works += ["vsd", "lora"] if options.method == "vsd" else []
        works += ["rlsd"] if options.interacts else []
        works += ["imagen"] if options.threshold is not None else []
        return works + (["instant-ngp"] if options.encoding == "hash" or options.renderer == "packed" else [])

    @classmethod
    def row_figures(cls, held: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a run's metrics for the summary."""
        return {name: held.get(name) for name in (*cls.figures, "div_features")}


def check_fits(o: TextTo3D, size: int) -> None:
    """Raise ValueError if --resolution does not divide the prior's ``size``, or --threshold is set for a prior of
    latents, which have no bounds."""
    if o.threshold is not None and is_latent(o.prior, o.revision):
        raise ValueError(f'--threshold goes with priors of pixels, and "{o.prior}" has latents; leave it out.')
    if o.resolution is not None and size % o.resolution:
        raise ValueError(
            f'The prior "{o.prior}" sees pictures of {size} px, which cannot be rendered at {o.resolution}; give a '
            f"--resolution that divides {size} (--size is that of the written pictures)."
        )
