"""Run the cells of ``rsd calibrate``, then score them and write the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from rsd.errors import plain_warnings
from rsd.runs.folder import check_folder_of_runs
from rsd.runs.progress import Progress
from rsd.runs.session import collect_failure, working_in
from rsd.runs.settings import shard
from rsd.tasks.inverse.compare.pairs import Pair, pairs
from rsd.tasks.inverse.compare.run import is_done, restore, runnable
from rsd.tasks.inverse.methods import METHODS

from .options import Calibrate
from .report import FILES, write
from .scoring import Known, prior_frequencies, score


def run(options: Calibrate) -> int:
    """Run what is not done, then score it and write the tables. Return the exit code: 0 all done, 1 some failed."""
    compare = options.compare
    sizes = compare.sizes()
    found, left_out = pairs(compare)
    able, others = runnable(found, sizes)
    left_out = {**left_out, **others}
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if not able:
        raise ValueError(f"No method can be calibrated on {options.task}: {'; '.join(left_out.values())}")
    job, size = able[0].jobs[0], sizes[able[0].options.prior]
    known = {(size, job.title): Known.of(job, size)}  # a task that leaves nothing or too much open fails before any run
    rows = [row for pair in able for row in at_gammas(pair, options.gammas)]
    check_folder_of_runs(options.out, resume=True, own=(*FILES, "heads", "cells", "prior"), runs="cells/*/*")
    failures: dict[str, str] = {}
    first, every = shard(options.shard)
    with working_in(options.out, main=not options.shard), plain_warnings():
        todo = [pair for pair in rows[first::every] if not is_done(pair)]
        progress = Progress(len(todo), "methods:", first=1)
        for pair in todo:
            collect_failure(pair.title, failures, partial(restore, pair, failures), several=True)
            progress.tick()
        if options.shard:
            print(f"shard {options.shard} done; the same command without --shard writes the tables")
        else:
            prior = prior_frequencies(options) if options.prior_draws else None
            write(options, list(score(rows, options, sizes, known)), prior)
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def at_gammas(pair: Pair, gammas: Sequence[float]) -> Iterator[Pair]:
    """Yield the pair at each gamma, in a folder of its own; the pair itself without gammas or for a method that has no
    gamma."""
    if not gammas or "gamma" not in METHODS[pair.method].uses:
        yield pair
        return
    for gamma in gammas:
        out = pair.folder.with_name(f"{pair.folder.name}-gamma-{gamma:g}")
        options = replace(pair.options, gamma=gamma, out=out)
        yield replace(pair, options=options, jobs=[replace(job, options=options) for job in pair.jobs])
