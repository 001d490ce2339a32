"""``rsd reproduce``: the list, a dry run, or the experiments themselves."""

from __future__ import annotations

import json
import sys
import textwrap

from rsd.runs import flags

from .entries import ENTRIES, find, listed
from .options import Reproduce


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
        from .dry import run as look_ahead

        return look_ahead(options)
    from rsd.errors import plain_warnings

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
