"""Run experiments by the commands of rsd, row after row, and leave claims.json, figures.json and report.html."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rsd.runs import batch
from rsd.runs.folder import RunFolder, write_bytes, write_json
from rsd.runs.head import Head
from rsd.runs.progress import Progress
from rsd.runs.session import collect_failure, working_in
from rsd.runs.settings import plain, shard

from ..inverse.head import RestoreHead
from ..text_to_3d.head import SceneHead
from ..text_to_image.head import ImageHead
from ..toy.command import INTERRUPTED
from ..toy.command import main as toy
from . import report
from .data import prepare
from .entries import ENTRIES, find
from .entry import Entry
from .measure import measured
from .options import LATER, Reproduce
from .outcome import Outcome, counts, headline
from .rows import DONE, Plan, plan
from .verdict import settled, verdict

HEADS: Mapping[str, Callable[[list[str]], Head]] = {
    "restore": RestoreHead.of, "text-to-image": ImageHead.of, "text-to-3d": SceneHead.of,
}  # fmt: skip
"""What the runner is given for a command's arguments; a toy runs by itself."""
NO_RESULT = ("name", "list_", "json", "out", "resume", "shard", "dry_run", "device")
"""Options that change no figure: what was begun may go on with others."""
GLANCE = "glance.json"
"""What an experiment of all leaves for their common report."""


def run(options: Reproduce) -> int:
    """Reproduce one experiment or all; the exit code: 0 if all ran that can here, whatever held, 1 if some failed.

    Raises ValueError, before anything is written, for one experiment that lacks what all its rows need.
    """
    assert options.name
    entries = ENTRIES if options.name == "all" else (find(options.name),)
    if options.name != "all":
        check_data(entries[0], options)
    out = options.out or Path("runs") / "reproduce" / options.name
    settings = {k: plain(v) for k, v in asdict(options).items() if k not in NO_RESULT}
    folder = RunFolder(out, resume=options.resume or options.shard is not None)
    with working_in(out, main=not options.shard):  # shards write no report
        folder.open({"experiment": options.name, **settings}, later=LATER)
        if options.shard:
            return run_shard(entries, options, out)
        if options.name == "all":
            return run_all(options, out)
        return 1 if reproduce(entries[0], options, out, out).failures else 0


def check_data(entry: Entry, options: Reproduce) -> None:
    """Raise ValueError, which says what is missing, if no row of an experiment can run."""
    plans = [plan(entry, row, options, Path()) for row in entry.rows]
    if all(one.lacks for one in plans):
        raise ValueError(f"{entry.name} {plans[0].lacks}.")


def run_all(options: Reproduce, out: Path) -> int:
    """Every experiment; one that cannot be measured or drawn is told and the others go on. The exit code."""
    code = 0
    for entry in ENTRIES:
        file = out / entry.name / GLANCE
        failures: dict[str, str] = {}
        collect_failure(entry.name, failures, partial(into_all, entry, options, out), several=True)
        for why in failures.values():
            print(f"failed: {entry.name}: {why}", file=sys.stderr, flush=True)
            write_json(file, report.broken(why))
        code |= bool(json.loads(file.read_text(encoding="utf-8"))["failed"])
        summarise(options, out)
    return code


def into_all(entry: Entry, options: Reproduce, out: Path) -> None:
    """An experiment of all, and what their common report shows of it."""
    outcome = reproduce(entry, options, out, out / entry.name)
    write_json(out / entry.name / GLANCE, report.at_a_glance(outcome))


def run_shard(entries: Sequence[Entry], options: Reproduce, out: Path) -> int:
    """Every N-th of the runs of all entries, each once; the exit code: 0 if all of them ran, 1 if some failed."""
    every = {one.key: one for entry in entries for one in planned(entry, options, out)}
    k, n = shard(options.shard)
    for one in every.values():
        if one.lacks:
            print(f"skipped: {one.label} {one.lacks}", flush=True)
    plans = [one for one in every.values() if one.lacks is None]
    mine = plans[k::n]
    progress, failed = Progress(unfinished(mine, out / "runs"), "runs:", first=1), 0
    for one in mine:
        failed += attempt(one, out / "runs", progress) is not None
    print(f"shard {options.shard}: {len(mine) - failed} of {len(plans)} runs done, {failed} failed", flush=True)
    return 1 if failed else 0


def reproduce(entry: Entry, options: Reproduce, shared: Path, into: Path) -> Outcome:
    """Run an experiment's rows, in folders below ``shared`` that others may use too, and write what it leaves into
    ``into``."""
    print(f"\n== {entry.name}: {entry.paper}", flush=True)
    outcome = carry_out(entry, options, shared)
    wanted = {*entry.figures, *(claim.figure for claim in entry.expected(options.scale))}
    for one in outcome.plans:
        if one.label not in outcome.reasons:
            outcome.rows[one.label] = measured(one, one.folder(outcome.runs), wanted, options.scale)
    outcome.claims = [
        verdict(claim, outcome.rows, outcome.reasons, usual=options.usual) for claim in entry.expected(options.scale)
    ]
    write_json(into / "claims.json", outcome.claims)
    write_json(into / "figures.json", {label: asdict(row) for label, row in outcome.rows.items()})
    write_bytes(into / "report.html", report.of_entry(outcome).encode())
    print(f"{entry.name}: {headline(outcome.claims)}; {into / 'report.html'}", flush=True)
    return outcome


def carry_out(entry: Entry, options: Reproduce, shared: Path) -> Outcome:
    """Run what is not done; rows that cannot run, or fail, are told and kept with their reason."""
    plans = planned(entry, options, shared)
    outcome = Outcome(entry, options, plans, shared / "runs")
    progress = Progress(unfinished(plans, outcome.runs), "runs:", first=1)
    for one in plans:
        if one.lacks:
            outcome.reasons[one.label] = f"{one.label} {one.lacks}"
            print(f"skipped: {outcome.reasons[one.label]}", flush=True)
            continue
        if why := attempt(one, outcome.runs, progress):
            outcome.failures[one.label] = why
            outcome.reasons[one.label] = f"{one.label} failed: {why}"
    return outcome


def planned(entry: Entry, options: Reproduce, shared: Path) -> list[Plan]:
    """The runs of an experiment, on data that are written if any of them can run."""
    plans = [plan(entry, row, options, shared / "data" / "none") for row in entry.rows]
    if not entry.data or all(one.lacks for one in plans):
        return plans
    where = prepare(entry.data, options, shared / "data")
    return [plan(entry, row, options, where) for row in entry.rows]


def unfinished(plans: Sequence[Plan], runs: Path) -> int:
    """How many rows are to be run."""
    return sum(one.lacks is None and not finished(one, one.folder(runs)) for one in plans)


def attempt(one: Plan, runs: Path, progress: Progress) -> str | None:
    """Run a row; an error is told, and returned as a sentence."""
    failures: dict[str, str] = {}
    new = not finished(one, one.folder(runs))
    collect_failure(one.label, failures, partial(start, one, runs), several=True)
    if new:
        progress.tick()
    for why in failures.values():
        print(f"failed: {one.label}: {why}", file=sys.stderr, flush=True)
    return failures.get(one.label)


def start(one: Plan, runs: Path) -> None:
    """Run a row, or go on with it. Raises ValueError if a part of it failed or it has run with other settings, and
    what its command raises."""
    folder = one.folder(runs)
    if finished(one, folder):
        check_same(one, runs)
        print(f"-- {one.label}: already done in {folder}", flush=True)
        return
    print(f"-- {one.label}: {one.told()}", flush=True)
    argv = one.whole(runs)
    code = toy(argv) if one.command == "toy" else batch.run_all(HEADS[one.command](argv))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        raise ValueError(f"a part of it failed, see above; {folder} keeps the rest, continue with --resume.")


def check_same(one: Plan, runs: Path) -> None:
    """Raise ValueError if a row that has run would run with other settings now, say since those that are packaged have
    changed."""
    if one.command == "toy":  # its file has no settings, and the run's folder holds what can change
        return
    head, place = HEADS[one.command](one.whole(runs)), one.folder(runs)
    for item in head.items:
        try:
            other = head.run_folder(item).differences(head.config(item), added=head.added)
        except ValueError as error:
            raise ValueError(f"{place} cannot be used: {error}; delete it to make it anew.") from error
        if other:
            raise ValueError(f"{place} was made with other settings ({other}); delete it to make it anew.")


def finished(one: Plan, folder: Path) -> bool:
    """Whether a row has run to its end, without failures, and has the figures that were asked for later."""
    file = folder / DONE[one.command]
    if not file.is_file():
        return False
    told = json.loads(file.read_text(encoding="utf-8"))
    lacks_fid = "--fid-folder" in one.argv and not told["fid"]
    unrated = "--aesthetic-weights" in one.argv and any(row.get("aesthetic") is None for row in told["prompts"])
    return not (told.get("failed") or lacks_fid or unrated)


def summarise(options: Reproduce, out: Path) -> None:
    """summary.json and report.html of all experiments so far, whichever invocation ran them."""
    files = [(entry, out / entry.name / GLANCE) for entry in ENTRIES]
    found = [(entry, json.loads(file.read_text(encoding="utf-8"))) for entry, file in files if file.exists()]
    rows = [
        {
            "name": entry.name, "paper": entry.paper, **counts(told["claims"]),
            "failed": told["failed"], "seconds": told["seconds"], "claims": [settled(one) for one in told["claims"]],
        }
        for entry, told in found
    ]  # fmt: skip
    write_json(out / "summary.json", {"scale": options.scale, "experiments": rows})
    write_bytes(out / "report.html", report.of_all(found, options, out / "runs").encode())
