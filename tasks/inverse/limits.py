"""What the algorithm's settings must be, from the command line and from Python alike. Imports nothing heavy."""

from __future__ import annotations

import math
import numbers
import types
import typing
from typing import Any

from rsd.runs.settings import known, wanted

from .methods import FIELD, check_method, load_method
from .names import MEMORY, X_STEPS

COUNTS = ("particles", "steps", "chunk", "interacting", "repel_every")
NUMBERS = ("lambda_", "rho", "lr_x", "lr_z", "gamma", "guidance")


def check(settings: Any) -> None:
    """Raise ValueError, in one sentence, for a value that cannot work: of Settings, or of Restore, which has them."""
    check_method(settings.method)
    for name, names in (("memory", MEMORY), ("x_step", X_STEPS)):
        if getattr(settings, name) not in names:
            raise known(name, getattr(settings, name), names)
    for name in COUNTS:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give 1 or more.")
    for name in NUMBERS:
        finite(name, getattr(settings, name), signed=name == "gamma")
    if not 0 <= settings.window[0] < settings.window[1] <= 1:
        raise ValueError(f"window is {settings.window}; give LO HI with 0 <= LO < HI <= 1.")
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}; give 0 or more.")
    if settings.hyper or FIELD[settings.method].made:
        load_method(settings.method, settings.hyper)
    if settings.method == "hybrid":
        _hybrid(settings.particles, settings.interacting)


def check_types(settings: Any) -> None:
    """Raise ValueError, in one sentence, for a field of Settings that is of another type."""
    hints = typing.get_type_hints(type(settings))
    for name, hint in hints.items():
        value = getattr(settings, name)
        if not _is(hint, value):
            raise ValueError(f"{name} is {value!r}; give {wanted(hint)}.")


def _is(hint: Any, value: Any) -> bool:
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(one, value) for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(kinds) == len(value) and all(map(_is, kinds, value))
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, hint)


def finite(name: str, value: float, *, signed: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number, and not below 0 unless ``signed``."""
    if not math.isfinite(value) or (value < 0 and not signed):
        least = " (below 0 attracts)" if signed else ", 0 or more"
        raise ValueError(f"{name.rstrip('_')} is {value}; give a finite number{least}.")


def _hybrid(particles: int, interacting: int | None) -> None:
    if particles < (3 if interacting is None else 2):
        raise ValueError(f"Method hybrid needs 3 particles or more, or --interacting 2, not {particles}.")
    if interacting is not None and not 2 <= interacting <= particles:
        raise ValueError(
            f"interacting is {interacting} of {particles} particles; give 2 to {particles} (nobody repels: nonrepuls)."
        )
