"""What an experiment of the paper is: which commands run, what is claimed of their figures. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

SCALES = ("builtin", "paper")


@dataclass(frozen=True)
class Row:
    """A line of the experiment's table: one run of the entry's command.

    ``flags``: what it is told beside its data, prior and folder; ``builtin`` and ``paper``: more of them at that scale,
    where the packaged settings of the prior do not already make the difference.
    """

    label: str
    flags: str = ""
    builtin: str = ""
    paper: str = ""

    def at(self, scale: str) -> list[str]:
        """Its flags at a scale."""
        return [*self.flags.split(), *getattr(self, scale).split()]


@dataclass(frozen=True)
class Claim:
    """What is expected: the means of ``figure`` rise along ``rising``, by more than ``by`` from each to the next.

    ``rising``: labels of rows; a number stands for itself. ``by``: below 0, how much it may fall. ``only``: the scale
    that it is about, where it is not both. ``unmet``: why it does not hold in the usual run
    (:attr:`rsd.tasks.reproduce.options.Reproduce.usual`), found by looking.
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
    """An experiment. ``paper``: where it is there; ``claim``: what the paper says, in our words.

    ``command``: of rsd; ``data``: what its rows are run on, a kind of :mod:`rsd.tasks.reproduce.data`. ``figures``: the
    columns of its table. ``plots``: pairs of figures, horizontal and vertical, that are drawn where they are known.
    ``note``: what is done otherwise than in the paper.
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
        """The claims at a scale."""
        return [claim for claim in self.claims if claim.only in (None, scale)]
