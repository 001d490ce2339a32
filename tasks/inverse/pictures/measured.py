"""What a measurement file says of how it was measured, beside y itself. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..names import READ_BY_SOME, reads
from ..options import LEAST_NOISE, Restore

RANDOM = ("inpaint_random", "inpaint_freeform", "deblur_motion")
"""Tasks whose mask or kernel depends on the seed."""
OWN_NOISE = ("denoise_poisson", "jpeg")
"""Tasks that do not read sigma_v."""
DECIDING = ("downsample", "blur", "quality", "peak")
"""Options that decide the operator, besides those that name a file or a function."""


def about(options: Restore) -> dict[str, str]:
    """Return the metadata of a measurement made with these options: the task, and what decides its operator and noise,
    as text."""
    found: dict[str, Any] = {name: getattr(options, name) for name in DECIDING if _reads(options.task, name)}
    if options.task in RANDOM and options.kernel is None:
        found["seed"] = options.seed
    if options.task not in OWN_NOISE:
        found["sigma_v"] = options.sigma_v
    return {"task": options.task, **{name: str(value) for name, value in found.items() if value is not None}}


def settled(path: Path, held: Mapping[str, str], options: Restore) -> Restore:
    """Return the options for a file with the metadata ``held``: what they leave open is as the file says.

    Raise ValueError, in one sentence that names the file, the option, its value and the remedy, if they contradict the
    file. A file may say nothing, and --sigma-v may be larger than its noise."""
    mine = about(options)
    _check(path, "task", held, mine)
    taken: dict[str, Any] = {}
    for name in ("seed", *DECIDING):
        if name in held and name in mine:
            _check(path, name, held, mine)
        elif name in held and name in DECIDING and _reads(options.task, name) and options.kernel is None:
            taken[name] = (int if name == "quality" else float)(held[name])
    noise = float(held.get("sigma_v", 0))
    if "sigma_v" in mine and max(options.sigma_v, LEAST_NOISE) < noise:
        raise ValueError(
            f"{path} has noise of sigma_v {noise:g}, more than --sigma-v {options.sigma_v:g}; give --sigma-v {noise:g}."
        )
    settled = replace(options, **taken)
    if options.task == "jpeg" and settled.quality is None:
        raise ValueError(f"{path} does not say the quality of its compression; give --quality, for example 20.")
    if options.task == "scratches":
        raise ValueError(f"{path} is a measurement, but task scratches looks at pictures; give a --mask instead.")
    return settled


def _check(path: Path, name: str, held: Mapping[str, str], mine: Mapping[str, str]) -> None:
    if name in held and held[name] != mine[name]:
        raise ValueError(
            f"{path} was measured with --{name} {held[name]}, but this run has --{name} {mine[name]}; give --{name} "
            f"{held[name]}."
        )


def _reads(task: str, name: str) -> bool:
    return name not in READ_BY_SOME or reads(task, name)
