"""One restoration after another: load the models once, restore, score, write the run folder, go on after failures."""

from __future__ import annotations

import csv
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rsd import media
from rsd.features import load_features
from rsd.heads.classifier import HeadsClassifier
from rsd.priors import check_prior_name, load_prior
from rsd.priors.base import Prior
from rsd.runs import RunFolder, provenance, slug, write_json

from .command import resolved
from .options import Restore
from .problem import MEASUREMENT, Problem, check, load
from .report import score
from .solve import Run, Settings, decoded

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", MEASUREMENT)
FRAMES = 40
CITATION = "Repulsive Latent Score Distillation for Solving Inverse Problems, ICLR 2025"


@dataclass(frozen=True)
class Models:
    """What is loaded once for all images."""

    prior: Prior
    features: Any
    scoring: Any
    judge: HeadsClassifier | None


def run(options: Restore) -> int:
    """Restore every image; the exit code: 0 all done, 1 some failed. Raises for what stops all of them."""
    paths = collect(options.images)
    several = len(paths) > 1 or options.images[0].is_dir()
    check_prior_name(options.prior)
    device = pick_device(options.device)
    out = options.out or Path("runs") / "restore" / slug(options.images[0].stem)
    failures: dict[str, str] = {}
    good = [path for path in paths if _survives(path, failures, partial(check, path, options), several)]
    folders = {path: RunFolder(out / slug(path.name) if several else out, resume=options.resume) for path in good}
    models = load_models(options, device) if any(not f.done for f in folders.values()) else None
    for path, folder in folders.items():
        if folder.done:
            if _survives(path, failures, partial(folder.open, config(path, options)), several):
                print(f"{path}: already done in {folder.path}")
            continue
        assert models is not None
        _survives(path, failures, partial(restore_one, path, options, models, folder), several)
    if several:
        summarise(out, folders, failures)
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def _survives(path: Path, failures: dict[str, str], work: Any, several: bool) -> bool:
    """Run ``work``; among several images an error is kept for the end, for a single one it is raised."""
    try:
        work()
        return True
    except (ValueError, OSError, RuntimeError) as error:
        if not several:
            raise
        failures[str(path)] = str(error)
        return False


def collect(inputs: tuple[Path, ...]) -> list[Path]:
    """The files named, and the images in the folders named. Raises ValueError if there is none, or two of one name."""
    paths: list[Path] = []
    for path in inputs:
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"The folder {path} holds no images ({', '.join(IMAGES)}).")
        paths += found
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two inputs are called {twice[0]}; rename one, since run folders carry the files' names.")
    if not paths:
        raise ValueError("No images given; type: rsd restore photo.png --task inpaint_half_face")
    return paths


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is what Accelerate picks. Raises ValueError if it is not there."""
    if name == "auto":
        from accelerate import Accelerator

        return Accelerator().device
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'Unknown device "{name}"; use auto, cpu, cuda or cuda:N.') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"Device {name} was asked for, but torch sees no CUDA here; use --device cpu or see `rsd doctor`."
        )
    return device


def load_models(options: Restore, device: torch.device) -> Models:
    """The prior, the repulsion's features and the networks that score. Prints what it loads and where."""
    dtype = getattr(torch, options.dtype)
    print(f"prior: {options.prior} on {device}, {options.dtype}", flush=True)
    prior = load_prior(options.prior, device=device, dtype=dtype, revision=options.revision)
    heads = options.prior == "heads"
    name = options.features
    if name == "auto":
        name = "heads" if heads else "facebook/dino-vits16"
    features = load_features(name, device=device)
    judge = HeadsClassifier.load() if heads else None
    return Models(prior, features, judge.features if judge else features, judge)


def settings(options: Restore) -> Settings:
    """The part of the options that the algorithm reads."""
    fields = Settings.__dataclass_fields__
    return Settings(**{name: getattr(options, name) for name in fields})


def config(path: Path, options: Restore) -> dict[str, Any]:
    """One run's config.yaml."""
    return {**resolved(options), "images": [str(path.resolve())]}


def restore_one(path: Path, options: Restore, models: Models, folder: RunFolder) -> None:
    """Restore one file into its run folder, going on from its checkpoint if there is one."""
    image = path.stem
    problem = load(path, options, models.prior.image_size, image)
    for note in problem.notes:
        print(note)
    problem.operator.to(models.prior.device)
    folder.open(config(path, options))
    run = Run(
        models.prior, problem.operator, problem.y.to(models.prior.dtype), settings(options),
        embed=decoded(models.prior, models.features), image=image,
    )  # fmt: skip
    costs = _resume(run, folder)
    calls_before, clock = models.prior.calls.copy(), time.monotonic()

    def spent() -> dict[str, Any]:
        calls = models.prior.calls.copy()
        calls.subtract(calls_before)
        calls.update(costs["network_calls"])
        return {"seconds": costs["seconds"] + time.monotonic() - clock, "network_calls": dict(calls)}

    frames = {round(k * (options.steps - 1) / FRAMES) for k in range(FRAMES + 1)}
    with (
        _interruptible() as interrupted,
        tqdm(total=options.steps, initial=run.step, desc=path.name, leave=False, disable=None) as bar,
    ):
        for record in run.steps():
            folder.log(record.row())
            if not all(map(math.isfinite, (record.residual, record.repulsion, *record.losses.values()))):
                raise ValueError(
                    f"{path.name}: the run diverged at step {record.step}; lower lr_x ({options.lr_x:g}), "
                    f"lr_z ({options.lr_z:g}), lambda ({options.lambda_:g}) or gamma ({options.gamma:g})."
                )
            if record.step in frames:
                media.write_png(folder.path / "frames" / f"{record.step:05d}.png", _strip(run.particles.images()))
            bar.set_postfix(data=record.losses.get("data"), repulsion=f"{record.ratio:.2f}", refresh=False)
            bar.update()
            if run.step % options.checkpoint_every == 0 or interrupted:
                folder.save_checkpoint(_flat(run.state()), {"step": run.step, **spent()})
            if interrupted:
                raise KeyboardInterrupt
    images = run.finish().detach().cpu().float()
    if keep_known(options, problem):
        assert problem.operator.observed is not None
        images = torch.where(problem.operator.observed.cpu(), problem.y.cpu().float(), images)
    figures = score(images, problem, options.sigma_v, features=models.scoring, judge=models.judge)
    write_results(images, problem, folder, options)
    revision = getattr(models.prior, "revision", None)
    made = provenance(seed=options.seed, model=options.prior, revision=revision, device=str(models.prior.device))
    folder.write_json("provenance.json", {**made, "cite": CITATION})
    folder.finish({**figures, **spent()})
    print(f"{path.name}: {_headline(figures)}; {folder.path}")


def keep_known(options: Restore, problem: Problem) -> bool:
    """Whether the known pixels are put back: as asked, else when restoring a measurement said to be exact."""
    masked = problem.operator.observed is not None and problem.operator.linear
    asked = options.keep_known
    return masked and (asked if asked is not None else not options.clean and options.sigma_v == 0)


def write_results(images: torch.Tensor, problem: Problem, folder: RunFolder, options: Restore) -> None:
    """particles/, measurement, grid, spread and the evolution."""
    about = {"seed": str(options.seed), "gamma": str(options.gamma), "method": options.method, "task": options.task}
    about["prompt"] = options.prompt
    for k, image in enumerate(images):
        media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**about, "particle": str(k)})
    picture = problem.operator.cpu().picture(problem.y.cpu().float())
    media.write_png(folder.path / "measurement.png", picture)
    media.write_measurement(folder.path / "measurement.safetensors", problem.y.cpu(), {"task": options.task})
    media.save_png(folder.path / "spread.png", media.spread(images))
    cells, labels = [picture], ["measurement"]
    if problem.clean is not None:
        cells, labels = [*cells, problem.clean], [*labels, "truth"]
    cells += [image[None] for image in images]
    labels += [f"particle {k}" for k in range(len(images))]
    media.save_png(folder.path / "grid.png", media.grid(cells, labels=labels))
    files = sorted((folder.path / "frames").glob("*.png"))
    media.write_gif(folder.path / "evolution.gif", [_unstrip(media.read_image(f)) for f in files] + [images])
    for file in files:
        file.unlink()
    (folder.path / "frames").rmdir()


def summarise(out: Path, folders: dict[Path, RunFolder], failures: dict[str, str]) -> None:
    """summary.json and summary.csv: a row an image, and the means over images."""
    rows = []
    for path, folder in folders.items():
        if str(path) not in failures and folder.done:
            m = folder.metrics()
            row: dict[str, Any] = {"image": path.name}
            for name in ("psnr", "ssim", "residual"):
                row |= {f"{name}_{k}": (m[name] or {}).get(k) for k in ("mean", "best", "std")}
            cover = m["coverage"] or {}
            row |= {"div": m["div"], "coverage": cover.get("mean"), "agreement": cover.get("agreement")}
            rows.append({**row, "seconds": m["seconds"]})
    names = [k for k in (rows[0] if rows else {}) if k != "image"]
    means = {k: _mean([row[k] for row in rows]) for k in names}
    write_json(out / "summary.json", {"images": rows, "mean": means, "failed": failures})
    with open(out / "summary.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", *names])
        writer.writeheader()
        writer.writerows(rows)
    shown = "  ".join(f"{k} {v:.3g}" for k, v in means.items() if v is not None and not k.endswith("std"))
    print(f"{len(rows)} done, {len(failures)} failed; means over images: {shown}; {out / 'summary.json'}")


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _headline(figures: dict[str, Any]) -> str:
    parts = []
    if figures["psnr"]:
        parts.append(f"PSNR mean {figures['psnr']['mean']:.2f} dB, best {figures['psnr']['best']:.2f} dB")
    if figures["residual"]:
        parts.append(f"residual {figures['residual']['mean']:.2f} sigma_v")
    if figures["div"] is not None:
        parts.append(f"Div {figures['div']:.3f}")
    return ", ".join(parts) or "done"


def _resume(run: Run, folder: RunFolder) -> dict[str, Any]:
    """Load the checkpoint if there is one, drop the log beyond it; what the run has cost so far."""
    saved = folder.load_checkpoint()
    if saved is None:
        folder.truncate_log(0)
        return {"seconds": 0.0, "network_calls": {}}
    tensors, meta = saved
    run.load_state(_nested(tensors))
    folder.truncate_log(run.step)
    return meta


def _flat(state: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested dicts of tensors and numbers as one dict, "a/b" for a["b"]."""
    out: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= _flat(value, f"{name}/")
        else:
            out[name] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return out


def _nested(flat: dict[str, torch.Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        at = out
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    return out


def _strip(images: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] as one picture [1, 3, H, N W], clamped."""
    return torch.cat(list(images.detach().cpu().float().clamp(-1, 1)), dim=-1)[None]


def _unstrip(picture: torch.Tensor) -> torch.Tensor:
    return torch.cat(picture.split(picture.shape[-2], dim=-1))


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C makes true: the step in progress is finished first, so that nothing is left half done."""
    flag: list[int] = []
    try:
        before = signal.signal(signal.SIGINT, lambda *_: flag.append(1))
    except ValueError:  # not the main thread: leave Ctrl-C to whoever owns it
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
