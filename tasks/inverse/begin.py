"""Which run a method is."""

from __future__ import annotations

from .methods import FIELD
from .run import Run


def run_class(method: str) -> type[Run]:
    """The class of a restoration by ``method``, made and used as :class:`rsd.tasks.inverse.run.Run`."""
    if method == "score-prior":
        from .samplers.score_prior import Fitting

        return Fitting
    if FIELD[method].made:
        from .samplers.loop import Sampling

        return Sampling
    return Run
