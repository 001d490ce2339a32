"""Which packaged settings apply to a restoration, and the options that follow from them. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import Any

from rsd.priors import family
from rsd.runs import flags
from rsd.runs.settings import Packaged, layered, plain, section, sections
from rsd.runs.words import unknown_name

from .methods import METHODS, check_method
from .names import TASKS, is_task
from .options import ALPHA, Restore, Settings, check_used

NO_PIXEL = (
    "engine",
    "resume", "shard", "config", "out", "checkpoint_every", "device", "chunk", "memory", "metrics", "clip_model",
    "fid_features", "div_features",
)  # fmt: skip
"""Options that change no pixel: a run may be resumed with others, and config.yaml leaves them out."""
ADDED = {"mask_hole": "black"}
"""Options that older versions' config.yaml lacks, and what their runs were made with."""


ANY = "any"
"""The name of the files whose sections serve every task."""


def files_of(task: str, prior: str) -> list[str]:
    """The files of configs/inverse that may serve a task with a prior, the likeliest first: the task's own, that of the
    nearest task (any srK: sr4 of the built-in priors, sr8; masks: half a face; other operators: motion blur), and that
    for any task."""
    near = task
    if task.startswith("sr"):
        near = "sr8" if prior == PUBLISHED else "sr4"
    elif task.startswith("inpaint"):
        near = "inpaint_half_face"
    elif task in ("deblur_gaussian", "operator"):
        near = "deblur_motion"
    return [f"{name}_{prior}.yaml" for name in dict.fromkeys((task, near, ANY))]


PUBLISHED = "sd"
"""What files for all priors but the built-in ones are named after."""


def packaged(task: str, method: str, prior: str) -> Packaged | None:
    """The packaged settings for a task, or None. The method's own section comes first, then those of the methods that
    it borrows from; the section rlsd of heads-pixels may be that of heads."""
    of = family(prior) or PUBLISHED
    for name in (method, *METHODS[method].borrows):
        for kin in (of, "heads") if (name, of) == ("rlsd", "heads_pixels") else (of,):
            for file in files_of(task, kin):
                if found := section("inverse", file, name, skip=DECIDED):
                    return found
    return None


def presets(task: str, method: str, prior: str) -> dict[int, Packaged]:
    """The packaged settings for so many steps: the presets of the section that :func:`packaged` finds, and that section
    itself."""
    own = packaged(task, method, prior)
    steps = sections("inverse")[own.file]["methods"][own.method].get("presets", {}) if own else {}
    if not own or not steps:
        return {}
    found = {n: section("inverse", own.file, own.method, n, skip=DECIDED) for n in steps}
    return {n: one for n, one in sorted({**found, own.settings["steps"]: own}.items()) if one}


DECIDED = ("task", "method", "prior", "revision")
"""Fields that choose the packaged settings, and that those do not decide."""


def chosen(options: Restore) -> Packaged | None:
    """The packaged settings for these options' task, method, prior and preset; None: there are none. Raises ValueError
    for a preset of other steps than there are."""
    if options.preset is None:
        return packaged(options.task, options.method, options.prior)
    found = presets(options.task, options.method, options.prior)
    if options.preset not in found:
        told = f"there are {', '.join(map(str, found))}" if found else "there is none; give --steps"
        what = f"{options.preset} steps for {options.task} by {options.method} with {options.prior}"
        raise ValueError(f"There is no preset of {what}: {told}.")
    return found[options.preset]


def settled(task: str, *, method: str, prior: str, preset: int | None = None) -> tuple[Restore, str | None]:
    """What ``rsd restore`` settles on where the user says no more than this: for Python, which asks here so that both
    have one source. The options, and the name of the packaged settings.

    Raises ValueError, in one sentence, for an unknown task, method or preset.
    """
    if not is_task(task):
        raise unknown_name("task", task, TASKS)
    if method != "auto":
        check_method(method)
    options = Restore(images=(), task=task, method=method, prior=prior, preset=preset)
    found = chosen(options)
    if found is None:
        return options, None
    return dataclasses.replace(options, **found.values(Restore)), found.name


def settings_of(
    task: str, *, method: str = "auto", prior: str = "heads", preset: int | None = None
) -> tuple[Settings, str]:
    """What ``rsd restore`` runs a task with by that method, prior and preset, and where that comes from: a section of a
    file of configs/inverse, or that none is packaged. Raises ValueError for unknown ones."""
    options, name = settled(task, method=method, prior=prior, preset=preset)
    guess = " (a guess: none is packaged for operators of your own)" if task == "operator" else ""
    return Settings.of(options), f"{name}{guess}" if name else f"none packaged for {task} by {options.method}"


def parse(argv: list[str]) -> tuple[Restore, str | None]:
    """Options from the packaged settings, then --config, then the flags; and the name of those settings."""

    def choose(options: Restore) -> Packaged | None:
        return chosen(options) if options.task else None  # each line of a manifest has its own

    options, name = layered(Restore, argv, prog="rsd restore", positional="images", packaged=choose)
    check_used(flags.values(Restore, argv, prog="rsd restore"), options)
    return options.without_unread(), name


def guessed(options: Restore) -> str:
    """What to know of packaged settings that were made for another task or prior: in a sentence, or nothing."""
    found = chosen(options) if options.task else None
    others = [
        (f"{found.tuned_for[what]}", f"{getattr(options, what)}")
        for what in ("task", "prior")
        if found and found.tuned_for[what] != getattr(options, what)
    ]
    if not found or not others:
        return ""
    theirs, ours = (" with ".join(parts) for parts in zip(*others, strict=True))
    method = METHODS[options.method]
    used = [flag for flag in ("gamma", "lambda_", "rho", "lr_x", "lr_z") if flag in method.uses]
    used = [flag for flag in used if flag != "lr_x" or options.x_step == "adam"]
    tune = [f"--{flag.rstrip('_').replace('_', '-')}" for flag in used]
    tune += ["--hyper"] if method.sampler else []
    return (
        f"{found.name} was tuned for {theirs}; for {ours} it is a guess: where the residual is far from 1 sigma_v or "
        f"samples look wrong, tune {', '.join([*tune, '--steps'])}"
    )


def resolved(options: Restore) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    told = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    return told | ({"mask": str(ALPHA)} if options.mask == ALPHA else {})  # a word, no path
