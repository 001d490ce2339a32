"""Run the cells of ``rsd compare``: select the pairs that can run, run what is not done, and collect a row per cell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsd.errors import plain_warnings
from rsd.metrics.scoring import ScoreRequest, missing_figures
from rsd.runs.batch import run_items
from rsd.runs.folder import check_folder_of_runs
from rsd.runs.progress import Progress
from rsd.runs.session import collect_failure, working_in
from rsd.runs.settings import shard

from ..head import RestoreHead, check_method
from ..methods import ADAM, METHODS, TUNABLE, run_class
from ..options import Restore
from ..packaged import resolved
from ..results import SCORES
from .equal_terms import Common
from .pairs import Pair
from .table import write

if TYPE_CHECKING:
    from .options import Compare

OWN = ("compare.json", "compare.csv", "compare.md", "grid.png", "cells")


def run(compare: Compare, pairs: list[Pair], left_out: dict[str, str]) -> int:
    """Run what is not done, then write the tables. Return the exit code: 0 all done, 1 some failed."""
    sizes = compare.sizes()
    able, others = runnable(pairs, sizes)
    left_out = {**left_out, **others}
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(f"No method can be compared on any task: {reasons}")
    check_folder_of_runs(compare.out, resume=True, own=OWN, runs="cells/*/*")
    for pair in able:
        head = RestoreHead(pair.options, pair.jobs)
        for item in head.items:  # before anything is written: a comparison must not mix settings
            pair.cell(item.source).check(head.config(item), added=head.added, inputs=head.inputs(item))
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    failures: dict[str, str] = {}
    first, every = shard(compare.shard)
    with working_in(compare.out, main=not compare.shard):  # shards write no table
        with plain_warnings():
            common = None if compare.shard else Common.of(compare, able, sizes)  # load the scorers before hours of work
            todo = [pair for pair in able[first::every] if not is_done(pair)]
            progress = Progress(len(todo), "methods on tasks:", first=1)
            for pair in todo:
                collect_failure(pair.title, failures, partial(restore, pair, failures), several=True)
                progress.tick()
        if common is None:
            print(f"shard {compare.shard} done; the same command without --shard writes the table")
        else:
            write(compare.out, [row for pair in able for row in rows(compare.out, pair, common)], able, left_out)
    return _report_failures(failures)


def is_done(pair: Pair) -> bool:
    """Return whether a pair has its summary, and each of its images all requested figures."""
    cells = [pair.cell(job) for job in pair.jobs]
    unfinished = any(
        not cell.done or missing_figures(SCORES, cell.metrics(), ScoreRequest.of(pair.options)) for cell in cells
    )
    return not unfinished and (pair.folder / "summary.json").exists()


def _report_failures(failures: dict[str, str]) -> int:
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def restore(pair: Pair, failures: dict[str, str]) -> None:
    """Restore the images of a pair that are not done; add the errors to ``failures``."""
    cells = [pair.cell(job) for job in pair.jobs]
    todo = [
        cell
        for cell in cells
        if not cell.done or missing_figures(SCORES, cell.metrics(), ScoreRequest.of(pair.options))
    ]
    print(f"{pair.title}: {len(todo)} of {len(cells)} to do", flush=True)
    for name, why in run_items(RestoreHead(pair.options, pair.jobs)).items():
        failures[f"{pair.title}: {name}"] = why.removeprefix(f"{name}: ")


def rows(out: Path, pair: Pair, common: Common) -> Iterator[dict[str, Any]]:
    """Yield the finished cells of a pair as rows of compare.json. ``fid`` compares all of them, and is the same in
    each."""
    done = [job for job in pair.jobs if pair.cell(job).done]
    fid = common.distance(pair, done)
    for job in done:
        folder = pair.cell(job)
        held = folder.metrics()
        costs = {name: held.pop(name, None) for name in ("seconds", "network_calls", "peak_bytes")}
        held["common"] = common.figures(pair, job)
        o = pair.options
        yield {
            "method": pair.method, "task": pair.task, "image": job.title, "prior": o.prior, "run_as": o.task,
            "settings": pair.settings, "steps": o.steps, "particles": o.kept,
            "folder": str(folder.path.relative_to(out)), "metrics": held, "fid": fid, **costs,
        }  # fmt: skip


def runnable(pairs: list[Pair], sizes: dict[str, int]) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs to run, and by title why the others are left out: the method does not fit, or repeats another's
    run.

    ``sizes``: pixels a side of each prior.
    """
    able: dict[str, Pair] = {}
    left_out: dict[str, str] = {}
    for pair in pairs:
        try:
            check_method(pair.options, sizes[pair.options.prior])
        except ValueError as error:
            left_out[pair.title] = str(error)
            continue
        twin = able.setdefault(run_key(pair.options), pair)
        if twin is not pair:
            left_out[pair.title] = f"{pair.method} is {twin.method} here: {_why_same(pair.options)}."
    return list(able.values()), left_out


def run_key(options: Restore) -> str:
    """Return a key of all options that affect the samples: those that the method reads, without its name. Methods
    without interaction and with the same Adam settings are the same update."""
    entry = METHODS[options.method]
    used = entry.uses if options.interacts else [name for name in entry.uses if name in ADAM]
    kept: dict[str, Any] = {k: v for k, v in resolved(options).items() if k not in TUNABLE or k in used}
    del kept["method"]
    return repr((run_class(options.method), entry.sampler, sorted(used), sorted(kept.items())))


def _why_same(options: Restore) -> str:
    return "a single particle has no repulsion" if options.drawn == 1 else "gamma is 0"
