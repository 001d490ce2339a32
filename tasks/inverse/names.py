"""The names of the tasks and methods. Imports nothing heavy, so that a typing mistake is told at once."""

from __future__ import annotations

import re

from .methods import FIELD

TASKS = (
    "inpaint_half_face", "inpaint_full_face", "inpaint_box", "inpaint_random", "inpaint_freeform", "inpaint_mask",
    "sr2", "sr4", "sr8", "sr16", "deblur_motion", "deblur_gaussian", "phase_retrieval", "hdr", "operator",
)  # fmt: skip
METHODS = tuple(FIELD)
X_STEPS = ("adam", "exact")
MEMORY = ("auto", "fast", "flat", "lean")
"""What :func:`rsd.memory.plan` takes."""


def sr_factor(task: str) -> int | None:
    """The factor K of a super-resolution task "srK", K = 2..16; None for any other name."""
    match = re.fullmatch(r"sr([1-9]\d?)", task)
    return int(match[1]) if match and 2 <= int(match[1]) <= 16 else None


def is_task(name: str) -> bool:
    """Whether ``name`` is one of TASKS, or srK with any K from 2 to 16."""
    return name in TASKS or sr_factor(name) is not None
