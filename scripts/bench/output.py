"""The file that a benchmark writes at its end."""

from __future__ import annotations

from pathlib import Path


def ready(file: Path | None) -> None:
    """Make the file's folder, before hours of work whose result it is to take."""
    if file:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
