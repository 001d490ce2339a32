"""The list: every experiment of the paper and its appendix, in the paper's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsd.runs.words import unknown_name

from .entry import Entry
from .figures import FIGURES
from .tables import TABLES
from .verdict import settled

ENTRIES = (*TABLES, *FIGURES)
MEASURED = Path(__file__).with_name("measured.json")
"""summary.json of the run at the built-in scale that the documentation shows, if the package has one."""


def find(name: str) -> Entry:
    """The entry of that name. Raises ValueError, with the nearest one, if there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise unknown_name("experiment", name, [*(entry.name for entry in ENTRIES), "all"])


def listed(scale: str) -> list[dict[str, Any]]:
    """What ``rsd reproduce --list --json`` prints: for each entry what it is, what it runs, what is expected, and what
    was measured, if it was."""
    measured = was_measured() if scale == "builtin" else {}
    more = "" if scale == "builtin" else f" --scale {scale}"
    return [
        {
            "name": entry.name, "paper": entry.paper, "claim": entry.claim,
            "command": f"rsd reproduce {entry.name}{more}", "metric": list(entry.figures), "note": entry.note,
            "rows": [{"label": row.label, "command": entry.command, "flags": row.at(scale)} for row in entry.rows],
            "expected": [
                {"claim": claim.text, "figure": claim.figure, "rising": list(claim.rising), "by": claim.by}
                for claim in entry.expected(scale)
            ],
            "measured": measured.get(entry.name, []),
        }
        for entry in ENTRIES
    ]  # fmt: skip


def was_measured() -> dict[str, list[dict[str, Any]]]:
    """The claims of that run, as claims.json has them, by the entry's name."""
    if not MEASURED.exists():
        return {}
    experiments = json.loads(MEASURED.read_text(encoding="utf-8"))["experiments"]
    return {row["name"]: [settled(claim) for claim in row["claims"]] for row in experiments}
