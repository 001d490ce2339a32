"""What an error tells the user: one sentence, whatever it was. Imports nothing heavy."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRACEBACK = "RSD_TRACEBACK"
"""The environment variable that lets errors come with their traceback."""

MISTAKES = (ValueError, OSError, ImportError)
"""What is raised, with a sentence of its own, for a wrong input or a missing package."""

FULL = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
"""How torch, CUDA and cuBLAS say, in a RuntimeError, that memory is full."""


class OwnNote(UserWarning):
    """A warning that this process alone has reason to give: it is told whichever of several processes gives it."""


class ProcessLost(RuntimeError):
    """Another process of the same run does not answer; its text is a sentence for the user."""


def is_mistake(error: BaseException) -> bool:
    """Whether an error tells of wrong usage or input; else it is the machine's, the user's own code's, or a bug."""
    return isinstance(error, MISTAKES) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that memory is full (CPU or GPU)."""
    if error is None:
        return False
    full = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in FULL)
    return full or isinstance(error, MemoryError) or is_out_of_memory(error.__cause__)


def told(error: BaseException) -> str:
    """An error as one sentence for the user; one that nobody foresaw with its kind and place."""
    if is_out_of_memory(error):
        return (
            f"Out of memory ({_line(error)}); let networks see fewer particles at once and keep less (--chunk 1 and, "
            "where there is one, --memory lean need least; with --resume the run goes on), or start anew with --dtype "
            "bfloat16 or fewer --particles."
        )
    if isinstance(error, (*MISTAKES, ProcessLost)) and str(error):
        return str(error)
    return f"{type(error).__name__}{_place(error)}: {_line(error)} ({TRACEBACK}=1 shows the way there)"


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ")


def _place(error: BaseException) -> str:
    """Where it was raised, or where a library was called that raised it."""
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
