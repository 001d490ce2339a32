"""The toy's plots, as in the paper's Fig. 30."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from rsd.runs.folder import write_bytes  # noqa: E402

from .experiment import MODES, VARIANCE, Outcome  # noqa: E402


def collapse_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the share of collapsed realisations and the distance from the modes against gamma."""
    figure, left = plt.subplots(figsize=(6, 3.6), layout="constrained")
    gammas = [o.gamma for o in outcomes]
    share = [100 * o.collapsed / len(o.points) for o in outcomes]
    left.plot(gammas, share, "o-", color="tab:blue", clip_on=False)
    left.set(xlabel="repulsion $\\gamma$", ylim=(0, 100))
    left.set_xscale("symlog", linthresh=0.1)
    left.set_ylabel("both particles in the same mode [%]", color="tab:blue")
    right = left.twinx()
    right.plot(gammas, [o.misfit for o in outcomes], "s--", color="tab:red")
    right.set_ylabel("mean distance from the nearest mode", color="tab:red")
    right.axhline(VARIANCE**0.5, color="tab:red", linewidth=0.6, linestyle=":")
    figure.suptitle(f"{len(outcomes[0].points)} realisations (dotted: a mode's standard deviation)", fontsize=10)
    _save(figure, path)


def scatter_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the final particles of every realisation, for the smallest gamma, the gamma nearest to 1, and the
    largest."""
    by_gamma = sorted(outcomes, key=lambda o: o.gamma)
    chosen = {o.gamma: o for o in (by_gamma[0], min(by_gamma, key=lambda o: abs(o.gamma - 1)), by_gamma[-1])}
    figure, axes = plt.subplots(1, len(chosen), figsize=(4 * len(chosen), 3.6), layout="constrained", squeeze=False)
    for axis, outcome in zip(axes[0], chosen.values(), strict=True):
        for k, color in enumerate(("tab:blue", "tab:orange")):
            axis.scatter(*outcome.points[:, k].T.cpu(), s=8, color=color, alpha=0.5, label=f"particle {k + 1}")
        for mode in MODES:
            axis.add_patch(plt.Circle(mode.tolist(), 2 * VARIANCE**0.5, fill=False, color="black"))
        reach = max(1.6, float(outcome.points.abs().max()) * 1.1)
        axis.set(title=f"$\\gamma$ = {outcome.gamma:g}, {outcome.collapsed} collapsed", xlim=(-reach, reach))
        axis.set(ylim=(-reach, reach), aspect="equal")
    axes[0][0].legend(loc="upper left", fontsize=8)
    figure.suptitle("Circles: the two modes at two standard deviations", fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    plt.close(figure)
    write_bytes(path, picture.getvalue())
