"""``rsd compare``: read the options and compare."""

from __future__ import annotations

import sys

from rsd.runs import flags
from rsd.runs.options import check_used
from rsd.runs.settings import layered

from ..inputs import ignored_files
from .options import Compare
from .pairs import pairs


def main(argv: list[str]) -> int:
    """Compare; return the exit code."""
    compare, _ = layered(Compare, argv, prog="rsd compare", positional="")
    check_used(flags.values(Compare, argv, prog="rsd compare"), compare.unread)
    found, left_out = pairs(compare)
    assert compare.images is not None
    for line in ignored_files([compare.images]):
        print(f"note: {line}")
    if compare.autocast:
        from rsd.distributed import pick_device
        from rsd.priors.precision import settle_autocast

        device = pick_device(compare.device or "auto")
        compare.autocast = settle_autocast(compare.autocast, device, typed="--autocast" in argv)
        found, left_out = pairs(compare)
    from .run import run

    sys.stdout.flush()
    return run(compare, found, left_out)
