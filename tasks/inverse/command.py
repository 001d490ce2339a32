"""``rsd restore``: from flags and YAML files to checked options, then the job."""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.resources import as_file, files
from typing import Any

import yaml

from rsd.priors import family
from rsd.runs import flags
from rsd.runs.settings import known, layered, plain, read_yaml, tokens

from .inputs import Job, left_behind, list_jobs
from .methods import FIELD, check_method
from .names import TASKS, is_task
from .options import ALPHA, Restore
from .used import check_used

NO_PIXEL = (
    "resume", "shard", "config", "out", "checkpoint_every", "device", "chunk", "memory", "metrics", "clip_model",
    "fid_features", "div_features", "engine",
)  # fmt: skip
"""Options that change no pixel: a run may be resumed with others, and config.yaml leaves them out."""
PRESETS = (50, 100, 200, 1000)
NON_AUGMENTED = ("nonaug", "latent-red-diff")
ADDED = {"mask_hole": "black"}
"""Options that older versions' config.yaml lacks, and what their runs were made with."""


def packaged(task: str, method: str, prior: str) -> str | None:
    """The name of the packaged configuration for a task, or None: the built-in priors are tuned apart, all else is the
    paper's.

    Tasks without their own borrow from the nearest: any srK from sr4 (built in) or sr8 (Stable Diffusion), masks from
    the half face. The methods that RLSD is compared with have one of their own for a task, or one for all.
    """
    of = family(prior) or "sd"
    own = [task]
    if task.startswith("sr"):
        own.append("sr8" if of == "sd" else "sr4")
    elif task.startswith("inpaint"):
        own.append("inpaint_half_face")
    elif task in ("deblur_gaussian", "operator"):
        own.append("deblur_motion")
    stem = method.replace("-", "_")
    names = [f"{name}_{stem}_{of}.yaml" for name in own] + [f"{stem}_{of}.yaml"]
    if method in NON_AUGMENTED:
        names += [f"{name}_nonaug_{of}.yaml" for name in own]
    if method in NON_AUGMENTED or "rlsd" in FIELD[method].works:
        names += [f"{name}_{kin}.yaml" for kin in dict.fromkeys((of, of.split("_")[0])) for name in own]
    folder = files("rsd.configs") / "inverse"
    return next((name for name in names if (folder / name).is_file()), None)


def presets(task: str, method: str, prior: str) -> dict[int, str]:
    """The names of the packaged configurations for so many steps: those of the file that :func:`packaged` names, so
    that they are borrowed only where the task has none of its own, and that file itself if it has the exact x-step."""
    name = packaged(task, method, prior)
    there = {file.name: file for file in (files("rsd.configs") / "inverse").iterdir()}
    found = {steps: f"{name.removesuffix('.yaml')}_{steps}.yaml" for steps in PRESETS} if name else {}
    found = {steps: file for steps, file in found.items() if file in there}
    if found and name and (own := yaml.safe_load(there[name].read_text())).get("x_step") == "exact":
        found[own["steps"]] = name
    return dict(sorted(found.items()))


def preset(options: Restore) -> str:
    """The name of the configuration that --preset asks for; ValueError if there is none of so many steps."""
    found = presets(options.task, options.method, options.prior)
    if options.preset not in found:
        told = f"there are {', '.join(map(str, found))}" if found else "there is none; give --steps"
        what = f"{options.preset} steps for {options.task} by {options.method} with {options.prior}"
        raise ValueError(f"There is no preset of {what}: {told}.")
    return found[options.preset]


DECIDED = ("task", "method", "prior", "revision")
"""Fields that choose the packaged configuration, and that it does not decide."""


def chosen(options: Restore) -> str | None:
    """The name of the packaged configuration for these options' task, method, prior and preset; None: there is none."""
    if options.preset is not None:
        return preset(options)
    return packaged(options.task, options.method, options.prior)


def settled(task: str, *, method: str, prior: str, preset: int | None = None) -> tuple[Restore, str | None]:
    """What ``rsd restore`` settles on where the user says no more than this: for Python, which asks here so that both
    have one source. The options, and the packaged configuration's name.

    Raises ValueError, in one sentence, for an unknown task, method or preset.
    """
    if not is_task(task):
        raise known("task", task, TASKS)
    if method != "auto":
        check_method(method)
    options = Restore(images=(), task=task, method=method, prior=prior, preset=preset)
    name = chosen(options)
    if name is None:
        return options, None
    with as_file(files("rsd.configs") / "inverse" / name) as path:
        told = {"lambda_" if key == "lambda" else key: value for key, value in read_yaml(path).items()}
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k not in DECIDED}
    return dataclasses.replace(options, **told), name


def parse(argv: list[str]) -> tuple[Restore, str | None]:
    """Options from the packaged configuration, then --config, then the flags; and that configuration's name."""

    def choose(options: Restore) -> tuple[str | None, tuple[str, ...]]:
        return (chosen(options), DECIDED) if options.task else (None, ())  # each line of a manifest has its own

    options, name = layered(Restore, argv, prog="rsd restore", positional="images", folder="inverse", packaged=choose)
    check_used(flags.parse(Restore, argv, prog="rsd restore"), options)
    return options.without_idle(), name


def guessed(name: str, options: Restore) -> str:
    """What to know of packaged settings that were made for another task or prior: in a sentence, or nothing."""
    held = yaml.safe_load((files("rsd.configs") / "inverse" / name).read_text())
    others = [
        (f"{held[what]}", f"{getattr(options, what)}")
        for what in ("task", "prior")
        if held.get(what) not in (None, getattr(options, what))
    ]
    if not others:
        return ""
    theirs, ours = (" with ".join(parts) for parts in zip(*others, strict=True))
    used = [flag for flag in ("gamma", "lambda_", "rho", "lr_x", "lr_z") if flag in FIELD[options.method].uses]
    used = [flag for flag in used if flag != "lr_x" or options.x_step == "adam"]
    tune = [f"--{flag.rstrip('_').replace('_', '-')}" for flag in used]
    tune += ["--hyper"] if FIELD[options.method].made else []
    return (
        f"{name} was tuned for {theirs}; for {ours} it is a guess: where the residual is far from 1 sigma_v or answers "
        f"look wrong, tune {', '.join([*tune, '--steps'])}"
    )


def resolved(options: Restore) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    told = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    return told | ({"mask": str(ALPHA)} if options.mask == ALPHA else {})  # a word, no path


def main(argv: list[str]) -> int:
    """Restore; returns the exit code."""
    options, name = parse(argv)
    told = name or f"none packaged for {options.task} by {options.method} (rsd restore --help tells the defaults)"
    if not options.task:
        told = "of each line's task"
    jobs = list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"settings: {told}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        for line in [*([note] if name and (note := guessed(name, options)) else []), *left_behind(options.images)]:
            print(f"note: {line}")
    if options.autocast:
        settle(options, jobs, typed="--autocast" in argv)
    from .head import run

    sys.stdout.flush()
    return run(options, jobs)


def settle(options: Restore, jobs: list[Job], *, typed: bool) -> None:
    """Refuse --autocast where the device has no bfloat16; that of a settings file is left out, with a note."""
    from rsd.priors.precision import settle_autocast
    from rsd.runs.session import pick_device

    autocast = settle_autocast(options.autocast, pick_device(options.device), typed=typed)
    for one in (options, *(job.options for job in jobs)):
        one.autocast = autocast
