"""``rsd toy``: collapse counts against gamma as JSON and a plot, and two scatter plots (paper, Fig. 30)."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from rsd.settings import make_folder

FILES = ("toy.json", "collapse.png", "scatter.png")
INTERRUPTED = 130


@dataclass(kw_only=True)
class Toy:
    """Two particles, two Gaussians: count how often both end in the same mode as the repulsion grows (D.10.1)."""

    out: Path = Path("runs/toy")
    """The folder to write to: toy.json, collapse.png, scatter.png."""
    gammas: tuple[float, ...] = (0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 2000)
    """The weights of the repulsion to try; 0 is the paper's independent setting."""
    realisations: int = 200
    """Pairs of particles for each gamma."""
    steps: int = 300
    """Steps of the algorithm."""
    lr: float = 0.1
    """Adam's learning rate."""
    seed: int = 0
    """Every random number follows from it."""

    def check(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot work."""
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
                raise ValueError(f"gammas holds {gamma}; give finite numbers, for example --gammas 0 1 2000.")


def main(argv: list[str]) -> int:
    """Run the toy; returns the exit code."""
    options = tyro.cli(Toy, args=argv, prog="rsd toy")
    options.check()
    make_folder(options.out)
    from rsd.runs import check_own, locked

    check_own(options.out, FILES)
    try:
        with locked(options.out):
            compute(options)
    except KeyboardInterrupt:
        print("\nrsd: interrupted; the toy does not go on where it was, start it again", file=sys.stderr)
        return INTERRUPTED
    print(f"{', '.join(FILES)} in {options.out}")
    return 0


def compute(options: Toy) -> None:
    """Move the particles for each gamma, then write the three files."""
    from rsd.runs import write_json

    from .experiment import run
    from .plots import collapse_plot, scatter_plot

    outcomes = []
    for gamma in options.gammas:
        outcomes.append(
            run(gamma, realisations=options.realisations, steps=options.steps, lr=options.lr, seed=options.seed)
        )
        last = outcomes[-1]
        told = f"gamma {gamma:g}: {last.collapsed} of {options.realisations} collapsed, misfit {last.misfit:.3f}"
        print(told, flush=True)
    rows = [outcome.summary() for outcome in outcomes]
    report = {
        "gamma": [row["gamma"] for row in rows],
        "collapsed": [row["collapsed"] for row in rows],
        "misfit": [row["misfit"] for row in rows],
        "realisations": options.realisations,
        "steps": options.steps,
        "lr": options.lr,
        "seed": options.seed,
    }
    write_json(options.out / "toy.json", report)
    collapse_plot(outcomes, options.out / "collapse.png")
    scatter_plot(outcomes, options.out / "scatter.png")
