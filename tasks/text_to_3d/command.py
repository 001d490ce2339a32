"""``rsd text-to-3d``: read flags, files and prompts, then run. Imports nothing heavy."""

from __future__ import annotations

from rsd.errors import plain_warnings

from .packaged import COMMAND


def main(argv: list[str]) -> int:
    """Make the scenes; return the exit code."""
    with plain_warnings():
        options, jobs = COMMAND.read(argv)
        from rsd.runs.batch import run_all

        from .head import SceneHead

        return run_all(SceneHead(options, jobs))
