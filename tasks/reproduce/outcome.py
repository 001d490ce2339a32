"""What an experiment left, and how many of its claims held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import data
from .entry import Entry
from .measure import Measured
from .options import Reproduce
from .rows import Plan

Claims = Sequence[dict[str, Any]]


@dataclass
class Outcome:
    """What an experiment left. ``rows``: figures of the rows that ran, by label; ``reasons``: why the others did not;
    ``failures``: of those, what went wrong, by label."""

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
        """How many pictures or prompts its rows are of."""
        return data.number(self.entry.data, self.options)

    @property
    def ran(self) -> list[Plan]:
        """The rows that have figures."""
        return [plan for plan in self.plans if plan.label in self.rows]

    @property
    def seconds(self) -> float:
        """What its rows took, also those that other experiments share."""
        return sum(item.get("seconds") or 0 for row in self.rows.values() for item in row.items.values())


def counts(claims: Claims) -> dict[str, int]:
    """How many claims held, how many did not, of both how many within noise, and how many nobody could measure."""

    def of(held: bool | None, **more: Any) -> int:
        return sum({**one, **more} == one for one in claims if one["held"] is held)

    return {
        "held": of(True), "held_within_noise": of(True, clear=False), "not_held": of(False),
        "not_held_within_noise": of(False, clear=False), "not_measured": of(None),
    }  # fmt: skip


def headline(claims: Claims) -> str:
    """The same in a line."""
    n = counts(claims)

    def noise(k: int) -> str:
        return f" ({k} within noise)" if k else ""

    return (
        f"{n['held']} claims held{noise(n['held_within_noise'])}, {n['not_held']} did not"
        f"{noise(n['not_held_within_noise'])}, {n['not_measured']} not measured"
    )
