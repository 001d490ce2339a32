"""One restoration after another: load the models once, restore, score, write the run folder, go on after failures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.engine import Embed
from rsd.features import check_features_name, load_features
from rsd.priors import check_prior_name, image_size, load_prior
from rsd.priors.base import Prior
from rsd.runs import RunFolder, slug
from rsd.session import Session, pick_device, plain_warnings, survives
from rsd.summary import check_collection, particles

from .command import resolved
from .networks import Scorers, check_metrics, features_name, interacts, lacking, load_scorers, why_not
from .operators import Inpaint
from .options import Restore
from .problem import MEASUREMENT, Problem, check_task, load, on
from .report import compared, diversity, score
from .solve import Run, Settings, alike, decoded
from .summary import summarise

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", MEASUREMENT)


@dataclass(frozen=True)
class Networks:
    """What is loaded once for all images; no prior if every run is finished. ``embed``: what the particles are compared
    by; None if they do not interact."""

    prior: Prior | None
    embed: Embed | None
    scorers: Scorers


def run(options: Restore) -> int:
    """Restore every image; the exit code: 0 all done, 1 some failed. Raises for what stops all of them."""
    with plain_warnings():
        failures = restore_all(options)
    for name, why in failures.items():
        print(f"failed: {why}" if name in why else f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def restore_all(options: Restore) -> dict[str, str]:
    """Restore every image; what failed, by name."""
    paths = collect(options.images)
    several = len(paths) > 1 or options.images[0].is_dir()
    check_prior_name(options.prior)
    check_features_name(features_name(options))
    device = pick_device(options.device)
    out = options.out or Path("runs") / "restore" / slug(options.images[0].stem)
    if several:
        check_collection(out, resume=options.resume)
    folders = {path: RunFolder(out / slug(path.name) if several else out, resume=options.resume) for path in paths}
    failures = check([path for path, folder in folders.items() if not folder.done], options, several, device)
    folders = {path: folder for path, folder in folders.items() if str(path) not in failures}
    todo = any(not folder.done for folder in folders.values())
    wanted = several and bool(folders) and "fid" not in why_not(options, several)
    wanted = wanted or any(folder.done and lacking(folder.metrics(), options) for folder in folders.values())
    networks = load_networks(options, device, several, todo) if todo or wanted else None
    for path, folder in folders.items():
        if folder.done:
            work = partial(look_again, path, options, networks.scorers if networks else None, folder)
        else:
            assert networks is not None
            work = partial(restore_one, path, options, networks, folder)
        survives(str(path), failures, work, several)
    if several:
        summarise(out, folders, failures, options, networks.scorers if networks else None)
    return failures


def check(paths: list[Path], options: Restore, several: bool, device: torch.device) -> dict[str, str]:
    """What is wrong with the files that are to be restored, by name, before any model is loaded; the prior is looked
    for first. Raises ValueError, OSError or ImportError for what is wrong with all of them, or with a single one."""
    failures: dict[str, str] = {}
    if paths:
        size = image_size(options.prior, options.revision)
        check_task(options, size, device)
        check_metrics(options, size)
        for path in paths:
            survives(str(path), failures, partial(load, path, options, size, path.stem), several)
    return failures


def collect(inputs: tuple[Path, ...]) -> list[Path]:
    """The files named, and the images in the folders named. Raises ValueError if there is none, or two of one name
    but for its ending, since the random numbers go by that name."""
    paths: list[Path] = []
    for path in inputs:
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"The folder {path} holds no images ({', '.join(IMAGES)}).")
        paths += found
    first: dict[str, Path] = {}
    for path in paths:
        if path.stem in first:
            raise ValueError(
                f"Two inputs have one name, {first[path.stem]} and {path}; rename one: random numbers go by it."
            )
        first[path.stem] = path
    if not paths:
        raise ValueError("No images given; type: rsd restore photo.png --task inpaint_half_face")
    return paths


def load_networks(options: Restore, device: torch.device, several: bool, todo: bool) -> Networks:
    """The networks that score, then the prior if anything is to do. Prints what it loads and where."""
    scorers = load_scorers(options, device, several)
    if not todo:
        return Networks(None, None, scorers)
    features = load_features(features_name(options), device=device) if interacts(options) else None
    print(f"prior: {options.prior} on {device}, {options.dtype}", flush=True)
    dtype = getattr(torch, options.dtype)
    prior = load_prior(options.prior, device=device, dtype=dtype, revision=options.revision)
    return Networks(prior, decoded(prior, features) if features else None, scorers)


def config(path: Path, options: Restore) -> dict[str, Any]:
    """One run's config.yaml."""
    return {**resolved(options), "images": [str(path.resolve())]}


def look_again(path: Path, options: Restore, scorers: Scorers | None, folder: RunFolder) -> None:
    """A finished run: compare its settings; what --metrics asks for and it lacks is measured on its pictures."""
    folder.open(config(path, options))
    held = folder.metrics()
    measured = ""
    if scorers and (names := lacking(held, options)):
        images = particles(folder)
        check_metrics(options, images.shape[-1])
        problem = load(path, options, images.shape[-1], path.stem)
        if not alike(problem.y, media.read_measurement(folder.path / "measurement.safetensors")):
            raise ValueError(f"{path} is not what {folder.path} restored; bring that back, or choose another --out.")
        found, why = compared(images, problem, options, scorers)
        if "div" in names:
            apart, no_div = diversity(images, scorers)
            found, why = {**found, **apart}, {**why, **no_div}
        why = {k: v for k, v in {**held["reasons"], **why}.items() if found.get(k) is None}
        folder.finish({**held, **{k: v for k, v in found.items() if v is not None}, "reasons": why})
        measured = f"; now measured: {', '.join(names)}"
    print(f"{path}: already done in {folder.path}{measured}")


def restore_one(path: Path, options: Restore, networks: Networks, folder: RunFolder) -> None:
    """Restore one file into its run folder, going on from its checkpoint if there is one."""
    image, prior = path.stem, networks.prior
    assert prior is not None
    problem = load(path, options, prior.image_size, image)
    for note in problem.notes:
        print(note)
    folder.open(config(path, options))
    remedy = (
        f"lower lr_x ({options.lr_x:g}), lr_z ({options.lr_z:g}), lambda ({options.lambda_:g}) or gamma "
        f"({options.gamma:g})"
    )
    with on(prior.device, problem.operator) as operator:
        run = Run(prior, operator, problem.y, Settings.of(options), embed=networks.embed, image=image)
        session = Session(run, folder, prior)
        session.drive(steps=options.steps, name=path.name, checkpoint_every=options.checkpoint_every, remedy=remedy)
        last = run.finish().detach().cpu().float()
    if not last.isfinite().all():  # the last steps of z and x are in no record
        raise ValueError(f"The run diverged at its last step; {remedy}.")
    if keep_known(options, problem):
        assert problem.operator.observed is not None
        last = torch.where(problem.operator.observed, problem.y.float(), last)
    images = problem.aligned(last)
    figures = score(images, problem, options, networks.scorers)
    write_results(images, problem, folder, options)
    works = cited(options, latent=hasattr(prior, "vae"))
    session.finish(last, figures, seed=options.seed, model=options.prior, cited=works)
    print(f"{path.name}: {_headline(figures)}; {folder.path}")


def cited(options: Restore, *, latent: bool) -> list[str]:
    """The works a run with these options rests on, as keys of rsd.citations; ``latent``: the prior is."""
    method = ["red-diff"] if options.method == "latent-red-diff" else ["rlsd"]
    name = features_name(options) if interacts(options) else ""
    works = [*method, "latent-diffusion"] if latent else method
    return works + (["dino"] if name == "heads" or "dino" in name else [])


def keep_known(options: Restore, problem: Problem) -> bool:
    """Whether the known pixels are put back: as asked, else when restoring a measurement said to be exact."""
    asked = options.keep_known
    return isinstance(problem.operator, Inpaint) and (
        asked if asked is not None else not options.clean and options.sigma_v == 0
    )


def write_results(images: torch.Tensor, problem: Problem, folder: RunFolder, options: Restore) -> None:
    """particles/, measurement, grid and spread."""
    about = {"seed": str(options.seed), "gamma": str(options.gamma), "method": options.method, "task": options.task}
    about["prompt"] = options.prompt
    for k, image in enumerate(images):
        media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**about, "particle": str(k)})
    picture = problem.operator.picture(problem.y)
    media.write_png(folder.path / "measurement.png", picture)
    media.write_measurement(folder.path / "measurement.safetensors", problem.y, {"task": options.task})
    media.save_png(folder.path / "spread.png", media.spread(images))
    cells, labels = [picture], ["measurement"]
    if problem.clean is not None:
        cells, labels = [*cells, problem.clean], [*labels, "truth"]
    cells += [image[None] for image in images]
    labels += [f"particle {k}" for k in range(len(images))]
    media.save_png(folder.path / "grid.png", media.grid(cells, labels=labels))


def _headline(figures: dict[str, Any]) -> str:
    parts = []
    if figures["psnr"]:
        mean, best = (figures["psnr"][part] for part in ("mean", "best"))
        parts.append(f"PSNR mean {_number(mean)} dB, best {_number(best)} dB")
    if figures["residual"]:
        parts.append(f"residual {figures['residual']['mean']:.2f} sigma_v")
    if figures["div"] is not None:
        parts.append(f"Div {figures['div']:.3f}")
    return ", ".join(parts) or "done"


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"
