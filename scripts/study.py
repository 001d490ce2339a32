"""Test the paper's claims on held-out heads: one table with paired confidence intervals. Resumes if interrupted.

With --figures FILE, heads whose figures FILE has are not run again, and those of the new ones are added to it.
docs/half-face.json and docs/other-tasks.json are such files.

python -m scripts.study half-face            32 frontal heads, every method, several gammas
python -m scripts.study presets --heads 2    half face and SR x4 with 50, 100, 200 and 1000 steps
python -m scripts.study cheap --heads 2      half face with a cheaper repulsion
python -m scripts.study proximal             the same heads, PSLD against the default method
python -m scripts.study others --heads 8     the other tasks, the default method against the best of the others
python -m scripts.study gammas --heads 8     half a face in 30 steps, repulsion by weight and window
python -m scripts.study noise --heads 8      half a face by RLSD, fresh noise against noise that each particle keeps
python -m scripts.study tasks --heads 8      SR x4, random 80%, motion blur, HDR, phase retrieval
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from rsd.heads.command import main as write_heads
from rsd.media import read_image
from rsd.runs.flags import Flag, script
from rsd.runs.settings import tokens
from rsd.tasks.inverse.head import run
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.reproduce.experiments.tables import ADAM, THROUGHOUT
from rsd.tasks.reproduce.verdict import student

FIGURES = {
    "PSNR mean [dB]": lambda m: m["psnr"]["mean"],
    "PSNR best of N [dB]": lambda m: m["psnr"]["best"],
    "PSNR hidden [dB]": lambda m: m.get("hidden"),
    "PSNR known [dB]": lambda m: m.get("known"),
    "SSIM mean": lambda m: m["ssim"]["mean"],
    "Div": lambda m: m["div"],
    "Vendi": lambda m: m.get("vendi"),
    "coverage": lambda m: (m["coverage"] or {}).get("mean"),
    "agreement": lambda m: (m["coverage"] or {}).get("agreement"),
    "residual mean": lambda m: m["residual"]["mean"],
    "seconds": lambda m: m["seconds"],
}
"""The columns of the table, from a run's metrics."""
Figures = dict[str, float | None]
"""The figures of one head: a value per column; columns may be missing in a file."""

CHEAP: dict[str, list[str]] = {
    "exact": [], "small decoder": ["--force-decoder", "tiny"], "every 2nd step": ["--repel-every", "2"],
    "every 3rd step": ["--repel-every", "3"],
    "32 px": ["--feature-size", "32"], "window [0.5, 1]": ["--window", "0.5", "1"], "bfloat16": ["--autocast"],
}  # fmt: skip

REPELLING = ((1, 0.3, 0.9), (4, 0.5, 0.8), (8, 0.5, 0.8), (4, 0.3, 0.9), (16, 0.3, 0.9))
"""gammas: the weight and the window of the repulsion in each row."""


@dataclass
class Study:
    """Restore held-out heads with several methods and compare them per head."""

    name: Annotated[
        Literal["half-face", "proximal", "others", "gammas", "noise", "tasks", "presets", "cheap"],
        Flag(positional=True),
    ]
    """Which comparison."""
    out: Path = Path("runs/study")
    """Folder for runs and tables."""
    heads: int = 32
    """Number of held-out frontal heads."""
    gammas: tuple[float, ...] = (6, 10, 100)
    """half-face: weights of the repulsion, besides 0."""
    split: Literal["test", "validation"] = "test"
    """validation: for tuning; test: for reporting."""
    steps: int | None = None
    """Number of steps (default: the packaged one)."""
    particles: int | None = None
    """Number of samples of a head (default: the packaged one)."""
    figures: Path | None = None
    """A JSON file of the figures of each row and head, to take those that are there from and to add the others to."""
    rows: tuple[str, ...] = ()
    """Run only these rows, e.g. to split the work between processes; the table then has only them (default: all)."""


def variants(o: Study) -> dict[str, list[str]]:
    """Return the flags of each row of the table by name; the others are compared with the first."""
    if o.name == "presets":
        both = ("inpaint_half_face", "sr4")
        return {f"{t} {s} steps": ["--task", t, "--preset", str(s)] for t in both for s in (50, 100, 200, 1000)}
    if o.name == "cheap":
        paper = ["--task", "inpaint_half_face", "--method", "rlsd", *tokens(ADAM), "--gamma", "6"]
        always = tokens(THROUGHOUT)
        return {name: [*paper, *([] if "--window" in own else always), *own] for name, own in CHEAP.items()}
    if o.name == "proximal":
        task, own = ["--task", "inpaint_half_face"], ["--method", "proximal-guidance"]
        rows = {"psld": [*task, "--method", "psld"], "proximal-guidance": [*task, *own, "--gamma", "0"]}
        short = [*task, *own, "--gamma", "0", "--steps", "20"]
        rows["proximal-guidance 20 steps"] = short
        rows["proximal-guidance 20 steps draw 8"] = [*short, "--draw", "8", "--keep", "4"]
        rows["proximal-guidance repulsion"] = [*task, *own]
        rows["proximal-guidance heads-flow"] = [*task, *own, "--gamma", "0", "--prior", "heads-flow"]
        return rows
    if o.name == "gammas":
        short = ["--task", "inpaint_half_face", "--method", "proximal-guidance", "--steps", "30"]
        rows = {"gamma 0": [*short, "--gamma", "0"]}
        for gamma, *window in REPELLING:
            name = f"gamma {gamma} window {window[0]} {window[1]}"
            rows[name] = [*short, "--gamma", str(gamma), "--window", *map(str, window)]
        return rows
    if o.name == "noise":
        paper = ["--task", "inpaint_half_face", "--method", "rlsd"]
        return {noise: [*paper, "--noise", noise] for noise in ("fresh", "reused")}
    if o.name == "others":
        others = [(task, "rlsd") for task in ("sr4", "inpaint_random", "deblur_motion", "phase_retrieval")]
        others.append(("hdr", "nonaug"))
        return {
            f"{task} {method}": ["--task", task, "--method", method, "--gamma", "0"]
            for task, other in others
            for method in (other, "proximal-guidance")
        }
    if o.name == "tasks":
        tasks = ("sr4", "inpaint_random", "deblur_motion", "hdr")
        methods = {"rlsd": ["--gamma", "0"], "latent-red-diff": []}
        pairs = {f"{t} {m}": ["--task", t, "--method", m, *own] for t in tasks for m, own in methods.items()}
        phases = {f"phase_retrieval {m}": ["--task", "phase_retrieval", "--method", m] for m in ("rlsd", "nonaug")}
        return {**pairs, **phases}
    task, paper = ["--task", "inpaint_half_face", "--method"], [*tokens(ADAM), *tokens(THROUGHOUT)]
    rows = {"nonrepuls": [*task, "nonrepuls", *tokens(ADAM)]}
    rows |= {f"rlsd gamma {g:g}": [*task, "rlsd", *paper, "--gamma", f"{g:g}"] for g in o.gammas}
    middle = f"{o.gammas[len(o.gammas) // 2]:g}"
    rows[f"hybrid gamma {middle}"] = [*task, "hybrid", *paper, "--gamma", middle]
    rows[f"nonaug gamma {middle}"] = [*task, "nonaug", "--gamma", middle]
    rows["latent-red-diff"] = [*task, "latent-red-diff"]
    return rows


def chosen(o: Study) -> dict[str, list[str]]:
    """Return the rows to run. Raises ValueError for an unknown row."""
    rows = variants(o)
    for name in o.rows:
        if name not in rows:
            raise ValueError(f'The study {o.name} has no row "{name}"; there are {", ".join(rows)}.')
    return {name: flags for name, flags in rows.items() if not o.rows or name in o.rows}


def measured(file: Path, clean: Path, observed: torch.Tensor | None) -> Figures:
    """Return a run's figures; for inpainting also the mean PSNR over its hidden and its known pixels."""
    metrics = json.loads(file.read_text())
    if observed is not None:
        images = torch.cat([read_image(p) for p in sorted((file.parent / "particles").glob("*.png"))])
        error = ((images - read_image(clean / file.parent.name)) / 2).square().mean(1, keepdim=True)
        for name, part in (("hidden", ~observed), ("known", observed)):
            means = (error * part).sum((1, 2, 3)) / part.sum()
            metrics[name] = float((-10 * means.clamp(min=1e-7).log10()).mean())
    found = {name: get(metrics) for name, get in FIGURES.items()}
    return {name: value if value is None else float(f"{value:.5g}") for name, value in found.items()}


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the mean difference and the half-width of its 95% interval (Student's, paired over heads)."""
    half = student(len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean()), float(half)


def base_of(study: str, names: Sequence[str]) -> dict[str, str]:
    """Return the row that each row is compared with: the first one, in ``others`` the first one of its task."""
    same = {name: [n for n in names if study != "others" or n.split()[0] == name.split()[0]] for name in names}
    return {name: rows[0] for name, rows in same.items()}


def table(results: dict[str, dict[str, Figures]], bases: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row per variant: means over heads, and differences from its row of ``bases`` with intervals."""
    rows = []
    for name, found in results.items():
        base = results[bases[name]]
        row: dict[str, Any] = {"variant": name, "heads": len(found)}
        for figure in FIGURES:
            known = {k: value for k, m in found.items() if (value := m.get(figure)) is not None}
            row[figure] = float(np.mean(list(known.values()))) if known else None
            pairs = [(value, other) for k, value in known.items() if (other := base.get(k, {}).get(figure)) is not None]
            if found is not base and len(pairs) > 1:
                row[f"{figure} difference"] = interval(np.array([value - other for value, other in pairs]))
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], paired: bool) -> str:
    """Format the table; ``paired``: with differences in brackets."""
    lines = ["| variant | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for row in rows:
        cells = []
        for figure in FIGURES:
            text = "-" if row[figure] is None else f"{row[figure]:.3g}"
            if paired and f"{figure} difference" in row:
                mean, half = row[f"{figure} difference"]
                text += f" ({mean:+.2f} ± {half:.2f})"
            cells.append(text)
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run_missing(flags: list[str], out: Path, heads: Sequence[Path], extra: Sequence[str]) -> dict[str, Figures]:
    """Restore ``heads`` with ``flags``, those that are not finished in ``out``, and return the figures of each."""
    if not heads:
        return {}
    # In a folder, since a single image has no folder of its own in the output.
    given = out.with_name(f"{out.name}-heads")
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir(parents=True)
    for head in heads:
        shutil.copy(head, given)
    options, _ = parse([str(given), "--clean", "--resume", "--out", str(out), *flags, *extra])
    run(options)
    observed = make_operator(options.task, size=64).observed if options.task == "inpaint_half_face" else None
    files = [out / head.name / "metrics.json" for head in heads]
    return {f.parent.name: measured(f, given, observed) for f in files if f.exists()}


def write_figures(file: Path, known: dict[str, dict[str, Figures]]) -> None:
    """Write the figures of each row and head, a line per head."""
    rows = []
    for name, heads in known.items():
        lines = ",\n".join(f"  {json.dumps(head)}: {json.dumps(m)}" for head, m in sorted(heads.items()))
        rows.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    file.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def main() -> None:
    """Run the missing rows, then write the table."""
    o = script(Study, "python -m scripts.study")
    folder = o.out / f"heads-{o.split}-{o.heads}"
    write_heads(["--out", str(folder), "--number", str(o.heads), "--split", o.split])
    heads = sorted(folder.glob("*.png"))
    file = o.figures or o.out / f"{o.name}-heads.json"
    known: dict[str, dict[str, Figures]] = json.loads(file.read_text()) if o.figures and file.exists() else {}
    results: dict[str, dict[str, Figures]] = {}
    for name, flags in chosen(o).items():
        print(f"== {name}", flush=True)
        had = known.setdefault(name, {})
        missing = [head for head in heads if head.name not in had]
        extra = [f"--{key}={value}" for key in ("steps", "particles") if (value := getattr(o, key))]
        had |= run_missing(flags, o.out / o.name / name.replace(" ", "-"), missing, extra)
        results[name] = {head.name: had[head.name] for head in heads if head.name in had}
        write_figures(file, known)
    rows = table(results, base_of(o.name, list(results)))
    (o.out / f"{o.name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = markdown(rows, paired=o.name not in ("tasks", "presets"))
    (o.out / f"{o.name}.md").write_text(text)
    with open(o.out / f"{o.name}.csv", "w", newline="") as csv_file:
        writer = csv.DictWriter(csv_file, ["variant", "heads", *FIGURES], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    print(text)


if __name__ == "__main__":
    main()
