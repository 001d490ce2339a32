"""Text to 3D as the runner has it: each prompt is a run, whose particles are scenes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rsd.distributed import Ensemble
from rsd.engine import Record
from rsd.errors import plain_warnings
from rsd.priors import is_latent
from rsd.priors.base import Prior
from rsd.runs.batch import run_all
from rsd.runs.flags import fields_of
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item, Networks, PromptHead
from rsd.runs.prompts import gather

from . import finished, results
from .distillation import Run, Settings
from .finished import PARTS, keep, write
from .gallery import SceneSettings
from .options import Distilled, TextTo3D
from .packaged import ADDED, parse, resolved
from .prompts import PromptSettings, ViewPrompts, split_view, views_told
from .scene.cameras import CameraSettings
from .scene.field import FieldSettings
from .scene.lights import LightSettings
from .scene.regularisers import RegulariserSettings
from .scene.render import RenderSettings
from .scenes import Scenes
from .scores import SCORES


class Previewed(Run):
    """A run that shows itself every so many steps: ``look`` is called then."""

    every: int
    look: Callable[[], None]

    def steps(self) -> Iterator[Record]:
        """The steps still to do, one Record each."""
        for record in super().steps():
            if self.step % self.every == 0:
                self.look()
            yield record


def run(options: TextTo3D) -> int:
    """Make every prompt's scenes; the exit code, and what is raised, is :func:`rsd.runs.batch.run_all`'s."""
    with plain_warnings():
        return run_all(SceneHead(options, prompts_of(options)))


def prompts_of(options: TextTo3D) -> list[str]:
    """The prompts, checked, without view words."""
    given = gather(options.prompt, options.prompts, allow_empty=options.allow_empty)
    return list(dict.fromkeys(without_view(prompt, options) for prompt in given))


class SceneHead(PromptHead):
    """Prompts to make scenes of."""

    command = "text-to-3d"
    added = ADDED
    scores = SCORES
    figures = ("div", "agreement", "face_front", "janus", "seconds")

    @classmethod
    def of(cls, argv: list[str]) -> SceneHead:
        """What ``rsd text-to-3d`` would run with these arguments."""
        options, _ = parse(argv)
        return cls(options, prompts_of(options))

    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of the run's config.yaml."""
        return {**resolved(item.options), "prompt": item.source}

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError if --resolution does not divide the prior's pixels, or --threshold asks for bounds that its
        latents do not have."""
        o, size = self.options, self.size
        if o.threshold is not None and is_latent(o.prior, o.revision):
            raise ValueError(f'--threshold goes with priors of pixels, and "{o.prior}" has latents; leave it out.')
        if o.resolution is not None and size % o.resolution:
            raise ValueError(
                f'The prior "{o.prior}" sees pictures of {size} px, which cannot be rendered at {o.resolution}; give a '
                f"--resolution that divides {size} (--size is that of the written pictures)."
            )

    def other_texts(self) -> Sequence[str]:
        """The prompts of single views, and the negative one."""
        return (*self.options.own_prompts.values(), self.options.negative_prompt)

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all prompts for all views."""
        for item in todo:
            ViewPrompts(prior, item.source, prompt_settings(item.options))

    def missing_figures(self, held: dict[str, Any], item: Item) -> list[str]:
        """What a finished run would make otherwise now."""
        return finished.missing_figures(held, item.options)

    def needs_scorers(self, missing: Sequence[str]) -> bool:
        """Pictures and meshes need none."""
        return "figures" in missing

    def add_missing(
        self, item: Item, held: dict[str, Any], missing: Sequence[str], folder: RunFolder, networks: Networks
    ) -> tuple[dict[str, Any], list[str]] | None:
        """What other flags ask for is made of the scenes that a finished run kept."""
        o = item.options
        return finished.again(
            item.source, o, held, missing, folder, settings=settings(o).scenes, scorers=networks.scorers,
            device=networks.device,
        )  # fmt: skip

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """A distillation that shows its own scenes as they stand."""
        o, prior = item.options, networks.prior
        assert prior is not None
        embed = networks.embed(item.options)
        one = Previewed(
            prior, item.source, settings(o), embed=embed, image=item.source, ensemble=ensemble, plan=networks.plans
        )
        one.every = o.checkpoint_every if ensemble.main else o.steps + 1
        one.look = partial(results.preview, folder.path, one.particles)
        encoded, rendered = one.particles.backends.values()
        told = f"{o.encoding} encoding by {encoded}, {o.renderer} renderer by {rendered}"
        print(f"{item.title}: {told}", flush=True)
        yield one, None

    def gather(self, run: Any, context: None) -> Scenes | None:
        """All processes' scenes."""
        return run.whole()

    def save(
        self, item: Item, images: torch.Tensor, context: Scenes, folder: RunFolder, networks: Networks
    ) -> dict[str, Any]:
        """Write pictures and meshes, keep the scenes; the figures, of other pictures than the run's result."""
        figures = write(
            PARTS, context, prompt=item.source, options=item.options, folder=folder.path, scorers=networks.scorers
        )
        keep(folder, context)
        return {**figures, **context.backends}

    def headline(self, figures: dict[str, Any]) -> str:
        """The figures of one prompt in a line."""
        return headline(figures)

    def remedy(self, item: Item) -> str:
        """What to do about a run that diverged."""
        o = item.options
        return f"lower lr ({o.lr:g}), guidance ({o.guidance:g}) or gamma ({o.gamma:g})"

    @classmethod
    def works(cls, options: TextTo3D) -> list[str]:
        """The works that the method and the scenes rest on."""
        works = ["sds", "magic3d"]  # the loss, and the field's start
        works += ["vsd", "lora"] if options.method == "vsd" else []
        works += ["rlsd"] if options.interacts else []
        works += ["imagen"] if options.threshold is not None else []
        return works + (["instant-ngp"] if options.encoding == "hash" or options.renderer == "packed" else [])

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """A prompt's line of the summary."""
        names = (*self.figures, "div_features")
        return {"prompt": item.source, "folder": folder.path.name, **{name: held.get(name) for name in names}}


def without_view(prompt: str, options: TextTo3D) -> str:
    """A prompt without view words at its end, of which it warns, as of others that stay: a scene is seen from all
    sides. Raises ValueError if nothing else is told, and that is not allowed."""
    rest, view = split_view(prompt)
    if view and not rest and not options.allow_empty:
        raise ValueError(
            f'The prompt "{prompt}" tells a view alone, and a scene is seen from all sides; say what to make, or '
            "--allow-empty to make it without a prompt."
        )
    own = "; each camera adds its own" if options.view_words else ""
    if view:
        warnings.warn(f'A scene is seen from all sides: "{view}" is left out of the prompt{own}.', stacklevel=2)
    for other in views_told(rest):
        warnings.warn(
            f'A scene is seen from all sides: "{other}" stays in the prompt "{rest}"; leave it out if it tells where '
            f"the camera is{own}.",
            stacklevel=2,
        )
    return rest


def headline(figures: dict[str, Any]) -> str:
    """The figures of one prompt in a line; of the agreement also what it is of, and what could not be read."""
    shown = {"Div": "div", "faces in front": "face_front", "Janus": "janus"}
    told = {name: f"{figures[figure]:.2f}" for name, figure in shown.items() if figures[figure] is not None}
    if figures["agreement_told"]:
        told["agreement in front"] = figures["agreement_told"]
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "done"


def prompt_settings(options: TextTo3D) -> PromptSettings:
    """How a prompt becomes each view's."""
    o = options
    return PromptSettings(
        view_words=o.view_words, front=o.front, back=o.back, overhead=o.overhead, negative_prompt=o.negative_prompt,
        guidance=o.guidance, convention=o.guidance_convention, threshold=o.threshold,
        own=o.own_prompts,
    )  # fmt: skip


def settings(options: TextTo3D) -> Settings:
    """What each prompt runs with."""
    o = options
    scenes = SceneSettings(
        field=FieldSettings(
            o.encoding, bound=o.bound, resolutions=o.grid, levels=o.levels, log2_hashmap_size=o.log2_hashmap_size,
            per_level_scale=o.per_level_scale, octaves=o.octaves,
        ),
        background=o.background, renderer=o.renderer,
        render=RenderSettings(o.samples, o.fine),
        cameras=CameraSettings(o.azimuth, o.elevation, o.distance, o.fov),
        lights=LightSettings(
            o.ambient_until, o.shaded, o.textureless, o.ambient, o.diffuse, up=o.light_up, spread=o.light_spread,
        ),
        regularisers=RegulariserSettings(o.orientation, o.sparsity, o.opacity, o.z_variance),
        views=o.views, views_at_once=o.views_at_once, interaction=o.interaction, resolution=o.resolution, lr=o.lr,
        lr_background=o.lr_background,
    )  # fmt: skip
    numbers = {name: getattr(o, name) for name in fields_of(Distilled)}
    return Settings(**{**numbers, "gamma": o.gamma if o.interacts else 0.0}, prompts=prompt_settings(o), scenes=scenes)
