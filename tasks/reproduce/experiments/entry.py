"""An experiment of the paper: the commands that it runs and the claims about their figures. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCALES = ("builtin", "paper")
Values = Mapping[str, Any]
"""Values of a command's options by name."""


@dataclass(frozen=True)
class Row:
    """A row of the experiment's table: one run of the entry's command.

    ``settings``: values of the command's options, apart from data, prior and folder; ``builtin`` and ``paper``: other
    values at that scale, if the packaged settings of the prior do not already differ.
    """

    label: str
    settings: Values = field(default_factory=dict)
    builtin: Values = field(default_factory=dict)
    paper: Values = field(default_factory=dict)

    def at(self, scale: str) -> dict[str, Any]:
        """Return its settings at a scale."""
        return {**self.settings, **getattr(self, scale)}


@dataclass(frozen=True)
class Claim:
    """An expected result: the means of ``figure`` rise along ``rising``, by more than ``by`` from each to the next.

    ``rising``: labels of rows, or numbers. ``by``: below 0, the decrease that is allowed. ``only``: the scale of the
    claim, if not both. ``unmet``: the known reason why it does not hold in the usual run
    (:attr:`rsd.tasks.reproduce.options.Reproduce.usual`).
    """

    text: str
    figure: str
    rising: tuple[str | float, ...]
    by: float = 0.0
    only: str | None = None
    unmet: str = ""

    @property
    def labels(self) -> list[str]:
        """The rows that it compares."""
        return [one for one in self.rising if isinstance(one, str)]


@dataclass(frozen=True)
class Entry:
    """An experiment. ``paper``: its place in the paper; ``claim``: the paper's statement, in our words.

    ``command``: of rsd; ``data``: the kind of data of its rows, see :mod:`rsd.tasks.reproduce.data`. ``figures``: the
    columns of its table. ``plots``: pairs of figures, horizontal and vertical, to plot if they are known. ``note``: how
    it differs from the paper.
    """

    name: str
    paper: str
    claim: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    command: str = "restore"
    data: str = "faces"
    figures: tuple[str, ...] = ("psnr", "psnr_best", "psnr_std", "ssim", "lpips", "div", "residual", "seconds")
    plots: tuple[tuple[str, str], ...] = ()
    note: str = ""

    def expected(self, scale: str) -> list[Claim]:
        """Return the claims at a scale."""
        return [claim for claim in self.claims if claim.only in (None, scale)]
