"""Find the packaged settings of a restoration, and resolve its options from them. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rsd.priors import family
from rsd.runs import settings
from rsd.runs.settings import Packaged, layers_of, plain, section, sections
from rsd.runs.words import unknown_name

from .methods import METHODS, PUBLISHED, check_method, files_of
from .names import TASKS, is_task
from .options import ALPHA, Restore, Settings, check_used

PROG = "rsd restore"
NO_PIXEL = (
    "engine", "dry_run",
    "resume", "shard", "config", "out", "checkpoint_every", "device", "chunk", "memory", "metrics", "clip_model",
    "fid_features", "div_features",
)  # fmt: skip
"""Options that do not change the samples: a run may be resumed with other values, and config.yaml omits them."""
ADDED = {
    "mask_hole": "black", "draw": None, "keep": None, "noise": "fresh", "inversion_steps": 4, "blur": None,
    "quality": None, "peak": None, "propose": False, "push_limit": None,
}  # fmt: skip
"""Options missing from older versions' config.yaml, with the values that their runs had."""


def packaged(task: str, method: str, prior: str) -> Packaged | None:
    """Return the packaged settings for a task, or None. The method's own section comes first, then those of the methods
    that it borrows from. The section rlsd of heads-pixels may be that of heads."""
    of = family(prior) or PUBLISHED
    for name in (method, *METHODS[method].borrows):
        for kin in (of, "heads") if (name, of) == ("rlsd", "heads_pixels") else (of,):
            for file in files_of(task, kin):
                if found := section("inverse", file, name, skip=DECIDED):
                    return found
    return None


def presets(task: str, method: str, prior: str) -> dict[int, Packaged]:
    """Return the packaged settings by number of steps: the section that :func:`packaged` finds, and its presets."""
    own = packaged(task, method, prior)
    steps = sections("inverse")[own.file]["methods"][own.method].get("presets", {}) if own else {}
    if not own or not steps:
        return {}
    found = {n: section("inverse", own.file, own.method, n, skip=DECIDED) for n in steps}
    return {n: one for n, one in sorted({**found, own.settings["steps"]: own}.items()) if one}


DECIDED = ("task", "method", "prior", "revision")
"""Fields that select the packaged settings and that those do not change."""


def chosen(options: Restore) -> Packaged | None:
    """Return the packaged settings for these options' task, method, prior and preset; None if there are none. Raise
    ValueError for an unknown preset."""
    if options.preset is None:
        return packaged(options.task, options.method, options.prior)
    found = presets(options.task, options.method, options.prior)
    if options.preset not in found:
        known_steps = f"there are {', '.join(map(str, found))}" if found else "there are none; give --steps"
        what = f"{options.preset} steps for {options.task} by {options.method} with {options.prior}"
        raise ValueError(f"There is no preset of {what}: {known_steps}.")
    return found[options.preset]


def settled(task: str, *, method: str, prior: str, preset: int | None = None) -> tuple[Restore, str | None]:
    """Return the options of ``rsd restore`` with no other flags than these, and the name of the packaged settings. The
    Python API uses this too, so both have the same defaults.

    Raise ValueError, in one sentence, for an unknown task, method or preset.
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
    """Return the settings of ``rsd restore`` for a task with that method, prior and preset, and their source: a section
    of a file in configs/inverse, or that none is packaged. Raise ValueError for unknown names."""
    options, name = settled(task, method=method, prior=prior, preset=preset)
    found = chosen(options)
    borrowed = task == "operator" and found and "task" in found.tuned_for
    guess = " (a guess: none is packaged for your own operators)" if borrowed else ""
    return Settings.of(options), f"{name}{guess}" if name else f"none packaged for {task} by {options.method}"


def parse(argv: list[str]) -> tuple[Restore, str | None]:
    """Return the options from the packaged settings, then --config, then the flags; and the name of those settings."""
    return resolve(*layers(argv))


def layers(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that --config sets, and those that the command line sets."""
    return layers_of(Restore, argv, prog=PROG, positional="images")


def resolve(file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Restore, str | None]:
    """Return the options from the packaged settings, then ``file``, then ``given``; and the name of the packaged
    settings. Raise ValueError for a field in ``given`` that the task or the method does not read."""

    def choose(options: Restore) -> Packaged | None:
        return chosen(options) if options.task else None  # each line of a manifest selects its own

    options, name = settings.resolve(Restore, file, given, prog=PROG, packaged=choose)
    check_used(given, options)
    return options.without_unread(), name


def borrowed_note(options: Restore) -> str:
    """Return a note if the packaged settings were tuned for another task or prior, else ""."""
    found = chosen(options) if options.task else None
    others = [
        (f"{found.tuned_for[what]}", f"{getattr(options, what)}")
        for what in (
            ("prior",) if METHODS[options.method].kindred and options.task != "operator" else ("task", "prior")
        )
        if found
        and found.tuned_for.get(what, getattr(options, what)) != getattr(options, what)
        and not (what == "prior" and family(found.tuned_for[what]) == family(options.prior) is not None)
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
    """Return the options as plain values, as in config.yaml."""
    values = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    values["fit"] = options.fitted
    return values | ({"mask": str(ALPHA)} if options.mask == ALPHA else {})  # a keyword, not a path
