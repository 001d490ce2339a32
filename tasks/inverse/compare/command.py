"""``rsd compare``: from flags and YAML files to pairs, then the runner."""

from __future__ import annotations

import sys

from rsd.runs.settings import layered

from ..inputs import left_behind
from .pairs import Compare, pairs


def main(argv: list[str]) -> int:
    """Compare; returns the exit code."""
    compare, _ = layered(Compare, argv, prog="rsd compare", positional="")
    compare.check()
    found, left_out = pairs(compare)
    assert compare.images is not None
    for line in left_behind([compare.images]):
        print(f"note: {line}")
    if compare.autocast:
        from rsd.priors.precision import settle_autocast
        from rsd.runs.session import pick_device

        device = pick_device(compare.device or "auto")
        compare.autocast = settle_autocast(compare.autocast, device, typed="--autocast" in argv)
        found, left_out = pairs(compare)
    from .run import run

    sys.stdout.flush()
    return run(compare, found, left_out)
