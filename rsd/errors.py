"""Errors and warnings as one sentence for the user. Imports nothing heavy."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRACEBACK = "RSD_TRACEBACK"
"""The environment variable that shows tracebacks of errors."""

MISTAKES = (ValueError, OSError, ImportError)
"""Exceptions raised, with their own sentence, for invalid input or a missing package."""

FULL = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
"""Phrases of torch, CUDA and cuBLAS in a RuntimeError about full memory."""


class RankWarning(UserWarning):
    """A warning about this process only; printed on every rank."""


class ProcessLost(RuntimeError):
    """Another process of the same run does not respond; the message is a sentence for the user."""


def is_mistake(error: BaseException) -> bool:
    """Return whether an error is due to invalid usage or input, not to the machine, the user's code or a bug."""
    return isinstance(error, MISTAKES) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error or its cause is about full memory (CPU or GPU)."""
    if error is None:
        return False
    full = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in FULL)
    return full or isinstance(error, MemoryError) or is_out_of_memory(error.__cause__)


def describe(error: BaseException) -> str:
    """Format an exception as one sentence; unexpected exceptions include type and location."""
    if is_out_of_memory(error):
        return (
            f"Out of memory ({_line(error)}); pass fewer particles through the networks at once and keep fewer graphs "
            "(--chunk 1 --memory lean need least; continue with --resume), or start again with --dtype bfloat16 or "
            "fewer --particles."
        )
    if isinstance(error, (*MISTAKES, ProcessLost)) and str(error):
        return str(error)
    return f"{type(error).__name__}{_place(error)}: {_line(error)} ({TRACEBACK}=1 shows the traceback)"


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ")


def _place(error: BaseException) -> str:
    """Return the location outside of libraries where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if not _is_library(Path(frame.filename))] or frames)[-1:]
    return f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""


def _is_library(file: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    return bool(installed) and Path(__file__).parent not in file.parents  # this package may be installed itself


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print each warning once, as one line without its place in the code."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown:  # the warnings module forgets what it has shown when warnings are caught
            shown.add(str(message))
            print(f"rsd: note: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
