"""Reports: one HTML file each, with all pictures inside and nothing fetched."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .pictures import NAMES, card, trade_off

if TYPE_CHECKING:
    from .run import Outcome


def of_entry(outcome: Outcome) -> str:
    """The page of one experiment."""
    entry = outcome.entry
    ran = [plan for plan in outcome.plans if plan.label in outcome.rows]
    figures = [name for name in entry.figures if any(row.mean(name) is not None for row in outcome.rows.values())]
    plot = trade_off(outcome.rows, *entry.plot) if entry.plot else None
    return _page(
        "entry.html", title=entry.name, outcome=outcome, entry=entry, claims=outcome.claims, figures=figures,
        names=NAMES, rows=outcome.rows, plans=outcome.plans, plot=plot, axes=entry.plot,
        cards=[card(plan, plan.folder(outcome.runs)) for plan in ran], about=about(outcome),
    )  # fmt: skip


def of_all(outcomes: list[Outcome], scale: str) -> str:
    """The page of all experiments."""
    counts = [sum(outcome.held(what) for outcome in outcomes) for what in (True, False, None)]
    return _page(
        "all.html", title="all experiments", outcomes=outcomes, scale=scale, counts=counts, about=about(outcomes[0])
    )


def about(outcome: Outcome) -> dict[str, Any]:
    """The command, versions, device and seed, as the first run's provenance.json has them, and as they are now."""
    from rsd.runs import provenance

    for plan in outcome.plans:
        for path in sorted(plan.folder(outcome.runs).glob("*/provenance.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            return {**found, "command": " ".join(["rsd", *sys.argv[1:]])}
    return {**provenance(seed=0, model=""), "command": " ".join(["rsd", *sys.argv[1:]])}


def number(value: Any) -> str:
    """A figure with three digits; a dash for none."""
    return "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    return environment


def _page(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)
