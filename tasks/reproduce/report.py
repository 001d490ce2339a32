"""Reports: one self-contained HTML file each, with all images inline."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rsd.pages import data_uri, render
from rsd.runs.folder import provenance

from .cards import GLANCE, NAMES, card, glance, trade_off
from .data import how_to_make
from .experiments.entry import Entry
from .options import Reproduce
from .outcome import Outcome, counts, headline
from .verdict import with_state


def entry_page(outcome: Outcome) -> str:
    """Return the page of one experiment."""
    entry, ran = outcome.entry, outcome.ran
    wanted = [name for figure in entry.figures for name in ((figure, "vendi") if figure == "div" else (figure,))]
    figures = [name for name in wanted if any(row.mean(name) is not None for row in outcome.rows.values())]
    drawn = [(trade_off(outcome.rows, *axes), axes) for axes in entry.plots]
    plots = [(data_uri(picture, 760, lossless=True), axes) for picture, axes in drawn if picture]
    folders = [plan.folder(outcome.runs) for plan in ran]
    return _page(
        "entry.html", title=entry.name, outcome=outcome, entry=entry, claims=outcome.claims, figures=figures,
        names=NAMES, rows=outcome.rows, plans=outcome.plans, plots=plots,
        cards=[card(plan, folder) for plan, folder in zip(ran, folders, strict=True)],
        about=about(outcome.options, folders),
        data=how_to_make(entry.data, outcome.options, ran[0].data) if ran and entry.data else "",
    )  # fmt: skip


def summary_page(found: list[tuple[Entry, dict[str, Any]]], options: Reproduce, runs: Path) -> str:
    """Return the page of all experiments, each as in :func:`at_a_glance`."""
    found = [(entry, {**shown, "claims": [with_state(claim) for claim in shown["claims"]]}) for entry, shown in found]
    claims = [claim for _, shown in found for claim in shown["claims"]]
    return _page(
        "all.html", title="all experiments", found=found, scale=options.scale, counts=counts, headline=headline(claims),
        about=about(options, sorted(runs.glob("*"))), data="",
    )  # fmt: skip


def at_a_glance(outcome: Outcome) -> dict[str, Any]:
    """Return what the report of all shows of an experiment: its claims, failures, seconds, a strip of the row of its
    first claim, and its first plot; images are data URIs, or null."""
    first = next((claim.labels[-1] for claim in outcome.entry.claims), None)
    shown = next((plan for plan in outcome.ran if plan.label == first), outcome.ran[0] if outcome.ran else None)
    drawn = [trade_off(outcome.rows, *axes) for axes in outcome.entry.plots]
    plot = next((picture for picture in drawn if picture), None)
    return {
        "claims": outcome.claims, "failed": outcome.failures, "seconds": outcome.seconds,
        "label": shown.label if shown else None, "strip": glance(shown, shown.folder(outcome.runs)) if shown else None,
        "plot": data_uri(plot, GLANCE, quality=75) if plot else None,
    }  # fmt: skip


def failed_glance(why: str) -> dict[str, Any]:
    """Return :func:`at_a_glance` for an experiment that could not be measured or drawn."""
    return {"claims": [], "failed": {"report": why}, "seconds": 0, "label": None, "strip": None, "plot": None}


def about(options: Reproduce, folders: Iterable[Path]) -> dict[str, Any]:
    """Return the command and seed, and the versions, device and time of the first run in ``folders`` that records
    them."""
    files = (path for folder in folders for path in sorted(folder.glob("*/provenance.json")))
    file = next(files, None)
    found = json.loads(file.read_text(encoding="utf-8")) if file else provenance(seed=options.seed, model="")
    return {**found, "seed": options.seed, "command": shlex.join(["rsd", *sys.argv[1:]])}


def _page(name: str, **values: Any) -> str:
    return render(Path(__file__).parent / "templates", name, **values)
