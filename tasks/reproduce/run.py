"""Run experiments by the commands of rsd, row after row, and leave claims.json, figures.json and report.html."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rsd.runs import RunFolder, write_bytes, write_json
from rsd.session import survives
from rsd.settings import plain, shard

from ..inverse.command import main as restore
from ..text_to_3d.command import main as text_to_3d
from ..text_to_image.command import main as text_to_image
from ..toy.command import main as toy
from . import report
from .data import number, prepare
from .entries import ENTRIES, find
from .entry import Entry
from .measure import Measured, measured, verdict
from .options import Reproduce
from .rows import DONE, Plan, plan

COMMANDS = {"restore": restore, "text-to-image": text_to_image, "text-to-3d": text_to_3d, "toy": toy}
NO_RESULT = ("name", "list_", "json", "out", "resume", "shard", "dry_run", "device")
"""Options that change no figure: what was begun may go on with others."""


@dataclass
class Outcome:
    """What an experiment left. ``rows``: figures of the rows that ran, by label; ``reasons``: why the others did not;
    ``failures``: of those, what went wrong, by label."""

    entry: Entry
    plans: list[Plan]
    runs: Path
    number: int
    rows: dict[str, Measured] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)

    def held(self, what: bool | None) -> int:
        """How many claims held (True), did not (False), or could not be measured (None)."""
        return sum(claim["held"] is what for claim in self.claims)

    @property
    def headline(self) -> str:
        """In a line."""
        return f"{self.held(True)} claims held, {self.held(False)} did not, {self.held(None)} not measured"


def run(options: Reproduce) -> int:
    """Reproduce one experiment or all; the exit code: 0 if all ran that can here, whatever held, 1 if some failed."""
    assert options.name
    entries = ENTRIES if options.name == "all" else (find(options.name),)
    out = options.out or Path("runs") / "reproduce" / options.name
    settings = {k: plain(v) for k, v in asdict(options).items() if k not in NO_RESULT}
    RunFolder(out, resume=options.resume or options.shard is not None).open({"experiment": options.name, **settings})
    if options.shard:
        return run_shard(entries, options, out)
    outcomes = []
    for entry in entries:
        into = out / entry.name if options.name == "all" else out
        outcomes.append(reproduce(entry, options, out, into))
        if options.name == "all":
            summarise(outcomes, out, options.scale)
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def run_shard(entries: Sequence[Entry], options: Reproduce, out: Path) -> int:
    """Every N-th of the runs of all entries, each once; the exit code: 0 if all of them ran, 1 if some failed."""
    plans = {one.key: one for entry in entries for one in planned(entry, options, out) if one.lacks is None}
    k, n = shard(options.shard)
    mine = list(plans.values())[k::n]
    failed = sum(attempt(one, out / "runs") is not None for one in mine)
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
    outcome.claims = [verdict(claim, outcome.rows, outcome.reasons) for claim in entry.expected(options.scale)]
    write_json(into / "claims.json", outcome.claims)
    write_json(into / "figures.json", {label: asdict(row) for label, row in outcome.rows.items()})
    write_bytes(into / "report.html", report.of_entry(outcome).encode())
    print(f"{entry.name}: {outcome.headline}; {into / 'report.html'}", flush=True)
    return outcome


def carry_out(entry: Entry, options: Reproduce, shared: Path) -> Outcome:
    """Run what is not done; rows that cannot run, or fail, are told and kept with their reason."""
    plans = planned(entry, options, shared)
    outcome = Outcome(entry, plans, shared / "runs", number(entry.data, options))
    for one in plans:
        if one.lacks:
            outcome.reasons[one.label] = f"{one.label} {one.lacks}"
            print(f"skipped: {outcome.reasons[one.label]}", flush=True)
            continue
        if why := attempt(one, outcome.runs):
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


def attempt(one: Plan, runs: Path) -> str | None:
    """Run a row; an error is told, and returned as a sentence."""
    failures: dict[str, str] = {}
    survives(one.label, failures, partial(start, one, runs), several=True)
    for why in failures.values():
        print(f"failed: {one.label}: {why}", file=sys.stderr, flush=True)
    return failures.get(one.label)


def start(one: Plan, runs: Path) -> None:
    """Run a row, or go on with it. Raises ValueError if a part of it failed, and what its command raises."""
    folder = one.folder(runs)
    if finished(one, folder):
        print(f"-- {one.label}: already done in {folder}", flush=True)
        return
    print(f"-- {one.label}: {one.told()}", flush=True)
    if COMMANDS[one.command](one.whole(runs)) != 0:
        raise ValueError(f"a part of it failed, see above; {folder} keeps the rest, go on with --resume.")


def finished(one: Plan, folder: Path) -> bool:
    """Whether a row has run to its end, without failures."""
    file = folder / DONE[one.command]
    return file.is_file() and not json.loads(file.read_text(encoding="utf-8")).get("failed")


def summarise(outcomes: list[Outcome], out: Path, scale: str) -> None:
    """summary.json and report.html of all experiments so far."""
    rows = [
        {
            "name": o.entry.name, "paper": o.entry.paper, "held": o.held(True), "not_held": o.held(False),
            "not_measured": o.held(None), "failed": o.failures, "claims": o.claims,
        }
        for o in outcomes
    ]  # fmt: skip
    write_json(out / "summary.json", {"scale": scale, "experiments": rows})
    write_bytes(out / "report.html", report.of_all(outcomes, scale).encode())
