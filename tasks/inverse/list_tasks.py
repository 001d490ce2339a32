"""``rsd tasks``: the tasks of restore and compare, and whose they are."""

from __future__ import annotations

from rsd.runs.citations import short

from .names import TASK


def main(argv: list[str]) -> int:
    """Print the table; returns the exit code."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"rsd tasks takes no arguments, but {argv[0]} is given; leave it out.")
    for name, (what, work) in TASK.items():
        print(f"{name:<20}{what}\n{'':<20}{short(work)}")
    return 0
