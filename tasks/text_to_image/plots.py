"""Plots of a sweep: quality against diversity (the paper's Fig. 31), and settings side by side (Figs 32, 33)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Annotation  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

from rsd import media  # noqa: E402
from rsd.runs.folder import RunFolder, write_bytes  # noqa: E402
from rsd.runs.summary import mean, particles  # noqa: E402

from .scores import FIGURES  # noqa: E402

Key = tuple[str, str | None, float]
OFFSETS = [
    (radius * x, radius * y)
    for radius in (5, 9, 14, 20, 28, 38)
    for x, y in ((1, 1), (1, -2), (-3, 1), (-3, -2), (0, 1), (0, -2.4), (1.4, -0.6), (-4, -0.6))
]
"""Possible offsets of a label from its point, in points."""
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("agreement", "face_front", "janus", "collapsed"), (0.0, 1.0)),
    "div": (0.0, 2.0), "vendi": (1.0, math.inf),
    "ssim": (-1.0, 1.0), "coverage": (0.0, math.inf), "clip": (0.0, 100.0), "fid": (0.0, math.inf),
    "lpips": (0.0, math.inf), "residual": (0.0, math.inf), "seconds": (0.0, math.inf), "misfit": (0.0, math.inf),
}  # fmt: skip
"""Ranges of the figures; axes do not extend beyond them."""
QUALITIES = {"agreement": "agreement with the prompt", "clip": "CLIP score (100 x cosine)"}


def means(table: list[dict[str, Any]]) -> dict[Key, dict[str, float | None]]:
    """Return the means over prompts of each (method, features, gamma), in the table's order."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault((row["method"], row["features"], row["gamma"]), []).append(row)
    return {key: {name: mean([row[name] for row in rows]) for name in FIGURES} for key, rows in groups.items()}


def curves(table: list[dict[str, Any]]) -> dict[str, list[tuple[float, dict[str, float | None]]]]:
    """Return a curve for each method and feature map, [(gamma, figures)] by gamma. Points without interaction (gamma 0)
    belong to all curves of their method."""
    points = {key: figures for key, figures in means(table).items() if key[0] != "ancestral"}
    found: dict[str, list[tuple[float, dict[str, float | None]]]] = {}
    for method in dict.fromkeys(key[0] for key in points):
        used = dict.fromkeys(key[1] for key in points if key[0] == method)
        names: list[str | None] = [name for name in used if name] or [None]
        for name in names:
            label = method if len(names) == 1 else f"{method}, {name}"
            mine = [(k[2], v) for k, v in points.items() if k[0] == method and k[1] in (None, name)]
            found[label] = sorted(mine, key=lambda point: point[0])
    return found


def quality(table: list[dict[str, Any]]) -> str | None:
    """Return the figure of the vertical axis: the agreement, else the CLIP score, else None."""
    return next((name for name in QUALITIES if any(row[name] is not None for row in table)), None)


def tradeoff(table: list[dict[str, Any]], path: Path) -> None:
    """Plot quality against Div: a curve for each method, labelled with its gammas, and ancestral sampling's point.
    Without a quality plot Div against gamma."""
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained", dpi=140)
    height = quality(table)
    labels: list[Annotation] = []
    for (label, points), marker in zip(curves(table).items(), "osD^vP*Xph" * 9, strict=False):
        known: list[tuple[float, float, float]] = []
        for gamma, f in points:
            x, y = f["div"], f[height] if height else f["div"]
            if x is not None and y is not None:
                known.append((gamma, x, y))
        across = [x if height else gamma for gamma, x, _ in known]
        style: dict[str, Any] = {"label": label, "linewidth": 1.2, "markersize": 5, "clip_on": False}
        (line,) = axis.plot(across, [y for *_, y in known], f"{marker}-", **style)
        for at, (gamma, _, y) in zip(across, known, strict=True):
            text = f"$\\gamma$={gamma:g}" if gamma == known[0][0] else f"{gamma:g}"
            where: dict[str, Any] = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8}
            labels.append(axis.annotate(text, (at, y), color=line.get_color(), **where))
    for (method, *_), found in means(table).items():
        x, y = found["div"], found[height] if height else found["div"]
        if method == "ancestral" and x is not None and y is not None:
            if height:
                axis.plot(x, y, "k*", markersize=13, label="ancestral sampling", clip_on=False)
            else:
                axis.axhline(y, color="black", linestyle="--", linewidth=1, label="ancestral sampling")
    axis.set_xlabel("diversity: Div = 1 - mean cosine similarity" if height else "repulsion $\\gamma$")
    axis.set_ylabel(QUALITIES[height] if height else "diversity: Div (no quality was measured)")
    axis.margins(0.12)
    clip_axes(axis, "div" if height else "gamma", height or "div")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9)
    prompts = len({row["prompt"] for row in table})
    axis.set_title(f"means over {prompts} prompt{'s' * (prompts != 1)}", fontsize=10)
    place_labels(figure, axis, labels)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=figure.dpi, format="png")
    plt.close(figure)
    write_bytes(path, picture.getvalue())


def clip_axes(axis: Axes, across: str, up: str) -> None:
    """Limit the axes to the figures' :data:`BOUNDS`. Draw marks at the edge with ``clip_on=False``."""
    low, high = BOUNDS.get(across, (-math.inf, math.inf))
    left, right = axis.get_xlim()
    axis.set_xlim(max(left, low), min(right, high))
    low, high = BOUNDS.get(up, (-math.inf, math.inf))
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, low), min(top, high))


def place_labels(figure: Figure, axis: Axes, labels: Sequence[Annotation]) -> None:
    """Move each label, one after another, to the offset with the least overlap with other labels, points, lines and the
    legend; near offsets are preferred."""
    if not labels:
        return
    for label in labels:
        label.set_in_layout(False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # fix the layout
    inside, legend = axis.get_window_extent(), axis.get_legend()
    taken = [legend.get_window_extent()] if legend else []
    lines = [np.column_stack(line.get_data()) for line in axis.lines]
    drawn = [axis.transData.transform(points) for points in lines if len(points)]
    spots = np.concatenate([_densify(points) for points in drawn])
    corners = np.concatenate(drawn)

    def cost(label: Annotation, offset: tuple[float, float]) -> float:
        label.set_position(offset)
        box = label.get_window_extent()
        overlap = sum(_area(box, other) for other in taken) / (box.width * box.height)
        within = sum(_within(box, points).sum() * weight for points, weight in ((corners, 1.0), (spots, 0.05)))
        outside = 1 - _area(box, inside) / (box.width * box.height)
        return 10 * (overlap + outside) + within + 0.02 * float(np.hypot(*offset))

    for label in labels:
        best, least = OFFSETS[0], math.inf
        for offset in OFFSETS:
            if 0.02 * float(np.hypot(*offset)) > least + 1e-9:
                continue  # its distance alone costs more; layout of text is slow
            if (found := cost(label, offset)) < least:
                best, least = offset, found
        label.set_position(best)
        taken.append(label.get_window_extent())


def _densify(points: np.ndarray) -> np.ndarray:
    """Return points [M, 2] at most two pixels apart on the polyline through points [n, 2]."""
    steps = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 2)) for a, b in zip(points, points[1:], strict=False)]
    return np.concatenate([points, *steps])


def _area(a: Bbox, b: Bbox) -> float:
    """Return the area of the intersection of two boxes."""
    shared = Bbox.intersection(a, b)
    return shared.width * shared.height if shared else 0.0


def _within(box: Bbox, points: np.ndarray) -> np.ndarray:
    """Return which points [M, 2] a box covers, with a margin of 3 pixels."""
    low, high = np.array([box.x0, box.y0]) - 3, np.array([box.x1, box.y1]) + 3
    return np.all((points > low) & (points < high), axis=1)


def grids(out: Path, table: list[dict[str, Any]], names: dict[str, str]) -> None:
    """Write grids/<prompt>.png: a row of particles for each setting, from the runs in ``out``."""
    for prompt, name in names.items():
        cells, labels, columns = [], [], 1
        for row in (r for r in table if r["prompt"] == prompt):
            images = particles(RunFolder(out / row["folder"], resume=True))
            columns = len(images)
            kind = f", {row['features']}" if row["features"] else ""
            gamma = "" if row["method"] == "ancestral" else f", gamma {row['gamma']:g}"
            cells += [image[None] for image in images]
            labels += [f"{row['method']}{gamma}{kind}"[:32], *[""] * (columns - 1)]
        if cells:
            media.save_png(out / "grids" / f"{name}.png", media.grid(cells, labels=labels, columns=columns))
