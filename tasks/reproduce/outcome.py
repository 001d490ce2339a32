"""The result of an experiment, and the number of claims that held, did not, or are undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import data
from .experiments.entry import Entry
from .measure import Measured
from .options import Reproduce
from .plan import Plan
from .verdict import STATES, with_state

Claims = Sequence[dict[str, Any]]


@dataclass
class Outcome:
    """The result of an experiment. ``rows``: figures of the rows that ran, by label; ``reasons``: why the others did
    not run; ``failures``: the errors among those, by label."""

    entry: Entry
    options: Reproduce
    plans: list[Plan]
    runs: Path
    rows: dict[str, Measured] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The number of images or prompts per row."""
        return data.number(self.entry.data, self.options)

    @property
    def ran(self) -> list[Plan]:
        """The plans of the rows with figures."""
        return [plan for plan in self.plans if plan.label in self.rows]

    @property
    def seconds(self) -> float:
        """The time of its rows, including those shared with other experiments."""
        return sum(item.get("seconds") or 0 for row in self.rows.values() for item in row.items.values())


def counts(claims: Claims) -> dict[str, int]:
    """Return the number of claims in each state. ``held_within_noise`` and ``not_held_within_noise`` are 0, for readers
    of files from before claims could be undecided."""
    states = [with_state(claim)["state"] for claim in claims]
    found = {state.replace(" ", "_"): states.count(state) for state in STATES}
    return {**found, "held_within_noise": 0, "not_held_within_noise": 0}


def headline(claims: Claims) -> str:
    """Return :func:`counts` in a line."""
    n = counts(claims)
    noisy = sum(with_state(claim)["clear"] is False for claim in claims)
    how = f" ({noisy} within noise)" if 0 < noisy < n["undecided"] else " (within noise)" if noisy else ""
    undecided = f"{n['undecided']} undecided{how}"
    held = f"{n['held']} claim{'s' * (n['held'] != 1)} held"
    return f"{held}, {n['not_held']} did not, {undecided}, {n['not_measured']} not measured"
