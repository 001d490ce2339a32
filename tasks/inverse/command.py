"""``rsd restore``: from flags and YAML files to checked options, then the job."""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.resources import files
from typing import Any

import tyro

from rsd.priors import over_heads
from rsd.settings import layered, plain, tokens

from .jobs import list_jobs
from .options import Restore

NO_PIXEL = (
    "resume", "shard", "config", "out", "checkpoint_every", "device", "chunk", "memory", "metrics", "clip_model",
    "fid_features", "div_features",
)  # fmt: skip
"""Options that change no pixel: a run may be resumed with others, and config.yaml leaves them out."""
NON_AUGMENTED = ("nonaug", "latent-red-diff")


def packaged(task: str, method: str, prior: str) -> str | None:
    """The name of the packaged configuration for a task, or None: heads are tuned apart, all else is the paper's.

    Tasks without their own borrow from the nearest: any srK from sr4 (heads) or sr8 (Stable Diffusion), masks from the
    half face.
    """
    family = "heads" if over_heads(prior) else "sd"
    own = [task]
    if task.startswith("sr"):
        own.append("sr4" if family == "heads" else "sr8")
    elif task.startswith("inpaint"):
        own.append("inpaint_half_face")
    elif task in ("deblur_gaussian", "operator"):
        own.append("deblur_motion")
    names = [f"{name}_{family}.yaml" for name in own]
    if method in NON_AUGMENTED:
        names = [f"{name}_nonaug_{family}.yaml" for name in own] + names
    folder = files("rsd.configs") / "inverse"
    return next((name for name in names if (folder / name).is_file()), None)


def parse(argv: list[str]) -> tuple[Restore, str | None]:
    """Options from the packaged configuration, then --config, then the flags; and that configuration's name."""

    def choose(options: Restore) -> tuple[str | None, tuple[str, ...]]:
        name = packaged(options.task, options.method, options.prior)
        return name, ("task", "method", "prior", "revision")

    options, name = layered(Restore, argv, prog="rsd restore", positional="images", folder="inverse", packaged=choose)
    check_used(tyro.cli(Restore, args=argv), options)
    return options, name


def check_used(flags: Restore, options: Restore) -> None:
    """Raise ValueError, in one sentence, for a flag that the options make no use of. ``flags``: what the flags alone
    say; a file may say more than its task needs, since it may be one for several."""
    needs = {
        "interacting": ("method hybrid", options.method == "hybrid", f"the method is {options.method}"),
        "downsample": ("the tasks sr2 ... sr16", options.task.startswith("sr"), f"the task is {options.task}"),
        "keep_known": ("the inpaint tasks", options.task.startswith("inpaint"), f"the task is {options.task}"),
    }
    for name, (what, used, but) in needs.items():
        if not used and getattr(flags, name) != Restore.__dataclass_fields__[name].default:
            raise ValueError(f"--{name.replace('_', '-')} goes with {what}, but {but}; change one of them.")


def resolved(options: Restore) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    return {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}


def main(argv: list[str]) -> int:
    """Restore; returns the exit code."""
    options, name = parse(argv)
    chosen = name or f"none packaged for {options.task} by {options.method} (rsd restore --help tells the defaults)"
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"settings: {chosen}" + (f" and {options.config}" if options.config else "") + ", then your flags")
    jobs = list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])
    from .job import run

    sys.stdout.flush()
    return run(options, jobs)
