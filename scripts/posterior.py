"""Compare every method with a known posterior: python -m scripts.posterior prints three Markdown tables.

With --flow the prior is a flow in closed form, with the noise levels of SD3, instead of Stable Diffusion's.

1. A Gaussian prior and a linear operator: bias of the mean, in the posterior's standard deviations, and the ratio of
   variances, beside the claim of each method's paper. All use the same prior, measurement and number of steps.
2. The same samples along the posterior's principal axes: the measured ones, in which it is as narrow as the noise, and
   the unmeasured ones, which dominate averages over coordinates.
3. Two modes, of equal weight and 90:10, and an operator that cannot tell them apart: how many modes 4 particles find.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from rsd.schedule import Schedule
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.exact import Exact, blind, gaussian


@dataclass(frozen=True)
class Row:
    """A method with its settings; ``claim``: what its paper says about the samples."""

    method: str
    claim: str
    hyper: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        changes = [*self.hyper, *(f"{name.rstrip('_')}={value:g}" for name, value in self.settings.items())]
        return f"`{self.method}`" + (f" {' '.join(changes)}" if changes else "")


DISTILLED = {"lambda_": 1.0, "lr_z": 0.1}
PUSHED = {**DISTILLED, "gamma": 2.0}
ROWS = (
    Row("dps", "point approximation of p(y \\| z_t): no guarantee", ("zeta=0.3",)),
    Row("pigdm", "exact guidance for N(0, I), but weighted for few steps (Alg. 1)", ("adaptive=true",)),
    Row("pigdm", "exact: guidance and weight are the score's", ("adaptive=false",)),
    Row("fps-smc", "the filter without resampling: approximate", ("M=1",)),
    Row("fps-smc", "exact for many particles (as sigma_v goes to 0: see text)", ("M=10",)),
    Row("daps", "p(z_0 \\| z_t) approximated by N(denoised estimate, r_t^2)", ("ode=5", "langevin=50", "lr_end=1")),
    Row(
        "score-prior",
        "the best fit of a flow",
        ("batch=16", "ode=20", "layers=4", "hidden=64", "lr=3e-3"),
        {"steps": 1500},
    ),
    Row("psld", "recovers the truth for linear models without noise", ("omega=0.3",)),
    Row("resample", "consistent with y (a fit, no sample)", ("gamma=40", "lr_z=0.02")),
    Row("latino", "Langevin steps of a prior that denoises: approximate", ("ode=10",), {"steps": 20}),
    Row("proximal-guidance", "proximal steps, and guidance of fixed length: no guarantee"),
    Row("proximal-guidance", "exact for N(0, I), with many steps", ("exact=true",)),
    Row("red-diff", "seeks a mode", (), DISTILLED),
    Row("nonrepuls", "seeks a mode", (), {**DISTILLED, "lr_x": 0.1, "rho": 0.3}),
    Row("nonaug", "ensemble spread by gamma; not calibrated", (), PUSHED),
    Row("rlsd", "ensemble spread by gamma; not calibrated", (), {**PUSHED, "lr_x": 0.1, "rho": 0.3}),
    Row("svgd", "exact for many particles, collapses in high dimension", (), PUSHED),
    Row("particle-guidance", "samples a tilted, repelling joint density", ("zeta=0.3",), {"gamma": 0.2}),
)
TABLED = {row.method for row in ROWS}
TOGETHER = ("nonaug", "rlsd", "svgd", "particle-guidance")
"""Methods whose particles interact: they run in groups of 4, a quarter as many in all; the others are one run."""


def samples(row: Row, known: Exact, *, number: int, steps: int) -> torch.Tensor:
    """Return samples [number, d] of a method; particles that interact run in groups of 4."""
    return weighted_samples(row, known, number=number, steps=steps)[0]


def weighted_samples(
    row: Row, known: Exact, *, number: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return samples [number, d] of a method, and their log importance weights [number] (:class:`rsd.sampling.Chain`;
    None if the method has none). Particles that interact run in groups of 4."""
    size = 4 if row.method in TOGETHER or row.settings.get("gamma", 0.0) > 0 else number
    hyper = row.hyper if row.method != "daps" else (*row.hyper, f"tau={known.sigma_v}", f"lr={0.2 * known.sigma_v**2}")
    found, logs = [], []
    for k in range(number // size):
        changes = {"steps": steps, **row.settings}
        settings = Settings(method=row.method, particles=size, hyper=hyper, sigma_v=known.sigma_v, **changes)
        run = run_class(row.method)(known.prior, known.operator, known.y, settings, embed=lambda z: z, image=f"{k}")
        for _ in run.steps():
            pass
        found.append(run.finish())
        logs.append(run.log_weights())
    weights = [one for one in logs if one is not None]
    return torch.cat(found), torch.cat(weights) if len(weights) == len(logs) else None


def drawn(row: Row, known: Exact, *, number: int, steps: int) -> torch.Tensor:
    """Return the samples for :func:`moments`; a quarter as many if the method's particles interact."""
    return samples(row, known, number=number // 4 if row.method in TOGETHER else number, steps=steps)


def moments(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> tuple[float, float]:
    """Return the root mean square bias of samples x [n, k] in posterior standard deviations, and the mean ratio of
    variances; ``mean`` and ``variance`` [k] are the posterior's."""
    bias = ((x.mean(0) - mean) / variance.sqrt()).square().mean().sqrt()
    return float(bias), float((x.var(0) / variance).mean())


def directions(x: torch.Tensor, known: Exact) -> list[float]:
    """Return :func:`moments` along the measured eigenvectors of the posterior covariance, then along the others; the
    first m eigenvectors span the rows of A."""
    variance, axes = torch.linalg.eigh(known.covariance)  # in ascending order: the measured ones come first
    measured = torch.linalg.matrix_rank(known.operator.matrix)
    found: list[float] = []
    for part in (slice(0, measured), slice(measured, None)):
        found += moments(x @ axes[:, part], known.mean @ axes[:, part], variance[part])
    return found


def modes(row: Row, known: Exact, *, groups: int, steps: int) -> tuple[float, float]:
    """Return the mean number of modes that 4 particles occupy, and the share of particles in a mode (within 3 standard
    deviations of it)."""
    x = samples(row, known, number=4 * groups, steps=steps).view(groups, 4, -1)
    spread = known.prior.variances.flatten()[0].sqrt()
    inside = (x[:, :, None, 0] - known.prior.means[:, 0]).abs() < 3 * spread  # [groups, 4, 2]
    return float(inside.any(1).sum(1).double().mean()), float(inside.any(2).double().mean())


def figure(value: float) -> str:
    """Format a figure with two decimals, or one from 10 on."""
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def flow_schedule(shift: float = 3.0, T: int = 1000) -> Schedule:
    """Return the schedule of a flow-matching prior with the shift of SD3: s -> shift s / (1 + (shift - 1) s)."""
    s = torch.arange(1, T + 1, dtype=torch.float64) / T
    s = shift * s / (1 + (shift - 1) * s)
    return Schedule.flow(s, (s * T).float())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer particles and steps")
    parser.add_argument("--methods", nargs="*", help="these rows only")
    parser.add_argument("--flow", action="store_true", help="a flow's schedule with SD3's shift instead of SD's")
    asked = parser.parse_args()
    quick, rows = asked.quick, [row for row in ROWS if row.method in (asked.methods or TABLED)]
    torch.set_num_threads(1)
    number, steps, groups = (40, 50, 4) if quick else (400, 200, 16)
    schedule = flow_schedule() if asked.flow else None
    noisy, sharp = (gaussian(sigma_v=sigma_v, schedule=schedule) for sigma_v in (0.3, 0.02))
    print(f"{number} samples of {steps} steps; bias in posterior standard deviations, variance as a ratio.\n")
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
    print("\nThe same samples along the measured and the unmeasured principal axes.\n")
    names = ("bias, measured", "variance, measured", "bias, unmeasured", "variance, unmeasured")
    both = " | ".join(f"{name}, σ_v = {sigma_v}" for sigma_v in (0.3, 0.02) for name in names)
    print(f"| method | {both} |\n|---|---|---|---|---|---|---|---|---|")
    print("\n".join(apart))
    print(f"\nModes of two that 4 particles find, over {groups} groups (independent draws: 1.88 and 1.34).\n")
    print("| method | modes, 50:50 | in a mode | modes, 90:10 | in a mode |\n|---|---|---|---|---|")
    for row in rows:
        shares: list[str] = []
        for rare in (0.5, 0.1):
            count, inside = modes(row, blind(rare=rare, schedule=schedule), groups=groups, steps=steps)
            shares += [f"{count:.2f}", f"{inside:.0%}"]
        print(f"| {row.label} | {' | '.join(shares)} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s on one core.")


if __name__ == "__main__":
    main()
