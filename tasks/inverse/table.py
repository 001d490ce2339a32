"""What a comparison leaves: compare.json, compare.csv, compare.md and grid.png."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.citations import short
from rsd.media import fit_to, read_image
from rsd.runs import CONFIG, write_bytes, write_json
from rsd.settings import read_yaml
from rsd.summary import mean, write_csv

from .compare import Pair
from .methods import FIELD

Row = dict[str, Any]
CALLS = (
    "unet_forward", "unet_backward", "decoder_forward", "decoder_backward", "encoder_forward", "encoder_backward",
)  # fmt: skip
PARTS = ("mean", "best", "std")
SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "psnr_mean": ("PSNR", "{:.2f}".format),
    "psnr_best": ("best", "{:.2f}".format),
    "common_psnr_mean": ("PSNR at {size} px", "{:.2f}".format),
    "common_psnr_best": ("best", "{:.2f}".format),
    "ssim_mean": ("SSIM", "{:.3f}".format),
    "lpips_mean": ("LPIPS", "{:.3f}".format),
    "fid": ("Frechet", "{:.3g}".format),
    "kid": ("KID", "{:.3g}".format),
    "div": ("Div", "{:.4f}".format),
    "coverage": ("coverage", "{:.2f}".format),
    "agreement": ("agreement", "{:.2f}".format),
    "residual_mean": ("residual/σ_v", "{:.2f}".format),
    "seconds": ("seconds", "{:.1f}".format),
    **{name: (name.replace("_", " ").replace("unet", "UNet"), "{:.0f}".format) for name in CALLS},
    "peak_bytes": ("peak MiB", lambda size: f"{size / 2**20:.0f}"),
}
"""The columns of compare.md: a figure's name in compare.csv, its heading, and how it is written."""


def flat(row: Row) -> Row:
    """A row of compare.json as a line of compare.csv."""
    m = row["metrics"]
    line = {name: row[name] for name in ("task", "method", "image", "prior", "steps", "particles", "folder")}
    for name in ("psnr", "ssim", "lpips", "residual"):
        line |= {f"{name}_{part}": (m.get(name) or {}).get(part) for part in PARTS}
    line |= {"common_size": m["common"]["size"]}
    line |= {f"common_{name}_{part}": m["common"][name][part] for name in ("psnr", "ssim") for part in PARTS}
    cover = m.get("coverage") or {}
    line |= {"div": m.get("div"), "div_features": m.get("div_features")}
    line |= {"coverage": cover.get("mean"), "agreement": cover.get("agreement"), "seconds": row["seconds"]}
    line |= {name: (row["network_calls"] or {}).get(name, 0) for name in CALLS}
    return {**line, "peak_bytes": row["peak_bytes"]}


def write(out: Path, rows: list[Row], pairs: Sequence[Pair], left_out: dict[str, str]) -> None:
    """All four files, from the cells that are done."""
    write_json(out / "compare.json", rows)
    lines = [flat(row) for row in rows]
    write_csv(out / "compare.csv", lines, list(lines[0]) if lines else ["task", "method", "image"])
    text = markdown(lines, pairs, left_out)
    write_bytes(out / "compare.md", text.encode())
    if rows:
        media.save_png(out / "grid.png", grid(out, rows))
    print(text)
    print(f"compare.json, compare.csv, compare.md, grid.png in {out}")


def markdown(lines: list[Row], pairs: Sequence[Pair], left_out: dict[str, str]) -> str:
    """A table a task, a line a method: means over images. Columns that nobody has a figure for are left out."""
    parts = []
    for task in dict.fromkeys(pair.task for pair in pairs):
        table = []
        for pair in (pair for pair in pairs if pair.task == task):
            mine = [line for line in lines if (line["task"], line["method"]) == (task, pair.method)]
            if mine:
                means = {name: mean([line[name] for line in mine]) for name in SHOWN if name not in ("fid", "kid")}
                table.append((pair, len(mine), {**means, **distances(pair)}))
        if table:
            parts.append(_one(task, table, lines[0]["common_size"]))
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in left_out.items()))
    works = dict.fromkeys(work for pair in pairs for work in FIELD[pair.method].works)
    parts.append("Works:\n\n" + "\n".join(f"- {short(work)}" for work in works))
    return "\n\n".join(parts) + "\n"


def _one(task: str, table: list[tuple[Pair, int, Row]], size: int) -> str:
    shown = [name for name in SHOWN if any(means[name] for _, _, means in table)]
    headings = ["method", "prior", "steps", "N", "images", *(SHOWN[name][0].format(size=size) for name in shown)]
    lines = [f"## {task}", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for pair, count, means in table:
        o = pair.options
        cells = [pair.method, o.prior, str(o.steps), str(o.particles), str(count)]
        cells += ["" if means[name] is None else SHOWN[name][1](means[name]) for name in shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def distances(pair: Pair) -> dict[str, float | None]:
    """The Frechet and kernel distances in a pair's summary.json, or None."""
    file = pair.folder / "summary.json"
    held = (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}).get("fid") or {}
    return {"fid": held.get("value"), "kid": held.get("kid")}


def grid(out: Path, rows: list[Row], most: int = 4) -> Any:
    """For each task its first image: a row a method, of the measurement, the truth and the answers."""
    cells: list[Any] = []
    labels: list[str] = []
    columns = 2 + min(most, max(row["particles"] for row in rows))
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        for row in (row for row in mine if row["image"] == mine[0]["image"]):
            folder = out / row["folder"]
            answers = [read_image(path) for path in sorted((folder / "particles").glob("*.png"))[: columns - 2]]
            held = read_yaml(folder / CONFIG)
            truth = fit_to(read_image(held["images"][0]), answers[0].shape[-1], held["fit"])[0]
            pictures = [read_image(folder / "measurement.png"), truth, *answers]
            pictures += [torch.ones_like(truth)] * (columns - len(pictures))
            cells += pictures
            labels += [task, "truth", row["method"], *[""] * (columns - 3)]
    return media.grid(cells, labels=labels, columns=columns)
