"""Which pairs of ``rsd compare`` run, and why the others do not."""

from __future__ import annotations

from typing import Any

from ..head import check_method
from ..methods import ADAM, METHODS, TUNABLE, run_class
from ..networks import interacts
from ..options import Restore
from ..packaged import resolved
from .pairs import Pair


def sift(pairs: list[Pair], sizes: dict[str, int]) -> tuple[list[Pair], dict[str, str]]:
    """Those that run, and for each other its title and why not: it does not fit, or it would be another's run.

    ``sizes``: pixels of each prior.
    """
    able: dict[str, Pair] = {}
    left_out: dict[str, str] = {}
    for pair in pairs:
        try:
            check_method(pair.options, sizes[pair.options.prior])
        except ValueError as error:
            left_out[pair.title] = str(error)
            continue
        twin = able.setdefault(what_runs(pair.options), pair)
        if twin is not pair:
            left_out[pair.title] = f"{pair.method} is {twin.method} here: {_why_same(pair.options)}."
    return list(able.values()), left_out


def what_runs(options: Restore) -> str:
    """All that decides a run's pixels: its options without the method's name and what this makes no use of. Methods
    whose particles do not interact and whose settings are the same ones of Adam's are the same update."""
    entry = METHODS[options.method]
    used = entry.uses if interacts(options) else [name for name in entry.uses if name in ADAM]
    kept: dict[str, Any] = {k: v for k, v in resolved(options).items() if k not in TUNABLE or k in used}
    del kept["method"]
    return repr((run_class(options.method), entry.sampler, sorted(used), sorted(kept.items())))


def _why_same(options: Restore) -> str:
    return "nothing repels a single particle" if options.particles == 1 else "gamma is 0"
