"""Every method where the right answer is known: python -m scripts.posterior prints three Markdown tables.

1. A Gaussian prior and a linear operator: bias of the mean, in the posterior's standard deviations, and the ratio of
   variances, beside what each method's paper claims. All with the same prior, measurement and number of steps.
2. The same answers in the posterior's own directions: those that are measured, in which it is as narrow as the noise,
   and those that are not, which hide them in any figure of coordinates.
3. Two modes, of equal weight and 90:10, and an operator that is blind to them: how many of the two 4 particles find.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.exact import Exact, blind, gaussian


@dataclass(frozen=True)
class Row:
    """A method with its settings; ``claim``: what its paper says of the answers."""

    method: str
    claim: str
    hyper: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        told = [*self.hyper, *(f"{name.rstrip('_')}={value:g}" for name, value in self.settings.items())]
        return f"`{self.method}`" + (f" {' '.join(told)}" if told else "")


DISTILLED = {"lambda_": 1.0, "lr_z": 0.1}
PUSHED = {**DISTILLED, "gamma": 2.0}
ROWS = (
    Row("dps", "point approximation of p(y \\| z_t): no guarantee", ("zeta=0.3",)),
    Row("pigdm", "exact guidance for N(0, I), but weighed for few steps (Alg. 1)", ("adaptive=true",)),
    Row("pigdm", "exact: guidance and weight are the score's", ("adaptive=false",)),
    Row("fps-smc", "the filter without resampling: approximate", ("M=1",)),
    Row("fps-smc", "exact for many particles (sigma_v to 0: see text)", ("M=10",)),
    Row("daps", "p(z_0 \\| z_t) taken for N(guess, r_t^2): approximate", ("ode=5", "langevin=50", "lr_end=1")),
    Row(
        "score-prior",
        "the best fit of a flow",
        ("batch=16", "ode=20", "layers=4", "hidden=64", "lr=3e-3"),
        {"steps": 1500},
    ),
    Row("psld", "recovers the truth for linear models without noise", ("omega=0.3",)),
    Row("resample", "consistent with y (a fit, no sample)", ("gamma=40", "lr_z=0.02")),
    Row("latino", "Langevin steps of a prior that denoises: approximate", ("ode=10",), {"steps": 20}),
    Row("red-diff", "seeks a mode", (), DISTILLED),
    Row("nonrepuls", "seeks a mode", (), {**DISTILLED, "lr_x": 0.1, "rho": 0.3}),
    Row("nonaug", "ensemble spread by gamma; not calibrated", (), PUSHED),
    Row("rlsd", "ensemble spread by gamma; not calibrated", (), {**PUSHED, "lr_x": 0.1, "rho": 0.3}),
    Row("svgd", "exact for many particles, collapses in high dimension", (), PUSHED),
    Row("particle-guidance", "samples a tilted, repelling joint density", ("zeta=0.3",), {"gamma": 0.2}),
)
TABLED = {row.method for row in ROWS}
TOGETHER = ("nonaug", "rlsd", "svgd", "particle-guidance")
"""Methods whose particles interact: runs of 4 particles, a quarter as many in all, where the others are one run."""


def answers(row: Row, known: Exact, *, number: int, steps: int) -> torch.Tensor:
    """Answers [number, d] of a method to a problem; particles that interact come in groups of 4."""
    size = 4 if row.method in TOGETHER else number
    hyper = row.hyper if row.method != "daps" else (*row.hyper, f"tau={known.sigma_v}", f"lr={0.2 * known.sigma_v**2}")
    found = []
    for k in range(number // size):
        told = {"steps": steps, **row.settings}
        settings = Settings(method=row.method, particles=size, hyper=hyper, sigma_v=known.sigma_v, **told)
        run = run_class(row.method)(known.prior, known.operator, known.y, settings, embed=lambda z: z, image=f"{k}")
        for _ in run.steps():
            pass
        found.append(run.finish())
    return torch.cat(found)


def drawn(row: Row, known: Exact, *, number: int, steps: int) -> torch.Tensor:
    """Answers of which :func:`moments` are to be taken; of methods whose particles interact a quarter as many."""
    return answers(row, known, number=number // 4 if row.method in TOGETHER else number, steps=steps)


def moments(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> tuple[float, float]:
    """Root mean square over columns of the bias of answers x [n, k] in posterior deviations, and the mean ratio of
    variances; ``mean`` and ``variance`` [k]: the posterior's."""
    bias = ((x.mean(0) - mean) / variance.sqrt()).square().mean().sqrt()
    return float(bias), float((x.var(0) / variance).mean())


def directions(x: torch.Tensor, known: Exact) -> list[float]:
    """:func:`moments` of answers in the directions of the posterior that are measured, then in the others: its
    covariance's eigenvectors, of which the first m are the rows of A together."""
    variance, axes = torch.linalg.eigh(known.covariance)  # the narrowest first: those are measured
    measured = torch.linalg.matrix_rank(known.operator.matrix)
    found: list[float] = []
    for part in (slice(0, measured), slice(measured, None)):
        found += moments(x @ axes[:, part], known.mean @ axes[:, part], variance[part])
    return found


def modes(row: Row, known: Exact, *, groups: int, steps: int) -> tuple[float, float]:
    """How many modes 4 particles are in, on average over groups, and the share of particles in any (within 3 of its
    standard deviations)."""
    x = answers(row, known, number=4 * groups, steps=steps).view(groups, 4, -1)
    spread = known.prior.variances.flatten()[0].sqrt()
    inside = (x[:, :, None, 0] - known.prior.means[:, 0]).abs() < 3 * spread  # [groups, 4, 2]
    return float(inside.any(1).sum(1).double().mean()), float(inside.any(2).double().mean())


def figure(value: float) -> str:
    """A figure of a table: two digits after the point, one above 10."""
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer particles and steps")
    parser.add_argument("--methods", nargs="*", help="these rows only")
    asked = parser.parse_args()
    quick, rows = asked.quick, [row for row in ROWS if row.method in (asked.methods or TABLED)]
    torch.set_num_threads(1)
    number, steps, groups = (40, 50, 4) if quick else (400, 200, 16)
    noisy, sharp = gaussian(sigma_v=0.3), gaussian(sigma_v=0.02)
    print(f"{number} answers of {steps} steps; bias in posterior standard deviations, variance as a ratio.\n")
    print("| method | bias, σ_v = 0.3 | variance | bias, σ_v = 0.02 | variance | its paper's claim |")
    print("|---|---|---|---|---|---|")
    start = time.monotonic()
    apart = []
    for row in rows:
        found: list[float] = []
        own: list[float] = []
        for known in (noisy, sharp):
            x = drawn(row, known, number=number, steps=steps)
            found += moments(x, known.mean, known.covariance.diagonal())
            own += directions(x, known)
        apart.append(f"| {row.label} | {' | '.join(map(figure, own))} |")
        print(f"| {row.label} | {' | '.join(map(figure, found))} | {row.claim} |", flush=True)
    print("\nThe same answers in the directions that are measured, and in those that are not.\n")
    names = ("bias, measured", "variance, measured", "bias, unmeasured", "variance, unmeasured")
    both = " | ".join(f"{name}, σ_v = {sigma_v}" for sigma_v in (0.3, 0.02) for name in names)
    print(f"| method | {both} |\n|---|---|---|---|---|---|---|---|---|")
    print("\n".join(apart))
    print(f"\nModes of two that 4 particles find, over {groups} groups (independent draws: 1.88 and 1.34).\n")
    print("| method | modes, 50:50 | in a mode | modes, 90:10 | in a mode |\n|---|---|---|---|---|")
    for row in rows:
        shares: list[str] = []
        for rare in (0.5, 0.1):
            count, inside = modes(row, blind(rare=rare), groups=groups, steps=steps)
            shares += [f"{count:.2f}", f"{inside:.0%}"]
        print(f"| {row.label} | {' | '.join(shares)} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s on one core.")


if __name__ == "__main__":
    main()
