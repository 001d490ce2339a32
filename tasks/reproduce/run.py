"""Run experiments row by row, and write claims.json, figures.json and report.html."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rsd.runs import batch
from rsd.runs.folder import RunFolder, write_bytes, write_json
from rsd.runs.head import PromptHead
from rsd.runs.progress import Progress
from rsd.runs.session import collect_failure, working_in
from rsd.runs.settings import plain, shard

from ..inverse.head import RestoreHead
from ..text_to_3d.head import SceneHead
from ..text_to_image.head import ImageHead
from ..toy.command import INTERRUPTED, Toy
from ..toy.command import run as toy
from . import report
from .data import prepare
from .experiments import ENTRIES, find
from .experiments.entry import Entry
from .measure import measured
from .options import LATER, Reproduce
from .outcome import Outcome, counts, headline
from .plan import DONE, Plan, plan
from .verdict import verdict, with_state

HEADS: Mapping[str, type[RestoreHead] | type[PromptHead]] = {
    "restore": RestoreHead, "text-to-image": ImageHead, "text-to-3d": SceneHead,
}  # fmt: skip
"""The runner's head of each command; a toy runs by itself."""
NO_RESULT = ("name", "list_", "json", "out", "resume", "shard", "dry_run", "device")
"""Options that do not affect the figures: a run may be resumed with other values."""
GLANCE = "glance.json"
"""The file of an experiment for the report of all."""


def run(options: Reproduce) -> int:
    """Reproduce one experiment or all. Return the exit code: 0 if all that can run here ran, whatever the claims, 1 if
    some failed.

    Raise ValueError, before anything is written, if one experiment is given and none of its rows can run.
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
    """Raise ValueError, with the reason, if no row of an experiment can run."""
    plans = [plan(entry, row, options, Path()) for row in entry.rows]
    if all(one.why_not for one in plans):
        raise ValueError(f"{entry.name} {plans[0].why_not}.")


def run_all(options: Reproduce, out: Path) -> int:
    """Run every experiment. Print the error of one that cannot be measured or drawn, and continue. Return the exit
    code."""
    code = 0
    for entry in ENTRIES:
        file = out / entry.name / GLANCE
        failures: dict[str, str] = {}
        collect_failure(entry.name, failures, partial(reproduce_one, entry, options, out), several=True)
        for why in failures.values():
            print(f"failed: {entry.name}: {why}", file=sys.stderr, flush=True)
            write_json(file, report.failed_glance(why))
        code |= bool(json.loads(file.read_text(encoding="utf-8"))["failed"])
        summarise(options, out)
    return code


def reproduce_one(entry: Entry, options: Reproduce, out: Path) -> None:
    """Reproduce an experiment and write its part of the report of all."""
    outcome = reproduce(entry, options, out, out / entry.name)
    write_json(out / entry.name / GLANCE, report.at_a_glance(outcome))


def run_shard(entries: Sequence[Entry], options: Reproduce, out: Path) -> int:
    """Run every N-th of the runs of all entries, each once. Return the exit code: 0 if all of them ran, 1 if some
    failed."""
    every = {one.key: one for entry in entries for one in planned(entry, options, out)}
    k, n = shard(options.shard)
    for one in every.values():
        if one.why_not:
            print(f"skipped: {one.label} {one.why_not}", flush=True)
    plans = [one for one in every.values() if one.why_not is None]
    mine = plans[k::n]
    progress, failed = Progress(unfinished(mine, out / "runs"), "runs:", first=1), 0
    for one in mine:
        failed += attempt(one, out / "runs", progress) is not None
    print(f"shard {options.shard}: {len(mine) - failed} of {len(plans)} runs done, {failed} failed", flush=True)
    return 1 if failed else 0


def reproduce(entry: Entry, options: Reproduce, shared: Path, into: Path) -> Outcome:
    """Run an experiment's rows in folders below ``shared``, which other experiments may use too, and write its results
    into ``into``."""
    print(f"\n== {entry.name}: {entry.paper}", flush=True)
    outcome = run_rows(entry, options, shared)
    wanted = {*entry.figures, *(claim.figure for claim in entry.expected(options.scale))}
    for one in outcome.plans:
        if one.label not in outcome.reasons:
            outcome.rows[one.label] = measured(one, one.folder(outcome.runs), wanted, options.scale)
    outcome.claims = [
        verdict(claim, outcome.rows, outcome.reasons, usual=options.usual) for claim in entry.expected(options.scale)
    ]
    write_json(into / "claims.json", outcome.claims)
    write_json(into / "figures.json", {label: asdict(row) for label, row in outcome.rows.items()})
    write_bytes(into / "report.html", report.entry_page(outcome).encode())
    print(f"{entry.name}: {headline(outcome.claims)}; {into / 'report.html'}", flush=True)
    return outcome


def run_rows(entry: Entry, options: Reproduce, shared: Path) -> Outcome:
    """Run what is not done. Print and record the reasons of rows that cannot run or fail."""
    plans = planned(entry, options, shared)
    outcome = Outcome(entry, options, plans, shared / "runs")
    progress = Progress(unfinished(plans, outcome.runs), "runs:", first=1)
    for one in plans:
        if one.why_not:
            outcome.reasons[one.label] = f"{one.label} {one.why_not}"
            print(f"skipped: {outcome.reasons[one.label]}", flush=True)
            continue
        if why := attempt(one, outcome.runs, progress):
            outcome.failures[one.label] = why
            outcome.reasons[one.label] = f"{one.label} failed: {why}"
    return outcome


def planned(entry: Entry, options: Reproduce, shared: Path) -> list[Plan]:
    """Return the plans of an experiment. Write its data if any of them can run."""
    plans = [plan(entry, row, options, shared / "data" / "none") for row in entry.rows]
    if not entry.data or all(one.why_not for one in plans):
        return plans
    where = prepare(entry.data, options, shared / "data")
    return [plan(entry, row, options, where) for row in entry.rows]


def unfinished(plans: Sequence[Plan], runs: Path) -> int:
    """Return the number of rows that are still to run."""
    return sum(one.why_not is None and not finished(one, one.folder(runs)) for one in plans)


def attempt(one: Plan, runs: Path, progress: Progress) -> str | None:
    """Run a row. Print an error and return it as a sentence."""
    failures: dict[str, str] = {}
    new = not finished(one, one.folder(runs))
    collect_failure(one.label, failures, partial(start, one, runs), several=True)
    if new:
        progress.tick()
    for why in failures.values():
        print(f"failed: {one.label}: {why}", file=sys.stderr, flush=True)
    return failures.get(one.label)


def start(one: Plan, runs: Path) -> None:
    """Run or resume a row. Raise ValueError if a part of it failed or it was run with other settings, and what its
    command raises."""
    folder = one.folder(runs)
    if finished(one, folder):
        check_same(one, runs)
        print(f"-- {one.label}: already done in {folder}", flush=True)
        return
    print(f"-- {one.label}: {one.command_line()}", flush=True)
    given = one.values(runs)
    code = toy(Toy(**given)) if one.command == "toy" else batch.run_all(HEADS[one.command].of(given))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        raise ValueError(f"a part of it failed, see above; {folder} keeps the rest, continue with --resume.")


def check_same(one: Plan, runs: Path) -> None:
    """Raise ValueError if a finished row would run with other settings now, for example because the packaged ones have
    changed."""
    if one.command == "toy":  # its file has no settings; the run's folder has all that can change
        return
    head, place = HEADS[one.command].of(one.values(runs)), one.folder(runs)
    for item in head.items:
        try:
            other = head.run_folder(item).differences(head.config(item), added=head.added)
        except ValueError as error:
            raise ValueError(f"{place} cannot be used: {error}; delete it to run it again.") from error
        if other:
            raise ValueError(f"{place} was made with other settings ({other}); delete it to run it again.")


def finished(one: Plan, folder: Path) -> bool:
    """Return whether a row has finished without failures and has all requested figures."""
    file = folder / DONE[one.command]
    if not file.is_file():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    without_fid = "fid_folder" in one.given and not found["fid"]
    unrated = "aesthetic_weights" in one.given and any(row.get("aesthetic") is None for row in found["prompts"])
    return not (found.get("failed") or without_fid or unrated)


def summarise(options: Reproduce, out: Path) -> None:
    """Write summary.json and report.html of all experiments so far, from any invocation."""
    files = [(entry, out / entry.name / GLANCE) for entry in ENTRIES]
    found = [(entry, json.loads(file.read_text(encoding="utf-8"))) for entry, file in files if file.exists()]
    rows = [
        {
            "name": entry.name, "paper": entry.paper, **counts(shown["claims"]),
            "failed": shown["failed"], "seconds": shown["seconds"],
            "claims": [with_state(one) for one in shown["claims"]],
        }
        for entry, shown in found
    ]  # fmt: skip
    write_json(out / "summary.json", {"scale": options.scale, "experiments": rows})
    write_bytes(out / "report.html", report.summary_page(found, options, out / "runs").encode())
