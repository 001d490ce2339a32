"""``rsd text-to-3d``: from flags and YAML files to checked options, then the runner."""

from __future__ import annotations

import sys

from rsd.runs import flags
from rsd.runs.options import check_used

from .options import TextTo3D
from .packaged import parse


def main(argv: list[str]) -> int:
    """Make the scenes; returns the exit code."""
    options, name = parse(argv)
    check_used(flags.values(TextTo3D, argv, prog="rsd text-to-3d"), options.unread)
    print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
    from .head import run

    sys.stdout.flush()
    return run(options)
