"""One prompt after another: load the models once, embed every prompt, draw, score, write the run folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import ALONE, Ensemble, Processes, connect, share, shares_told, speaking, wait
from rsd.engine import Embed
from rsd.features import check_features_name, load_features
from rsd.features.decoded import Decoded
from rsd.memory import Plans
from rsd.metrics.networks import warn_if_equal
from rsd.priors import check_prior_name, image_size, load_prior
from rsd.priors.base import Prior
from rsd.runs.folder import RunFolder, check_folder_of_runs, locked
from rsd.runs.progress import Progress
from rsd.runs.prompts import default_name, embed_all, folder_names, gather
from rsd.runs.session import Session, alone, of_all, pick_device, plain_warnings, survives, working_in
from rsd.runs.summary import particles

from . import distillation, samplers
from .command import resolved
from .names import SAMPLERS
from .options import TextToImage
from .scores import Scorers, lacking, load_scorers, measure_again, pictures, score
from .summary import summarise

Run = distillation.Run | samplers.Run
Job = tuple[str, TextToImage, RunFolder]
"""A prompt, what it is drawn with, and where to."""


@dataclass(frozen=True)
class Networks:
    """What is loaded once for all prompts; no prior if all runs are finished. ``embeds``: what the particles are
    compared by, by the feature map's name. ``plans``: of memory, and what was learned of them."""

    prior: Prior | None
    embeds: dict[str, Embed]
    scorers: Scorers
    plans: Plans = field(default_factory=lambda: Plans(lambda why: print(f"memory: {why}", flush=True)))

    def embed(self, options: TextToImage) -> Embed | None:
        """What the particles are compared by; None if they do not interact."""
        return self.embeds[options.features_name] if options.interacts else None


def run(options: TextToImage) -> int:
    """Draw every prompt; the exit code: 0 all done, 1 some failed. Raises for what stops all of them.

    Where several processes were started, each draws its share of several prompts; of a single one they share the
    particles. The main one writes the summary of all, and its exit code tells of all.
    """
    with plain_warnings():
        prompts = gather(options.prompt, options.prompts, allow_empty=options.allow_empty)
        several = len(prompts) > 1 or options.prompts is not None
        device = check([options])
        here = connect(device)
        ensemble = Ensemble.of(options.particles, Processes() if several else here)
        if options.method == "svgd" and not ensemble.alone:
            raise ValueError(
                "svgd averages the scores of all particles, which cannot be shared; start one process, or draw several "
                "prompts at once."
            )
        out = options.out or default_folder(prompts, options)
        with speaking(all_of_them=several):
            failures = draw_all(prompts, options, out, several, device, here, ensemble)
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def draw_all(
    prompts: list[str], options: TextToImage, out: Path, several: bool, device: torch.device, here: Processes,
    ensemble: Ensemble,
) -> dict[str, str]:  # fmt: skip
    """Draw this process's share, and write the summary of all; what failed, on the main process anywhere."""
    if here.size > 1 and here.main:
        number = len(prompts) if several else options.particles
        print(shares_told(here, "prompts", number, several=several), flush=True)
    names = folder_names(prompts)
    mine = share(prompts, here) if several else prompts
    try:
        if several:
            check_folder_of_runs(out, resume=options.resume)
        folders = {p: RunFolder(out / names[p] if several else out, resume=options.resume) for p in mine}
    except (ValueError, OSError):
        image_size(options.prior, options.revision)  # what is wrong with the flags is told first
        raise
    jobs = [(prompt, options, folder) for prompt, folder in folders.items()]
    for prompt, folder in folders.items():
        folder.check(config(prompt, options))  # other settings are told before anything is loaded or written
    done = {prompt for prompt, folder in folders.items() if folder.done}
    wait()  # all have looked at the folder before any writes into it
    failures: dict[str, str] = {}
    with working_in(out, main=ensemble.main and here.main):
        networks = needed(jobs, device, together=several and "fid" in options.metrics) if jobs else None
        progress = Progress(len(folders) - len(done), "prompts:", first=1)
        for prompt, folder in folders.items():
            if prompt in done and not ensemble.main:
                continue
            work = partial(draw, prompt, options, networks, folder, ensemble=ensemble)
            new = prompt not in done
            survives(prompt, failures, partial(alone, folder, work) if new and ensemble.main else work, several)
            if new:
                progress.tick()
        if several:
            failures = of_all(failures)
            if here.main:
                finished = {p: RunFolder(out / names[p], resume=True) for p in prompts if p not in failures}
                summarise(out, finished, failures, networks.scorers if networks else None)
            wait()  # a launcher ends all as soon as one ends with an exit code
    return failures


def default_folder(prompts: list[str], options: TextToImage) -> Path:
    """Where a run goes without --out."""
    return Path("runs") / "text-to-image" / f"{default_name(prompts, options.prompts)}-{options.method}"


def check(settings: Iterable[TextToImage]) -> torch.device:
    """The device of runs with these settings; raises ValueError for names, folders and devices that cannot be. Loads
    nothing."""
    for options in settings:
        check_prior_name(options.prior)
        check_features_name(options.features_name)
        for name in (options.div_features, options.fid_features):
            if name != "auto":
                check_features_name(name)
        if options.fid_folder:
            pictures(options.fid_folder)
        device = pick_device(options.device)
    return device


def asked(options: TextToImage) -> dict[str, Any]:
    """Which figures are wanted, and what they are measured with."""
    same = ("prior", "div_features", "clip_model", "aesthetic_weights", "fid_folder", "fid_features")
    return {"wanted": options.metrics, **{name: getattr(options, name) for name in same}}


def needed(jobs: list[Job], device: torch.device, *, together: bool = False) -> Networks | None:
    """The networks for these jobs, which differ in method, gamma and features: all of them if one is to be drawn; those
    that score if finished ones lack figures that are asked for, or the distance of all ``together`` is; else None."""
    todo = [job for job in jobs if not job[2].done]
    again = [job for job in jobs if job[2].done and lacking(job[2].metrics(), **asked(job[1]))]
    if not (todo or again or together):
        return None
    settings = list({id(options): options for _, options, _ in todo or jobs}.values())
    # what is missing is told before anything is loaded, the prior first
    size = image_size(settings[0].prior, settings[0].revision) if todo else particles(jobs[0][2]).shape[-1]
    return load_networks(settings, list(dict.fromkeys(prompt for prompt, *_ in todo)), device, size)


def load_networks(settings: list[TextToImage], prompts: list[str], device: torch.device, size: int) -> Networks:
    """The networks of runs of pictures of ``size`` px, those that score first; the others if there are ``prompts``, all
    of which are embedded before the text encoder is released. Prints what it loads and where."""
    one = settings[0]
    names = list(dict.fromkeys(o.features_name for o in settings if o.interacts))
    features = {name: load_features(name, device=device) for name in names if prompts}
    scorers = load_scorers(**asked(one), repulsion=names, size=size, device=device)
    if not prompts:
        return Networks(None, {}, scorers)
    print(f"prior: {one.prior} on {device}, {one.dtype}", flush=True)
    prior = load_prior(one.prior, device=device, dtype=getattr(torch, one.dtype), revision=one.revision)
    embed_texts(settings, prompts, prior)
    return Networks(prior, {name: Decoded(prior, one) for name, one in features.items()}, scorers)


def embed_texts(settings: Iterable[TextToImage], prompts: list[str], prior: Prior) -> None:
    """Embed all that the runs will ask for, then release the text encoder; warns of what is wrong with a prompt."""
    seen: set[tuple[str, float]] = set()
    for options in settings:
        negative = "" if options.method == "nfsd" else options.negative_prompt
        if (negative, options.guidance) not in seen:
            embed_all(prompts, prior, negative_prompt=negative, guidance=options.guidance)
        seen.add((negative, options.guidance))
        if options.method == "nfsd":
            distillation.nfsd_negative(prior, options.negative_prompt)
    release: Callable[[], None] | None = getattr(prior, "release_text_encoder", None)
    if release:
        release()


def make_run(prompt: str, options: TextToImage, networks: Networks, ensemble: Ensemble | None = None) -> Run:
    """The distillation or the sampling of a prompt, which names it in the random numbers."""
    module: Any = samplers if options.method in SAMPLERS else distillation
    assert networks.prior is not None
    settings = module.Settings(**{name: getattr(options, name) for name in module.Settings.__dataclass_fields__})
    return module.Run(
        networks.prior,
        prompt,
        settings,
        embed=networks.embed(options),
        image=prompt,
        ensemble=ensemble,
        plan=networks.plans,
    )


def config(prompt: str, options: TextToImage) -> dict[str, Any]:
    """One run's config.yaml."""
    return {**resolved(options), "prompt": prompt}


def draw(
    prompt: str, options: TextToImage, networks: Networks | None, folder: RunFolder,
    *, quiet: bool = False, ensemble: Ensemble = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Draw one prompt into its run folder, going on from its checkpoint if there is one; its metrics. Of a finished run
    the figures are measured that are asked for and that it lacks; ``quiet``: say nothing if there are none. Processes
    that share the ``ensemble`` all come here, one of them writes."""
    if ensemble.main:
        folder.open(config(prompt, options))
    if folder.done:
        names = look_again(prompt, options, networks, folder)
        if names or not quiet:
            measured = f"; now measured: {', '.join(names)}" if names else ""
            print(f"{_short(prompt)}: already done in {folder.path}{measured}")
        return folder.metrics()
    assert networks is not None and networks.prior is not None
    prior = networks.prior
    session = Session(make_run(prompt, options, networks, None if ensemble.alone else ensemble), folder, prior)
    rates = "" if options.method in SAMPLERS else f"lr ({options.lr:g}), "
    remedy = f"lower {rates}guidance ({options.guidance:g}) or gamma ({options.strength:g})"
    session.drive(steps=options.steps, name=_short(prompt), checkpoint_every=options.checkpoint_every, remedy=remedy)
    images = session.run.finish().detach().cpu().float()
    if not images.isfinite().all():
        raise ValueError(f"The run diverged; {remedy}.")
    figures: dict[str, Any] = {}
    if ensemble.main:
        figures = score(images, prompt, networks.scorers)
        write_results(images, prompt, folder, options)
    works = cited(options, latent=hasattr(prior, "vae"))
    session.finish(images, figures, seed=options.seed, model=options.prior, cited=works)
    if not ensemble.main:
        return {}
    print(f"{_short(prompt)}: {headline(figures)}; {folder.path}", flush=True)
    warn_if_equal(figures, len(images), remedy=apart_by(options))
    return folder.metrics()


def apart_by(options: TextToImage) -> str:
    """What makes pictures differ that are nearly equal."""
    if options.method == "ancestral":
        return "ancestral sampling has no --gamma: take --method particle-guidance with one"
    return f"raise --gamma ({options.strength:g})"


def look_again(prompt: str, options: TextToImage, networks: Networks | None, folder: RunFolder) -> list[str]:
    """Measure what a finished run lacks on its pictures; what was measured."""
    held = folder.metrics()
    names = lacking(held, **asked(options))
    if not names or networks is None:
        return []
    found, done = measure_again(particles(folder), prompt, held, names, networks.scorers)
    with locked(folder.path):
        folder.finish(found)
    return done


def write_results(images: torch.Tensor, prompt: str, folder: RunFolder, options: TextToImage) -> None:
    """particles/ and grid.png."""
    about = {"seed": str(options.seed), "gamma": str(options.strength), "method": options.method, "prompt": prompt}
    for k, image in enumerate(images):
        media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**about, "particle": str(k)})
    n = len(images)
    labels = [f"particle {k}" for k in range(n)]
    columns = n if n <= 5 else math.ceil(math.sqrt(n))
    media.save_png(folder.path / "grid.png", media.grid([x[None] for x in images], labels=labels, columns=columns))


def cited(options: TextToImage, *, latent: bool) -> list[str]:
    """The works a run with these options rests on, as keys of rsd.citations; ``latent``: the prior is."""
    method = {
        "vsd": ["vsd", *([] if options.score == "unet" else ["lora"])], "sds": ["sds"], "nfsd": ["nfsd"],
        "svgd": ["svgd", "csd"], "ancestral": ["edm"], "particle-guidance": ["particle-guidance", "edm"],
    }[options.method]  # fmt: skip
    repels = options.interacts and options.method not in ("svgd", "particle-guidance")
    name = options.features_name if options.interacts else ""
    dino = ["dino"] if name == "heads" or "dino" in name else []
    return [*method, *(["rlsd"] if repels else []), *(["latent-diffusion"] if latent else []), *dino]


def headline(figures: dict[str, Any]) -> str:
    """The figures of one prompt in a line."""
    parts = []
    if figures["div"] is not None:
        parts.append(f"Div {figures['div']:.3f}")
    if figures.get("nearly_equal"):
        parts.append("nearly equal")
    if figures.get("agreement_told"):
        parts.append(f"agreement {figures['agreement_told']}")
    if figures["coverage"]:
        parts.append(f"coverage {figures['coverage']['mean']:.2f}")
    if figures["clip"]:
        parts.append(f"CLIP mean {figures['clip']['mean']:.1f}")
    return ", ".join(parts) or "done"


def _short(prompt: str, limit: int = 60) -> str:
    """A prompt as messages name it."""
    return prompt if 0 < len(prompt) <= limit else prompt[: limit - 3] + "..." if prompt else '""'
