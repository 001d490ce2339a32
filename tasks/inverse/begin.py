"""Which run a method is."""

from __future__ import annotations

from .methods import FIELD
from .solve import Run


def run_class(method: str) -> type[Run]:
    """The class of a restoration by ``method``, made and used as :class:`rsd.tasks.inverse.solve.Run`."""
    if method == "score-prior":
        from .score_prior import Fitting

        return Fitting
    if FIELD[method].made:
        from .sampling import Sampling

        return Sampling
    return Run
