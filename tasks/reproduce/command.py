"""``rsd reproduce``: list the experiments, estimate their cost, or run them."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from rsd.runs import flags
from rsd.runs.settings import command_words

from .experiments import ENTRIES, find
from .experiments.entry import Entry, Row
from .options import Reproduce
from .verdict import with_state

MEASURED = Path(__file__).with_name("measured.json")
"""summary.json of the documented run at the built-in scale, if the package contains it."""


def main(argv: list[str]) -> int:
    """List, estimate or reproduce; return the exit code."""
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
    from rsd.errors import plain_warnings

    from .run import run

    sys.stdout.flush()
    with plain_warnings():
        return run(options)


def table() -> str:
    """Return the list of experiments as text, with their place in the paper and their claim."""
    wide = max(len(entry.name) for entry in ENTRIES) + 2
    lines = []
    for entry in ENTRIES:
        lines.append(f"{entry.name:<{wide}}{entry.paper}")
        lines.append(textwrap.fill(entry.claim, 118, initial_indent=" " * wide, subsequent_indent=" " * wide))
    return "\n".join(lines)


def listed(scale: str) -> list[dict[str, Any]]:
    """Return what ``rsd reproduce --list --json`` prints: each entry's description, commands, expected claims, and
    measured claims if there are any."""
    measured = was_measured() if scale == "builtin" else {}
    more = "" if scale == "builtin" else f" --scale {scale}"
    return [
        {
            "name": entry.name, "paper": entry.paper, "claim": entry.claim,
            "command": f"rsd reproduce {entry.name}{more}", "metric": list(entry.figures), "note": entry.note,
            "rows": [row_as_json(entry, row, scale) for row in entry.rows],
            "expected": [
                {"claim": claim.text, "figure": claim.figure, "rising": list(claim.rising), "by": claim.by}
                for claim in entry.expected(scale)
            ],
            "measured": measured.get(entry.name, []),
        }
        for entry in ENTRIES
    ]  # fmt: skip


def row_as_json(entry: Entry, row: Row, scale: str) -> dict[str, Any]:
    """Return a row of an entry as its command and the flags that it sets."""
    from .plan import OPTIONS

    flags = command_words(OPTIONS[entry.command], row.at(scale))
    return {"label": row.label, "command": entry.command, "flags": flags}


def was_measured() -> dict[str, list[dict[str, Any]]]:
    """Return the claims of the run in :data:`MEASURED` by the entry's name, as in claims.json."""
    if not MEASURED.exists():
        return {}
    experiments = json.loads(MEASURED.read_text(encoding="utf-8"))["experiments"]
    return {row["name"]: [with_state(claim) for claim in row["claims"]] for row in experiments}
