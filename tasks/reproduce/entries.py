"""The list: every experiment of the paper and its appendix, in the paper's order."""

from __future__ import annotations

from typing import Any

from rsd.settings import known

from .entry import Entry
from .figures import FIGURES
from .tables import TABLES

ENTRIES = (*TABLES, *FIGURES)


def find(name: str) -> Entry:
    """The entry of that name. Raises ValueError, with the nearest one, if there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise known("experiment", name, [*(entry.name for entry in ENTRIES), "all"])


def listed(scale: str) -> list[dict[str, Any]]:
    """What ``rsd reproduce --list --json`` prints: for each entry what it is, what it runs, and what is expected."""
    return [
        {
            "name": entry.name, "paper": entry.paper, "claim": entry.claim, "command": f"rsd reproduce {entry.name}",
            "metric": list(entry.figures), "note": entry.note,
            "rows": [{"label": row.label, "command": entry.command, "flags": row.at(scale)} for row in entry.rows],
            "expected": [
                {"claim": claim.text, "figure": claim.figure, "rising": list(claim.rising), "by": claim.by}
                for claim in entry.expected(scale)
            ],
        }
        for entry in ENTRIES
    ]  # fmt: skip
