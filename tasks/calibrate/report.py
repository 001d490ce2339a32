"""Write the tables, plots and page of ``rsd calibrate``."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from rsd.pages import data_uri, render  # noqa: E402
from rsd.runs.folder import finite, provenance, write_bytes, write_json  # noqa: E402
from rsd.runs.summary import write_csv  # noqa: E402

from .figures import LEVELS  # noqa: E402
from .options import Calibrate  # noqa: E402

PLOTS = ("reliability.png", "frequencies.png", "ranks.png")
FILES = ("calibration.json", "calibration.csv", "calibration.md", "calibration.html", *PLOTS)
COLUMNS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "calibration_error": (
        "calibration error", "mean |frequency − posterior| of a value, pooled over heads", "{:.3f}".format
    ),
    "tv": ("TV", "total variation of an attribute's frequencies from its posterior, mean over heads", "{:.3f}".format),
    "repeats": (
        "repeats", "how often two samples show the same values, divided by the posterior's; above 1: less diverse",
        "{:.2f}".format,
    ),
    "invented": ("invented", "share of samples with values of posterior probability 0", "{:.1%}".format),
    "missed": ("missed", "posterior probability of values in no sample", "{:.1%}".format),
    "missed_exact": ("missed, exact", "what as many exact draws miss on average", "{:.1%}".format),
    "read": ("read", "share of samples in which the classifier is sure", "{:.0%}".format),
    "mean_error": (
        "mean error", "root mean square difference between the samples' mean and the posterior's, hidden pixels",
        "{:.3f}".format,
    ),
    "spread": ("spread", "the samples' standard deviation divided by the posterior's", "{:.2f}".format),
    "crps": (
        "CRPS", "continuous ranked probability score of the hidden pixels; lower is better", "{:.4f}".format
    ),
    "energy": (
        "energy", "energy score of the hidden pixels together, per root of their number; lower is better",
        "{:.4f}".format,
    ),
    "effective": ("effective", "number of independent samples that the weights are worth", "{:.1f}".format),
    "tarp_gap": (
        "TARP gap", "largest difference from uniform in the test of coverage with random points", "{:.2f}".format
    ),
}  # fmt: skip
"""The columns of the table: a heading, a description, and the format."""


def write(options: Calibrate, rows: list[dict[str, Any]], prior: dict[str, Any] | None) -> None:
    """Write all files; print the table. A figure that is not a number, such as a share of no samples that can be read,
    is null in JSON and a dash in the tables."""
    out, rows = options.out, finite(rows)
    write_json(out / "calibration.json", {"task": options.task, "rows": rows, "prior": prior})
    names = ["method", "prior", "steps", "images", "particles", *COLUMNS, "low", "high"]
    names += [f"{figure}_{q:g}" for figure in ("credible", "coverage") for q in LEVELS]
    write_csv(out / "calibration.csv", [flat(row) for row in rows], names)
    text = markdown(rows, prior)
    write_bytes(out / "calibration.md", text.encode())
    for name, figure in zip(PLOTS, (reliability(rows), frequencies(rows), ranks(rows)), strict=True):
        write_bytes(out / name, as_png(figure))
    write_bytes(out / "calibration.html", page(options, rows, prior).encode())
    print(text)
    print(f"{', '.join(FILES)} in {out}")


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a line of calibration.csv."""
    line = {name: row[name] for name in ("method", "prior", "steps", "images", "particles", *COLUMNS)}
    line["low"], line["high"] = row["calibration_error_interval"]
    for figure in ("credible", "coverage"):
        line |= {f"{figure}_{q:g}": row[figure].get(f"{q:g}") for q in LEVELS}
    return line


def show(name: str, row: dict[str, Any]) -> str:
    """Format a figure of a row, with its interval if it has one; a dash for None."""
    value = row[name]
    if value is None:
        return "–"
    text = COLUMNS[name][2](value)
    low, high = row.get(f"{name}_interval") or (None, None)
    return f"{text} ({low:.3f} to {high:.3f})" if low is not None and high is not None else text


def markdown(rows: list[dict[str, Any]], prior: dict[str, Any] | None) -> str:
    """Return the tables as Markdown."""
    headings = ["", *(heading for heading, *_ in COLUMNS.values())]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    lines += [f"| {row['method']} | {' | '.join(show(name, row) for name in COLUMNS)} |" for row in rows]
    lines += [
        "",
        "Share of the hidden pixels whose true value lies in the samples' central interval:",
        "",
    ]
    lines += [f"| | {' | '.join(f'{q:.0%}' for q in LEVELS)} |", "|---" * (1 + len(LEVELS)) + "|"]
    for row in rows:
        shares = [f"{share:.0%}" for share in row["coverage"].values()]
        lines += [f"| {row['method']} | {' | '.join(shares)} |"] if shares else []
    if prior:
        lines += ["", f"The prior alone, {prior['draws']} draws: calibration error {prior['calibration_error']:.3f}."]
    return "\n".join(lines) + "\n"


def as_png(figure: Figure) -> bytes:
    """Return a plot as a PNG file and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def reliability(rows: list[dict[str, Any]]) -> Figure:
    """Plot the coverage of intervals of pixels, and the posterior mass of credible sets of values, against their
    nominal probability."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", sharey=True)
    titles = ("hidden pixels: truth in the central interval", "hidden values: posterior mass of the credible set")
    for axis, name, title in zip(axes, ("coverage", "credible"), titles, strict=True):
        axis.plot([LEVELS[0], 1], [LEVELS[0], 1], "k--", linewidth=1)
        for k, (row, marker) in enumerate(zip(rows, "osD^vP*Xph" * 9, strict=False)):
            points = [(q, row[name].get(f"{q:g}")) for q in LEVELS if row[name].get(f"{q:g}") is not None]
            if points:
                style = {"color": f"C{k}", "linewidth": 1.2, "markersize": 5}
                axis.plot(*zip(*points, strict=True), f"{marker}-", label=row["method"], **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("nominal probability")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share")
    pairs = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    lines = {label: line for line, label in reversed(pairs)}  # weighted rows have no interval, so no line on the left
    named = [row["method"] for row in rows if row["method"] in lines]
    axes[0].legend([lines[name] for name in named], named, fontsize=8)
    return figure


def frequencies(rows: list[dict[str, Any]]) -> Figure:
    """Plot how often each open value occurs, beside its posterior probability."""
    values: dict[tuple[str, str], float] = {}
    for row in rows:
        for name, each in row["values"].items():
            values |= {(name, value): pair[1] for value, pair in each.items()}
    figure, axis = plt.subplots(figsize=(max(6.4, 0.9 * len(values)), 4.4), layout="constrained")
    at = np.arange(len(values))
    axis.bar(at, list(values.values()), color="0.85", width=0.9, label="exact posterior")
    width = 0.8 / max(len(rows), 1)
    for k, (row, marker) in enumerate(zip(rows, "osD^vP*Xph" * 9, strict=False)):
        y = [row["values"].get(name, {}).get(value, [np.nan])[0] for name, value in values]
        axis.plot(at - 0.4 + (k + 0.5) * width, y, marker, label=row["method"], markersize=5)
    axis.set_xticks(at, [f"{name.replace('_', ' ')}\n{value}" for name, value in values], fontsize=9)
    axis.set_ylabel("frequency, mean over heads")
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8)
    return figure


def ranks(rows: list[dict[str, Any]]) -> Figure:
    """Plot where the truth ranks among the samples, pixel by pixel; flat for exact samples."""
    figure, axis = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for row, marker in zip(rows, "osD^vP*Xph" * 9, strict=False):
        if row["ranks"] is None:
            continue
        shares = np.array(row["ranks"]) * len(row["ranks"])
        axis.plot((np.arange(len(shares)) + 0.5) / len(shares), shares, f"{marker}-", label=row["method"], markersize=4)
    axis.axhline(1, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("rank of the truth among the samples, hidden pixels")
    axis.set_ylabel("density")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def page(options: Calibrate, rows: list[dict[str, Any]], prior: dict[str, Any] | None) -> str:
    """Return the HTML page, with all pictures inline."""
    plots = [data_uri(Image.open(options.out / name), 1300, lossless=True) for name in PLOTS]
    grids = sorted((options.out / "cells").glob("*/*/grid.png"))
    chosen: dict[str, Path] = {}
    for file in grids:
        chosen.setdefault(file.parents[1].name, file)
    return render(
        Path(__file__).parent, "calibration.html", title=f"calibration, {options.task}", rows=rows, columns=COLUMNS,
        show=show, levels=[f"{q:g}" for q in LEVELS], plots=plots, prior=prior, task=options.task, data="",
        cards=[(name, data_uri(Image.open(file), 1200)) for name, file in chosen.items()],
        about=provenance(seed=options.seed, model=options.prior) | {"command": shlex.join(["rsd", *sys.argv[1:]])},
    )  # fmt: skip
