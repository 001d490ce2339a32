"""``rsd reproduce``: the list, a dry run, or the experiments themselves."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from rsd.runs import flags

from .experiments import ENTRIES, find
from .options import Reproduce
from .verdict import with_state

MEASURED = Path(__file__).with_name("measured.json")
"""summary.json of the run at the built-in scale that the documentation shows, if the package has it."""


def main(argv: list[str]) -> int:
    """List, look ahead or reproduce; returns the exit code."""
    options = flags.parse(Reproduce, argv, prog="rsd reproduce")
    options.check()
    if options.list_:
        print(json.dumps(listed(options.scale), indent=2) if options.json else table())
        return 0
    assert options.name
    if options.name != "all":
        find(options.name)
    if options.dry_run:
        from .estimate import run as estimate

        return estimate(options)
    from rsd.runs.session import plain_warnings

    from .run import run

    sys.stdout.flush()
    with plain_warnings():
        return run(options)


def table() -> str:
    """Every experiment with its place in the paper and its claim, for people."""
    wide = max(len(entry.name) for entry in ENTRIES) + 2
    lines = []
    for entry in ENTRIES:
        lines.append(f"{entry.name:<{wide}}{entry.paper}")
        lines.append(textwrap.fill(entry.claim, 118, initial_indent=" " * wide, subsequent_indent=" " * wide))
    return "\n".join(lines)


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
    return {row["name"]: [with_state(claim) for claim in row["claims"]] for row in experiments}
