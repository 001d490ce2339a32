"""The sweep's pictures: quality against diversity (the paper's Fig. 31), and settings side by side (Figs 32, 33)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from rsd import media  # noqa: E402
from rsd.runs import RunFolder  # noqa: E402

from .summary import FIGURES, mean, particles  # noqa: E402

Key = tuple[str, str | None, float]
QUALITIES = {"agreement": "agreement with the prompt", "clip": "CLIP score (100 x cosine)"}


def means(table: list[dict[str, Any]]) -> dict[Key, dict[str, float | None]]:
    """Means over prompts of each (method, features, gamma), in the table's order."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault((row["method"], row["features"], row["gamma"]), []).append(row)
    return {key: {name: mean([row[name] for row in rows]) for name in FIGURES} for key, rows in groups.items()}


def curves(table: list[dict[str, Any]]) -> dict[str, list[tuple[float, dict[str, float | None]]]]:
    """One curve a method and feature map, [(gamma, figures)] by gamma; where nothing interacts (gamma 0) a point
    belongs to all of the method's curves."""
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
    """What the vertical axis shows: the agreement, else CLIP's score, else nothing."""
    return next((name for name in QUALITIES if any(row[name] is not None for row in table)), None)


def tradeoff(table: list[dict[str, Any]], path: Path) -> None:
    """Quality against Div, a curve a method with its gammas beside the points, Ancestral's point. Without a quality:
    Div against gamma."""
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    height = quality(table)
    for (label, points), marker in zip(curves(table).items(), "osD^vP*Xph" * 9, strict=False):
        known: list[tuple[float, float, float]] = []
        for gamma, f in points:
            x, y = f["div"], f[height] if height else f["div"]
            if x is not None and y is not None:
                known.append((gamma, x, y))
        across = [x if height else gamma for gamma, x, _ in known]
        (line,) = axis.plot(across, [y for *_, y in known], f"{marker}-", label=label, linewidth=1.2, markersize=5)
        for at, (gamma, _, y) in zip(across, known, strict=True):
            text = f"$\\gamma$={gamma:g}" if gamma == known[0][0] else f"{gamma:g}"
            axis.annotate(text, (at, y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=line.get_color())
    for (method, *_), found in means(table).items():
        x, y = found["div"], found[height] if height else found["div"]
        if method == "ancestral" and x is not None and y is not None:
            if height:
                axis.plot(x, y, "k*", markersize=13, label="ancestral sampling")
            else:
                axis.axhline(y, color="black", linestyle="--", linewidth=1, label="ancestral sampling")
    axis.set_xlabel("diversity: Div = 1 - mean cosine similarity" if height else "repulsion $\\gamma$")
    axis.set_ylabel(QUALITIES[height] if height else "diversity: Div (no quality was measured)")
    axis.margins(0.1)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9)
    prompts = len({row["prompt"] for row in table})
    axis.set_title(f"means over {prompts} prompt{'s' * (prompts != 1)}", fontsize=10)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def grids(out: Path, table: list[dict[str, Any]], names: dict[str, str]) -> None:
    """grids/<prompt>.png: a row of particles for each setting, of runs in ``out``."""
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
