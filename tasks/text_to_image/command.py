"""``rsd text-to-image``: read flags, files and prompts, then run. Imports nothing heavy."""

from __future__ import annotations

from rsd.errors import plain_warnings

from .packaged import COMMAND


def main(argv: list[str]) -> int:
    """Draw; return the exit code."""
    with plain_warnings():
        options, jobs = COMMAND.read(argv)
        from rsd.runs.batch import run_all

        from .head import ImageHead

        return run_all(ImageHead(options, jobs))
