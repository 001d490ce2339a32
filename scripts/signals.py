"""Compare methods with known posteriors beyond one Gaussian: python -m scripts.signals prints two Markdown tables.

1. Random walks with Gaussian, Laplace, sparse and Student-t jumps under four measurements: how far the samples' mean is
   from the best possible estimate, in dB, and how often the truth lies in the samples' central 90% interval. The
   denoised estimate is exact (rsd.tasks.calibrate.signals), and a Gibbs sampler gives the posterior.
2. Mixtures of six Gaussians in 16 dimensions: the same, with the coverage of the 90% region of highest density, and the
   total variation of the components' weights.

The methods' settings are those of scripts.posterior.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from rsd.tasks.calibrate.mixtures import MixtureProblem, mixture_problem
from rsd.tasks.calibrate.signals import Jumps, Signal, matrices, problem

from .posterior import ROWS, TOGETHER, Row, samples

JUMPS = {
    "gaussian": Jumps("gaussian", 0.5),
    "laplace": Jumps("laplace"),
    "sparse": Jumps("sparse"),
    "student": Jumps("student", degrees=3.0),
}
METHODS = ("dps", "pigdm", "daps", "psld", "proximal-guidance", "rlsd", "nonaug", "particle-guidance")
SIGMA_V = 0.1
GIBBS = "posterior draws"


def chosen_rows(methods: list[str]) -> list[Row]:
    """Return the rows of these methods in scripts.posterior."""
    return [row for row in ROWS if row.method in methods]


def draw(row: Row, known: Any, number: int, steps: int) -> torch.Tensor:
    """Return samples [number, d] of a method; particles that interact run in groups of 4."""
    return samples(row, known, number=number - number % 4 if row.method in TOGETHER else number, steps=steps)


def gap(errors: list[float], least: list[float]) -> float:
    """Return by how many dB the mean squared error exceeds the least possible one."""
    return float(10 * torch.tensor([sum(errors) / sum(least)]).log10())


def signal_figures(draws: Callable[[Signal], torch.Tensor], problems: list[Signal]) -> tuple[float, float]:
    """Return the gap to the MMSE in dB, and the share of entries in the central 90% interval."""
    errors, least, inside = [], [], []
    for known in problems:
        x = draws(known)
        errors.append(float((x.mean(0) - known.x).square().mean()))
        least.append(float((known.draws.mean(0) - known.x).square().mean()))
        low, high = x.quantile(torch.tensor([0.05, 0.95], dtype=x.dtype), 0)
        inside.append(float(((known.x >= low) & (known.x <= high)).double().mean()))
    return gap(errors, least), sum(inside) / len(inside)


def mixture_figures(
    draws: Callable[[MixtureProblem], torch.Tensor], problems: list[MixtureProblem]
) -> tuple[float, float, float]:
    """Return the gap to the MMSE in dB, the coverage of the 90% region, and the total variation of the weights."""
    errors, least, inside, apart = [], [], [], []
    for known in problems:
        x = draws(known)
        errors.append(float((x.mean(0) - known.x).square().mean()))
        least.append(float((known.mean - known.x).square().mean()))
        inside.append(known.in_densest(x, 0.9))
        apart.append(float((known.shares(x) - known.weights).abs().sum() / 2))
    return gap(errors, least), sum(inside) / len(inside), sum(apart) / len(apart)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=4, help="problems of each kind (default: 4)")
    parser.add_argument("--number", type=int, default=32, help="samples of each problem (default: 32)")
    parser.add_argument("--steps", type=int, default=50, help="steps of each method (default: 50)")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="methods (default: the fast ones)")
    parser.add_argument("--jumps", nargs="*", default=list(JUMPS), choices=list(JUMPS), help="(default: all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    A = matrices()
    print(
        f"Random walks of 32 entries, σ_v = {SIGMA_V}, {given.problems} problems each, {given.number} samples of "
        f"{given.steps} steps: dB above the MMSE / coverage at 90%.\n"
    )
    kinds = [(jumps, name) for jumps in given.jumps for name in A]
    signals = {
        kind: [problem(JUMPS[kind[0]], A[kind[1]], sigma_v=SIGMA_V, seed=k) for k in range(given.problems)]
        for kind in kinds
    }
    rows: list[tuple[str, Callable[[Any], torch.Tensor]]] = [(GIBBS, lambda known: known.draws[-given.number :])]
    for row in chosen_rows(given.methods):
        rows.append((row.label, lambda known, row=row: draw(row, known, given.number, given.steps)))  # type: ignore[misc]
    for jumps in given.jumps:
        print(f"\n| {jumps} jumps | {' | '.join(A)} |\n|{'---|' * (1 + len(A))}")
        for label, draws in rows:
            cells = ["{:+.1f} / {:.2f}".format(*signal_figures(draws, signals[jumps, name])) for name in A]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)
    problems = [mixture_problem(seed=k) for k in range(2 * given.problems)]
    print(
        f"\nMixtures of 6 Gaussians in 16 dimensions, {len(problems)} problems.\n\n"
        "| | dB above the MMSE | coverage at 90% | TV of the weights |\n|---|---|---|---|"
    )
    rows[0] = (GIBBS, lambda known: known.draw(given.number, torch.Generator().manual_seed(0)))
    for label, draws in rows:
        print("| {} | {:+.1f} | {:.2f} | {:.2f} |".format(label, *mixture_figures(draws, problems)), flush=True)
    print(f"\n{time.monotonic() - start:.0f} s on one core.")


if __name__ == "__main__":
    main()
