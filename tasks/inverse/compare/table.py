"""Write the files of a comparison: compare.json, compare.csv, compare.md and grid.png."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.media import read_image
from rsd.runs.citations import short
from rsd.runs.folder import write_bytes, write_json
from rsd.runs.summary import mean, write_csv

from ..methods import METHODS
from ..problem import truth
from .pairs import Pair

Row = dict[str, Any]
SCORES = ("psnr", "ssim", "lpips", "dists", "residual")
CALLS = (
    "unet_forward", "unet_backward", "decoder_forward", "decoder_backward", "encoder_forward", "encoder_backward",
)  # fmt: skip
PARTS = ("mean", "best", "std")
COMMON: dict[str, tuple[str, Callable[[float], str]]] = {
    "common_psnr_mean": ("PSNR", "{:.2f}".format),
    "common_psnr_best": ("best", "{:.2f}".format),
    "common_ssim_mean": ("SSIM", "{:.3f}".format),
    "fid": ("Frechet", "{:.3g}".format),
    "kid": ("KID", "{:.3g}".format),
    "common_div": ("Div", "{:.4f}".format),
    "common_vendi": ("Vendi", "{:.2f}".format),
    "common_coverage": ("coverage", "{:.2f}".format),
    "common_agreement": ("agreement", "{:.2f}".format),
}
"""The columns of compare.md that compare images at one size: by name in compare.csv, the heading and the format."""
SHOWN = {
    **COMMON,
    "lpips_mean": ("LPIPS", "{:.3f}".format),
    "dists_mean": ("DISTS", "{:.3f}".format),
    "residual_mean": ("residual/σ_v", "{:.2f}".format),
    "seconds": ("seconds", "{:.1f}".format),
    **{name: (name.replace("_", " ").replace("unet", "UNet"), "{:.0f}".format) for name in CALLS},
    "peak_bytes": ("peak MiB", lambda size: f"{size / 2**20:.0f}"),
}
"""All columns of compare.md."""


def flat(row: Row) -> Row:
    """Return a row of compare.json as a line of compare.csv."""
    m, common, fid = row["metrics"], row["metrics"]["common"], row["fid"] or {}
    line = {name: row[name] for name in ("task", "method", "image", "prior", "steps", "particles", "folder")}
    line |= {f"{name}_{part}": (m.get(name) or {}).get(part) for name in SCORES for part in PARTS}
    line |= {"common_size": common["size"]}
    line |= {f"common_{name}_{part}": common[name][part] for name in ("psnr", "ssim") for part in PARTS}
    line |= _spread(m) | {f"common_{name}": value for name, value in _spread(common).items()}
    line |= {"fid": fid.get("value"), "kid": fid.get("kid"), "fid_features": fid.get("features")}
    line |= {"seconds": row["seconds"], **{name: (row["network_calls"] or {}).get(name, 0) for name in CALLS}}
    return {**line, "peak_bytes": row["peak_bytes"], "run_as": row["run_as"], "settings": row["settings"]}


def _spread(m: Row) -> Row:
    cover = m.get("coverage") or {}
    found = {name: m.get(name) for name in ("div", "vendi", "div_features")}
    return {**found, "coverage": cover.get("mean"), "agreement": cover.get("agreement")}


def write(out: Path, rows: list[Row], pairs: Sequence[Pair], left_out: dict[str, str]) -> None:
    """Write all four files from the finished cells."""
    write_json(out / "compare.json", rows)
    lines = [flat(row) for row in rows]
    write_csv(out / "compare.csv", lines, list(lines[0]) if lines else ["task", "method", "image"])
    text = markdown(lines, pairs, left_out)
    write_bytes(out / "compare.md", text.encode())
    if not rows:
        print(f"nothing was restored, so compare.md in {out} has no table")
        return
    media.save_png(out / "grid.png", grid(out, rows, pairs))
    print(text)
    print(f"compare.json, compare.csv, compare.md, grid.png in {out}")


def markdown(lines: list[Row], pairs: Sequence[Pair], left_out: dict[str, str]) -> str:
    """Return a table per task with a line per method: means over images. Columns without any figure are omitted."""
    parts = []
    for task in dict.fromkeys(line["task"] for line in lines):
        methods: dict[str, list[Row]] = {}
        for line in (line for line in lines if line["task"] == task):
            methods.setdefault(line["method"], []).append(line)
        parts.append(_one(task, list(methods.values())))
    if lines:
        parts.append(_sizes(lines))
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in left_out.items()))
    works = dict.fromkeys(work for pair in pairs for work in METHODS[pair.method].works)
    parts.append("Works:\n\n" + "\n".join(f"- {short(work)}" for work in works))
    return "\n\n".join(parts) + "\n"


def _one(task: str, methods: list[list[Row]]) -> str:
    """Return a task's table. ``methods``: the lines of each method."""
    means = [{name: mean([line[name] for line in mine]) for name in SHOWN} for mine in methods]
    shown = [name for name in SHOWN if any(row[name] is not None for row in means)]
    headings = ["method", "prior", "steps", "N", "images", *(SHOWN[name][0] for name in shown), "settings"]
    lines = [f"## {task}", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for mine, row in zip(methods, means, strict=True):
        about = mine[0]
        cells = [about["method"], about["prior"], str(about["steps"]), str(about["particles"]), str(len(mine))]
        cells += ["" if row[name] is None else SHOWN[name][1](row[name]) for name in shown]
        lines.append(f"| {' | '.join([*cells, about['settings'].removesuffix('.yaml')])} |")
    others = {(mine[0]["run_as"], mine[0]["prior"]) for mine in methods if mine[0]["run_as"] != task}
    lines += [
        f"\n{task} is {own} for {prior}, so that all measure the same number of pixels."
        for own, prior in sorted(others)
    ]
    return "\n".join(lines)


def _sizes(lines: list[Row]) -> str:
    """Return a sentence on which figures compare images at which size."""
    names = [name for name in COMMON if any(line[name] is not None for line in lines)]
    headings = ", ".join(COMMON[name][0] for name in names if COMMON[name][0] != "best")
    size = lines[0]["common_size"]
    if size is None:
        return "All figures: of whole images, at their own size. If steps differ, each setting has its own budget."
    return (
        f"{headings}: of images at {size} px, whatever the prior's size; all else, and the columns "
        "of compare.csv without common_, at the prior's size. If steps differ, each setting has its own budget."
    )


def grid(out: Path, rows: list[Row], pairs: Sequence[Pair], most: int = 4) -> Any:
    """Return a grid with each task's first image: a row per method of measurement, clean image and samples."""
    cells: list[Any] = []
    labels: list[str] = []
    jobs = {pair.cell(job).path: job for pair in pairs for job in pair.jobs}
    columns = 2 + min(most, max(row["particles"] for row in rows))
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        for row in (row for row in mine if row["image"] == mine[0]["image"]):
            folder = out / row["folder"]
            samples = [read_image(path) for path in sorted((folder / "particles").glob("*.png"))[: columns - 2]]
            clean = truth((job := jobs[folder]).path, job.options, job.name)
            pictures = [read_image(folder / "measurement.png"), clean, *samples]
            pictures += [torch.ones_like(clean)] * (columns - len(pictures))
            cells += pictures
            labels += [task, "truth", row["method"], *[""] * (columns - 3)]
    return media.grid(cells, labels=labels, columns=columns)
