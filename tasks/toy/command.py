"""``rsd toy``: collapse counts against gamma as JSON and a plot, and scatter plots (paper, Fig. 30)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rsd.runs import flags
from rsd.runs.settings import make_folder

if TYPE_CHECKING:
    from .experiment import Outcome

FILES = ("toy.json", "collapse.png", "scatter.png")
INTERRUPTED = 130


@dataclass(kw_only=True)
class Toy:
    """Two particles, two Gaussians: count how often both end in the same mode as the repulsion grows (D.10.1)."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("rsd toy", "rsd toy --gammas 0,1,2000 --realisations 50")
    GROUPS: ClassVar[flags.Groups] = {"experiment": "gammas realisations steps lr seed", "output": "out"}

    out: Path = Path("runs/toy")
    """The folder to write to: toy.json, collapse.png, scatter.png."""
    gammas: tuple[float, ...] = (0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 2000)
    """The weights of the repulsion; 0 is the paper's independent setting."""
    realisations: int = 200
    """Pairs of particles for each gamma."""
    steps: int = 300
    """Steps of the algorithm."""
    lr: float = 0.1
    """Adam's learning rate."""
    seed: int = 0
    """Seed of all random numbers."""

    def check(self) -> None:
        """Raise ValueError, in one sentence, for an invalid value."""
        for name in ("realisations", "steps", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; give a finite number above 0.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more.")
        if not self.gammas:
            raise ValueError("gammas is empty; give at least one, for example --gammas 0 1 2000.")
        for gamma in self.gammas:
            if not math.isfinite(gamma):
                raise ValueError(f"gammas contains {gamma}; give finite numbers, for example --gammas 0 1 2000.")


def main(argv: list[str]) -> int:
    """Run the toy; return the exit code."""
    return run(flags.parse(Toy, argv, prog="rsd toy"))


def run(options: Toy) -> int:
    """Run the toy; return the exit code. Raise ValueError for an invalid option."""
    options.check()
    make_folder(options.out)
    from rsd.runs.folder import check_own, locked

    check_own(options.out, FILES)
    try:
        with locked(options.out):
            compute(options)
    except KeyboardInterrupt:
        print("\nrsd: interrupted; the toy cannot be resumed, start it again", file=sys.stderr)
        return INTERRUPTED
    return 0


def compute(options: Toy) -> None:
    """Move the particles for each gamma, then write the three files."""
    from rsd.runs.folder import write_json

    from .experiment import run
    from .plots import collapse_plot, scatter_plot

    outcomes = []
    for gamma in options.gammas:
        outcomes.append(
            run(gamma, realisations=options.realisations, steps=options.steps, lr=options.lr, seed=options.seed)
        )
    rows = [outcome.summary() for outcome in outcomes]
    report = {
        "gamma": [row["gamma"] for row in rows],
        "collapsed": [row["collapsed"] for row in rows],
        "misfit": [row["misfit"] for row in rows],
        "pairs": {name: [outcome.pairs[k] for outcome in outcomes] for k, name in enumerate(("collapsed", "misfit"))},
        "realisations": options.realisations,
        "steps": options.steps,
        "lr": options.lr,
        "seed": options.seed,
    }
    write_json(options.out / "toy.json", report)
    collapse_plot(outcomes, options.out / "collapse.png")
    scatter_plot(outcomes, options.out / "scatter.png")
    print(headline(outcomes))
    print(f"{', '.join(FILES)} in {options.out}")


def headline(outcomes: Sequence[Outcome]) -> str:
    """Return the effect of the repulsion in a line: the least gamma, the one with the fewest collapses (the best fit
    among them), and the greatest. toy.json has the figures of every gamma."""
    by_gamma = sorted(outcomes, key=lambda outcome: outcome.gamma)
    best = min(by_gamma, key=lambda outcome: (outcome.collapsed, outcome.misfit))
    shown = {outcome.gamma: outcome for outcome in sorted((by_gamma[0], best, by_gamma[-1]), key=lambda o: o.gamma)}
    each = [f"{o.collapsed} at gamma {o.gamma:g} (misfit {o.misfit:.2f})" for o in shown.values()]
    return f"of {len(outcomes[0].points)} pairs collapsed: {', '.join(each)}"
