"""``rsd methods``: the methods of restore and compare, what each needs and may be told, and whose it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rsd.runs.citations import short

from .methods import FIELD, load_method


def main(argv: list[str]) -> int:
    """Print the table; returns the exit code."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"rsd methods takes no arguments, but {argv[0]} is given; leave it out.")
    print("\n".join(lines()))
    return 0


def lines() -> Iterator[str]:
    """Each method's name, kind of prior and operator, hyper-parameters with its defaults, and works."""
    for name, entry in FIELD.items():
        needs = [f"priors of {entry.space}" if entry.space else "any prior"]
        needs += ["linear operators"] if entry.linear else []
        yield f"{name:<20}{entry.what} ({', '.join(needs)})"
        if entry.made:
            values = dataclasses.asdict(load_method(name)).items()
            yield f"{'':<20}--hyper " + " ".join(f"{key}={str(value).lower()}" for key, value in values)
        yield from (f"{'':<20}{short(work)}" for work in entry.works)
