"""The names of the tasks and methods. Imports nothing heavy, so that a typing mistake is told at once."""

from __future__ import annotations

import re

from .methods import FIELD

TASK = {
    "inpaint_half_face": ("half of a face is hidden, the paper's box", "rlsd"),
    "inpaint_full_face": ("all of a face is hidden, the paper's box", "rlsd"),
    "inpaint_box": ("your box is hidden (--box)", "dps"),
    "inpaint_random": ("80% of the pixels are hidden, at random", "psld"),
    "inpaint_freeform": ("strokes over 10-20% are hidden", "palette"),
    "inpaint_mask": ("your mask (--mask)", "palette"),
    "sr2": ("block average over 2 x 2, or --downsample bicubic; any srK, K = 2 ... 16", "rlsd"),
    "sr4": ("over 4 x 4", "red-diff"),
    "sr8": ("over 8 x 8, the paper's", "rlsd"),
    "sr16": ("over 16 x 16", "rlsd"),
    "deblur_motion": ("a random motion kernel, 61 x 61 at 512 px, or --kernel", "dps"),
    "deblur_gaussian": ("a Gaussian kernel of 3 px at 512 px, or --kernel", "dps"),
    "phase_retrieval": ("Fourier magnitudes of the zero-padded image; not linear", "dps"),
    "hdr": ("clip(2x, -1, 1); not linear", "red-diff"),
    "operator": ("yours (--operator module:function), see docs/operators.md", "rlsd"),
}
"""What each task does, and the work of rsd.citations that it is set as in."""
TASKS = tuple(TASK)
OWN = {"mask": ("inpaint_mask",), "box": ("inpaint_box",), "operator": ("operator",)}
"""What a task does not go without, and whose it is."""
OWNERS = {**OWN, "kernel": ("deblur_motion", "deblur_gaussian"), "mask_hole": ("inpaint_mask",)}
"""Options of some tasks alone; the first is what is meant where one is given and no task is."""
SAYING = ("mask", "box", "operator", "kernel")
"""Options that say their task."""
EVERYDAY = (
    "inpaint_mask (parts are missing, or not wanted: --mask)",
    "inpaint_box (a rectangle is: --box)",
    "sr2 ... sr16 (it is too small)",
    "deblur_motion (it is blurred by motion)",
    "deblur_gaussian (it is out of focus)",
    "hdr (its contrast is doubled, bright and dark parts are cut off)",
    "phase_retrieval (its Fourier magnitudes are all there is)",
    "operator (a function of yours was at it: --operator)",
    "inpaint_half_face, inpaint_full_face, inpaint_random, inpaint_freeform (test damage: they HIDE parts of it)",
)
"""What can have happened to a picture, in everyday words."""
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
