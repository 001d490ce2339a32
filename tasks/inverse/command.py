"""``rsd restore``: from flags and YAML files to checked options, then the runner."""

from __future__ import annotations

import os
import sys

from rsd.runs.settings import tokens

from .inputs import Job, left_behind, list_jobs
from .options import Restore
from .packaged import guessed, parse


def main(argv: list[str]) -> int:
    """Restore; returns the exit code."""
    options, name = parse(argv)
    told = name or f"none packaged for {options.task} by {options.method} (rsd restore --help tells the defaults)"
    if not options.task:
        told = "of each line's task"
    jobs = list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"settings: {told}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        for line in [*filter(None, [guessed(options)]), *left_behind(options.images)]:
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
