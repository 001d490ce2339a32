"""Compare methods with known posteriors beyond one Gaussian: python -m scripts.signals prints Markdown tables.

1. Random walks with Gaussian, Laplace, sparse and Student-t jumps under four measurements: how far the samples' mean is
   from the best possible estimate, in dB, and the posterior's share of the samples' central 90% intervals. The denoised
   estimate is exact (rsd.tasks.calibrate.signals), and a Gibbs sampler gives the posterior.
2. Mixtures of six Gaussians in 16 dimensions: the same, with the coverage of the 90% region of highest density, the
   total variation of the components' weights, and the Vendi score beside that of posterior draws.

Methods named by --repelled also run at every --gammas, in groups of 4 particles; those that have importance weights get
a weighted row in the second table. Other settings are those of scripts.posterior. Posterior draws, as many, come first:
they show what chance does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsd.metrics import vendi
from rsd.tasks.calibrate.figures import interval_coverage
from rsd.tasks.calibrate.mixtures import MixtureProblem, mixture_problem
from rsd.tasks.calibrate.signals import Jumps, Signal, matrices, problem

from .posterior import ROWS, TOGETHER, Row, weighted_samples

JUMPS = {
    "gaussian": Jumps("gaussian", 0.5),
    "laplace": Jumps("laplace"),
    "sparse": Jumps("sparse"),
    "student": Jumps("student", degrees=3.0),
}
FAST = ("dps", "pigdm", "daps", "psld", "proximal-guidance", "rlsd", "particle-guidance")
REPELLED = ("pigdm", "proximal-guidance", "rlsd", "particle-guidance")
GAMMAS = (0.02, 0.2, 2.0)
WINDOW = (0.3, 0.9)
"""Where repulsion acts, as in the packaged settings; at the last step it would leave no weights."""
SIGMA_V = 0.1
LEVEL = 0.9
TRUTHS = 64
"""Posterior draws in whose place the truth might be, for the coverage."""
EXACT = "posterior draws"
EXACTLY = {"adaptive=false", "exact=true"}
"""Hyper-parameters that make guidance exact for Gaussian priors."""


@dataclass(frozen=True)
class Drawn:
    """Samples ``x`` [N, d] and their importance weights [N], which sum to 1; None: equal weights."""

    x: torch.Tensor
    weights: torch.Tensor | None = None

    @property
    def mean(self) -> torch.Tensor:
        """The (weighted) mean, [d]."""
        return self.x.mean(0) if self.weights is None else self.weights @ self.x

    @property
    def effective(self) -> float:
        """The number of independent samples that the weights are worth; N without weights."""
        return float(len(self.x)) if self.weights is None else float(1 / self.weights.square().sum())


Draw = Callable[[Any], Drawn]


def chosen_rows(methods: Sequence[str], repelled: Sequence[str], gammas: Sequence[float]) -> list[Row]:
    """Return the rows of these methods in scripts.posterior; of those ``repelled`` without repulsion and at each gamma,
    the variants whose guidance is exact if there are any."""
    exact = {row.method for row in ROWS if set(row.hyper) & EXACTLY}
    found = []
    for row in ROWS:
        if row.method not in methods:
            continue
        if row.method not in repelled or (row.method in exact and not set(row.hyper) & EXACTLY):
            found.append(row)
            continue
        for gamma in (0.0, *gammas):
            window = {"window": WINDOW} if gamma else {}
            found.append(replace(row, settings={**row.settings, "gamma": gamma, **window}))
    return found


def name_of(row: Row) -> str:
    """Return the method, its hyper-parameters and its gamma."""
    gamma = [f"γ = {row.settings['gamma']:g}"] if "gamma" in row.settings else []
    return " ".join([f"`{row.method}`", *row.hyper, *gamma])


def draw(row: Row, known: Any, number: int, steps: int) -> Drawn:
    """Return about ``number`` samples of a method, a multiple of 4 if its particles interact, and their weights if it
    has any."""
    together = row.method in TOGETHER or row.settings.get("gamma", 0.0) > 0
    x, logs = weighted_samples(row, known, number=number - number % 4 if together else number, steps=steps)
    repelled = logs is not None and bool(logs.isfinite().all()) and bool((logs != 0).any())
    return Drawn(x, logs.double().softmax(0) if repelled and logs is not None else None)


def gap(drawn: Sequence[Drawn], means: Sequence[torch.Tensor], least: Sequence[float]) -> float:
    """Return by how many dB the mean squared error of the samples' means exceeds the least possible one, in expectation
    over the posterior. ``means``: [d] of each posterior; ``least``: its mean variance of an entry."""
    wrong = [float((one.mean - mean).square().mean()) for one, mean in zip(drawn, means, strict=True)]
    return float(10 * np.log10(1 + sum(wrong) / sum(least)))


def signal_figures(drawn: Sequence[Drawn], problems: Sequence[Signal]) -> dict[str, float]:
    """Return the gap to the MMSE in dB, and the posterior's share of the central 90% intervals of equal samples."""
    inside = []
    for one, known in zip(drawn, problems, strict=True):
        some = known.draws[:: max(1, len(known.draws) // TRUTHS)].numpy()
        inside += [interval_coverage(one.x.numpy(), truth, [LEVEL])[0] for truth in some]
    means = [known.draws.mean(0) for known in problems]
    least = [float(known.draws.var(0).mean()) for known in problems]
    return {"gap": gap(drawn, means, least), "coverage": float(np.mean(inside))}


def mixture_figures(drawn: Sequence[Drawn], problems: Sequence[MixtureProblem]) -> dict[str, float | None]:
    """Return the gap to the MMSE in dB, the posterior's share of the region of highest density that holds 90% of the
    samples (None for weighted ones), the total variation of the components' weights, the Vendi score divided by that of
    as many posterior draws (None for weighted samples), and the effective number of samples."""
    inside, apart, vendis = [], [], []
    for one, known in zip(drawn, problems, strict=True):
        apart.append(float((known.shares(one.x, one.weights) - known.weights).abs().sum() / 2))
        if one.weights is None:
            truths = known.draw(10 * TRUTHS, torch.Generator().manual_seed(1))
            inside.append(known.densest_mass(one.x, LEVEL, truths))
            vendis.append(vendi(one.x) / vendi(truths[: len(one.x)]))
    return {
        "gap": gap(drawn, [known.mean for known in problems], [known.least for known in problems]),
        "coverage": float(np.mean(inside)) if inside else None,
        "tv": float(np.mean(apart)),
        "vendi": float(np.mean(vendis)) if vendis else None,
        "effective": float(np.mean([one.effective for one in drawn])),
    }


def equal(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Return the samples without their weights."""
    return [Drawn(one.x) for one in drawn]


def cell(value: float | None, form: str) -> str:
    """Format a figure; a dash for None."""
    return "–" if value is None else form.format(value)


def rounded(figures: Any) -> Any:
    """Return nested figures with four significant digits."""
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    return float(f"{figures:.4g}") if isinstance(figures, float) else figures


def main() -> None:
    """Print the tables, and write the figures if --out says where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=4, help="signals of each kind (default: 4)")
    parser.add_argument("--mixtures", type=int, default=32, help="mixtures (default: 32)")
    parser.add_argument("--number", type=int, default=32, help="samples of each problem (default: 32)")
    parser.add_argument("--steps", type=int, default=50, help="steps of each method (default: 50)")
    parser.add_argument("--methods", nargs="*", default=list(FAST), help="methods (default: the fast ones)")
    parser.add_argument("--repelled", nargs="*", default=list(REPELLED), help="those that also run with repulsion")
    parser.add_argument("--gammas", nargs="*", type=float, default=list(GAMMAS), help="(default: 0.02 0.2 2)")
    parser.add_argument("--jumps", nargs="*", default=list(JUMPS), choices=list(JUMPS), help="(default: all)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures (default: only the tables)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start, began = time.monotonic(), time.process_time()
    rows: list[tuple[str, Row | None]] = [(EXACT, None)]
    rows += [(name_of(row), row) for row in chosen_rows(given.methods, given.repelled, given.gammas)]
    found: dict[str, Any] = {"options": {k: v for k, v in vars(given).items() if k != "out"}, "sigma_v": SIGMA_V}

    A = matrices()
    print(
        f"Random walks of 32 entries, σ_v = {SIGMA_V}, {given.problems} each, {given.number} samples of {given.steps} "
        "steps: dB above the MMSE / coverage at 90%."
    )
    for jumps in given.jumps:
        signals = {
            name: [problem(JUMPS[jumps], A[name], sigma_v=SIGMA_V, seed=k) for k in range(given.problems)] for name in A
        }
        print(f"\n| {jumps} jumps | {' | '.join(A)} |\n|{'---|' * (1 + len(A))}", flush=True)
        for label, row in rows:
            figures = {}
            for name, problems in signals.items():
                if row is None:
                    drawn = [Drawn(known.draws[-given.number :]) for known in problems]
                else:
                    drawn = [draw(row, known, given.number, given.steps) for known in problems]
                figures[name] = signal_figures(drawn, problems)
            found.setdefault("signals", {}).setdefault(jumps, {})[label] = figures
            cells = [f"{one['gap']:+.1f} / {one['coverage']:.2f}" for one in figures.values()]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)

    mixtures = [mixture_problem(seed=k) for k in range(given.mixtures)]
    print(f"\nMixtures of 6 Gaussians in 16 dimensions, {len(mixtures)} problems.\n")
    print("| | dB above the MMSE | coverage at 90% | TV of the weights | Vendi, relative | effective samples |")
    print(f"|{'---|' * 6}", flush=True)
    for label, row in rows:
        if row is None:
            drawn = [Drawn(known.draw(given.number, torch.Generator().manual_seed(0))) for known in mixtures]
        else:
            drawn = [draw(row, known, given.number, given.steps) for known in mixtures]
        kinds = {label: equal(drawn)}
        if all(one.weights is not None for one in drawn):
            kinds[f"{label}, weighted"] = list(drawn)
        for name, some in kinds.items():
            one = found.setdefault("mixtures", {})[name] = mixture_figures(some, mixtures)
            forms = {"gap": "{:+.1f}", "coverage": "{:.2f}", "tv": "{:.2f}", "vendi": "{:.2f}", "effective": "{:.1f}"}
            print(f"| {name} | {' | '.join(cell(one[key], form) for key, form in forms.items())} |", flush=True)
    found["seconds"] = round(time.process_time() - began)
    print(f"\n{found['seconds']} s of one core, {time.monotonic() - start:.0f} s in all.")
    if given.out:
        given.out.write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
