"""One prompt after another: load the models once, embed every prompt, distil, score, write the run folder."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble, Processes, connect, share, shares_told, speaking, wait
from rsd.engine import Embed, Record
from rsd.features import check_features_name, load_features
from rsd.features.decoded import Decoded
from rsd.priors import check_prior_name, image_size, is_latent, load_prior
from rsd.priors.base import Prior
from rsd.runs.folder import RunFolder, check_folder_of_runs
from rsd.runs.progress import Progress
from rsd.runs.prompts import default_name, folder_names, gather, notes, strange
from rsd.runs.session import Session, alone, of_all, pick_device, plain_warnings, survives, working_in

from . import results
from .command import ADDED, resolved
from .distillation import Run, Settings
from .finished import PARTS, keep, lacking, look_again, write
from .gallery import SceneSettings
from .options import TextTo3D
from .prompts import PromptSettings, ViewPrompts, split_view, views_told
from .scene.cameras import CameraSettings
from .scene.field import FieldSettings
from .scene.lights import LightSettings
from .scene.regularisers import RegulariserSettings
from .scene.render import RenderSettings
from .scores import Scorers, load_scorers
from .summary import summarise


@dataclass(frozen=True)
class Networks:
    """What is loaded once for all prompts. ``prior``: None if all runs are finished. ``features``: the repulsion's
    feature map; None if nothing interacts."""

    prior: Prior | None
    features: torch.nn.Module | None
    scorers: Scorers

    @property
    def embed(self) -> Embed | None:
        """What pictures in the prior's space are compared by."""
        features, prior = self.features, self.prior
        return None if features is None or prior is None else Decoded(prior, features)


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
    """Make every prompt's scenes; the exit code: 0 all done, 1 some failed. Raises for what stops all of them.

    Where several processes were started, each makes its share of several prompts; of a single one they share the
    scenes. The main one writes the summary of all, and its exit code tells of all.
    """
    with plain_warnings():
        given = gather(options.prompt, options.prompts, allow_empty=options.allow_empty)
        prompts = list(dict.fromkeys(without_view(prompt, options) for prompt in given))
        several = len(prompts) > 1 or options.prompts is not None
        here = connect(check(options))
        with speaking(all_of_them=several):
            failures = make_all(prompts, options, several, here)
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def make_all(prompts: list[str], options: TextTo3D, several: bool, here: Processes) -> dict[str, str]:
    """Make this process's share, and write the summary of all; what failed, on the main process anywhere."""
    if here.size > 1 and here.main:
        number = len(prompts) if several else options.particles
        print(shares_told(here, "prompts", number, several=several), flush=True)
    ensemble = Ensemble.of(options.particles, Processes() if several else here)
    out, names = options.out or default_folder(prompts, options), folder_names(prompts)
    mine = share(prompts, here) if several else prompts
    try:
        if several:
            check_folder_of_runs(out, resume=options.resume)
        folders = {p: RunFolder(out / names[p] if several else out, resume=options.resume) for p in mine}
    except (ValueError, OSError):
        check_size(options)  # what is wrong with the flags is told first
        raise
    for prompt, folder in folders.items():
        folder.check(config(prompt, options), added=ADDED)  # other settings are told before anything is loaded
    todo = [prompt for prompt, folder in folders.items() if not folder.done]
    wait()  # all have looked at the folder before any writes into it
    again = any(folder.done and "figures" in lacking(folder.metrics(), options) for folder in folders.values())
    failures: dict[str, str] = {}
    with working_in(out, main=ensemble.main and here.main):
        networks = load_networks(options, todo, pick_device(options.device)) if todo or again else None
        progress = Progress(len(todo), "prompts:", first=1)
        for prompt, folder in folders.items():
            if prompt not in todo and not ensemble.main:
                continue
            work = partial(make, prompt, options, networks, folder, ensemble=ensemble)
            new = prompt in todo
            survives(prompt, failures, partial(alone, folder, work) if new and ensemble.main else work, several)
            if new:
                progress.tick()
        if several:
            failures = of_all(failures)
            if here.main:
                done = {p: RunFolder(out / names[p], resume=True) for p in prompts if p not in failures}
                summarise(out, done, failures)
            wait()  # a launcher ends all as soon as one ends with an exit code
    return failures


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


def default_folder(prompts: list[str], options: TextTo3D) -> Path:
    """Where a run goes without --out."""
    return Path("runs") / "text-to-3d" / f"{default_name(prompts, options.prompts)}-{options.method}"


def check(options: TextTo3D) -> torch.device:
    """The device of a run; raises ValueError for names and devices that cannot be. Loads nothing."""
    check_prior_name(options.prior)
    check_features_name(options.features_name)
    if options.div_features != "auto":
        check_features_name(options.div_features)
    return pick_device(options.device)


def load_networks(options: TextTo3D, prompts: list[str], device: torch.device) -> Networks:
    """The networks; those that score come first, the others if there are ``prompts``. These are embedded for all views,
    and the text encoder is released. Prints what it loads and where. Raises ValueError for a resolution that is not the
    prior's."""
    size = check_size(options) if prompts else None  # what is missing is told before anything is loaded
    features = load_features(options.features_name, device=device) if prompts and options.interacts else None
    scorers = load_scorers(
        options.prior, repulsion=options.features_name if options.interacts else None,
        div_features=options.div_features, device=device,
    )  # fmt: skip
    if not prompts:
        return Networks(None, None, scorers)
    print(f"prior: {options.prior} at {size} px on {device}, {options.dtype}", flush=True)
    prior = load_prior(options.prior, device=device, dtype=getattr(torch, options.dtype), revision=options.revision)
    told = [notes(prompt, options.prior) for prompt in prompts]
    told += [strange(text, options.prior) for text in (*options.own_prompts.values(), options.negative_prompt)]
    for note in dict.fromkeys(chain(*told)):
        warnings.warn(note, stacklevel=2)
    for prompt in prompts:
        ViewPrompts(prior, prompt, prompt_settings(options))
    release: Callable[[], None] | None = getattr(prior, "release_text_encoder", None)
    if release:
        release()
    return Networks(prior, features, scorers)


def check_size(options: TextTo3D) -> int:
    """Pixels of the prior's pictures; raises ValueError if --resolution does not divide them, or --threshold asks for
    bounds that its latents do not have."""
    size = image_size(options.prior, options.revision)
    if options.threshold is not None and is_latent(options.prior, options.revision):
        raise ValueError(f'--threshold goes with priors of pixels, and "{options.prior}" has latents; leave it out.')
    if options.resolution is not None and size % options.resolution:
        raise ValueError(
            f'The prior "{options.prior}" sees pictures of {size} px, which cannot be rendered at '
            f"{options.resolution}; give a --resolution that divides {size} (--size is that of the written pictures)."
        )
    return size


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
    return Settings(
        method=o.method, particles=o.particles, steps=o.steps, gamma=o.gamma if o.interacts else 0.0, window=o.window,
        clean=o.clean, t_range=o.t_range, prompts=prompt_settings(o), scenes=scenes, lora_rank=o.lora_rank,
        lr_phi=o.lr_phi, seed=o.seed, chunk=o.chunk,
    )  # fmt: skip


def config(prompt: str, options: TextTo3D) -> dict[str, Any]:
    """One run's config.yaml."""
    return {**resolved(options), "prompt": prompt}


def make(
    prompt: str, options: TextTo3D, networks: Networks | None, folder: RunFolder, *, ensemble: Ensemble = ALONE
) -> dict[str, Any]:
    """Make one prompt's scenes in its run folder, going on from its checkpoint if there is one; its metrics. Processes
    that share the ``ensemble`` all come here, one of them writes, and shows its own scenes as they stand."""
    if ensemble.main:
        folder.open(config(prompt, options), added=ADDED)
    if folder.done:
        scorers, device = networks.scorers if networks else Scorers(), pick_device(options.device)
        parts = look_again(prompt, options, folder, settings=settings(options).scenes, scorers=scorers, device=device)
        print(f"{_short(prompt)}: already done in {folder.path}" + (f"; now made: {', '.join(parts)}" if parts else ""))
        return folder.metrics()
    assert networks is not None and networks.prior is not None
    # the prompt names the run in the random numbers
    shared = None if ensemble.alone else ensemble
    one = Previewed(networks.prior, prompt, settings(options), embed=networks.embed, image=prompt, ensemble=shared)
    scenes = one.particles
    one.every = options.checkpoint_every if ensemble.main else options.steps + 1
    one.look = partial(results.preview, folder.path, scenes)
    session = Session(one, folder, networks.prior)
    encoded, rendered = scenes.backends.values()
    told = f"{options.encoding} encoding by {encoded}, {options.renderer} renderer by {rendered}"
    print(f"{_short(prompt)}: {told}", flush=True)
    remedy = f"lower lr ({options.lr:g}), guidance ({options.guidance:g}) or gamma ({options.gamma:g})"
    session.drive(steps=options.steps, name=_short(prompt), checkpoint_every=options.checkpoint_every, remedy=remedy)
    front = one.finish().detach().cpu().float()
    if not front.isfinite().all():
        raise ValueError(f"The run diverged; {remedy}.")
    works = cited(options, latent=hasattr(networks.prior, "vae"))
    finish = partial(session.finish, front, seed=options.seed, model=options.prior, cited=works)
    whole = one.whole()
    if whole is None:
        finish(figures={})
        return {}
    figures = write(PARTS, whole, prompt=prompt, options=options, folder=folder.path, scorers=networks.scorers)
    keep(folder, whole)
    finish(figures={**figures, **whole.backends})
    print(f"{_short(prompt)}: {headline(figures)}; {folder.path}", flush=True)
    return folder.metrics()


def cited(options: TextTo3D, *, latent: bool) -> list[str]:
    """The works a run with these options rests on, as keys of rsd.citations; ``latent``: the prior is."""
    works = ["sds", "magic3d"]  # the loss, and the field's start
    works += ["vsd", "lora"] if options.method == "vsd" else []
    works += ["rlsd"] if options.interacts else []
    works += ["latent-diffusion"] if latent else []
    works += ["imagen"] if options.threshold is not None else []
    works += ["instant-ngp"] if options.encoding == "hash" or options.renderer == "packed" else []
    name = options.features_name if options.interacts else ""
    return works + (["dino"] if name == "heads" or "dino" in name else [])


def headline(figures: dict[str, Any]) -> str:
    """The figures of one prompt in a line; of the agreement also what it is of, and what could not be read."""
    shown = {"Div": "div", "faces in front": "face_front", "Janus": "janus"}
    told = {name: f"{figures[figure]:.2f}" for name, figure in shown.items() if figures[figure] is not None}
    if figures["agreement_told"]:
        told["agreement in front"] = figures["agreement_told"]
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "done"


def _short(prompt: str, limit: int = 60) -> str:
    """A prompt as messages name it."""
    return prompt if 0 < len(prompt) <= limit else prompt[: limit - 3] + "..." if prompt else '""'
