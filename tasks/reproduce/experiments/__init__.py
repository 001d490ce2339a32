"""Every experiment of the paper and its appendix, in the paper's order. Imports nothing heavy."""

from __future__ import annotations

from rsd.runs.words import unknown_name

from .entry import Entry
from .figures import FIGURES
from .tables import TABLES

ENTRIES = (*TABLES, *FIGURES)


def find(name: str) -> Entry:
    """Return the experiment of that name. Raise ValueError, with the nearest name, if there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise unknown_name("experiment", name, [*(entry.name for entry in ENTRIES), "all"])
