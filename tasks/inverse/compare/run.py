"""The cells of ``rsd compare``: which of them can be, running those that are not done, and a row for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rsd.errors import plain_warnings
from rsd.metrics.scoring import ScoreRequest, missing_figures
from rsd.runs.batch import run_items
from rsd.runs.folder import check_folder_of_runs
from rsd.runs.progress import Progress
from rsd.runs.session import collect_failure, working_in
from rsd.runs.settings import shard

from ..head import RestoreHead
from ..report import SCORES
from .equal_terms import Common
from .pairs import OWN, Compare, Pair
from .selection import sift
from .table import write


def run(compare: Compare, pairs: list[Pair], left_out: dict[str, str]) -> int:
    """Run what is not done, then write what a comparison leaves; the exit code: 0 all done, 1 some failed."""
    sizes = compare.sizes()
    able, others = sift(pairs, sizes)
    left_out = {**left_out, **others}
    if not able:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(f"No method can be compared on any task: {told}")
    check_folder_of_runs(compare.out, resume=True, own=OWN, runs="cells/*/*")
    for pair in able:
        head = RestoreHead(pair.options, pair.jobs, several=True)
        for item in head.items:  # before anything is written: no half comparison of each setting
            pair.cell(item.source).check(head.config(item), added=head.added)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    failures: dict[str, str] = {}
    first, every = shard(compare.shard)
    with working_in(compare.out, main=not compare.shard):  # shards write no table
        with plain_warnings():
            common = None if compare.shard else Common.of(compare, able, sizes)  # its networks, before hours of work
            todo = [pair for pair in able[first::every] if not is_done(pair)]
            progress = Progress(len(todo), "methods on tasks:", first=1)
            for pair in todo:
                collect_failure(pair.title, failures, partial(restore, pair, failures), several=True)
                progress.tick()
        if common is None:
            print(f"shard {compare.shard} done; the same command without --shard writes the table")
        else:
            write(compare.out, [row for pair in able for row in rows(compare.out, pair, common)], able, left_out)
    return _told(failures)


def is_done(pair: Pair) -> bool:
    """Whether a pair has its summary, and each of its images all that is asked for."""
    cells = [pair.cell(one) for one in pair.jobs]
    lacks = any(
        not cell.done or missing_figures(SCORES, cell.metrics(), ScoreRequest.of(pair.options)) for cell in cells
    )
    return not lacks and (pair.folder / "summary.json").exists()


def _told(failures: dict[str, str]) -> int:
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def restore(pair: Pair, failures: dict[str, str]) -> None:
    """Restore the images of a pair that are not done; what fails is added to ``failures``."""
    cells = [pair.cell(one) for one in pair.jobs]
    todo = [
        cell
        for cell in cells
        if not cell.done or missing_figures(SCORES, cell.metrics(), ScoreRequest.of(pair.options))
    ]
    print(f"{pair.title}: {len(todo)} of {len(cells)} to do", flush=True)
    for name, why in run_items(RestoreHead(pair.options, pair.jobs, several=True)).items():
        failures[f"{pair.title}: {name}"] = why


def rows(out: Path, pair: Pair, common: Common) -> Iterator[dict[str, Any]]:
    """The cells of a pair that are done, as compare.json has them. ``fid`` is of all these, and the same in each."""
    done = [one for one in pair.jobs if pair.cell(one).done]
    fid = common.distance(pair, done)
    for one in done:
        folder = pair.cell(one)
        held = folder.metrics()
        costs = {name: held.pop(name, None) for name in ("seconds", "network_calls", "peak_bytes")}
        held["common"] = common.figures(pair, one)
        o = pair.options
        yield {
            "method": pair.method, "task": pair.task, "image": one.title, "prior": o.prior, "run_as": o.task,
            "settings": pair.settings, "steps": o.steps, "particles": o.particles,
            "folder": str(folder.path.relative_to(out)), "metrics": held, "fid": fid, **costs,
        }  # fmt: skip
