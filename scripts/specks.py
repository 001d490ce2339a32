"""How clean the pictures of a sweep are: the high-pass energy of their backgrounds beside that of Ancestral's pictures.

    rsd sweep --methods vsd,sds --gammas 0,20 --out runs/sweep
    python -m scripts.specks runs/sweep

Print a table with the means over prompts of Div, agreement and coverage, the median of the energy
(:func:`rsd.metrics.background_energy`) and of its ratio to Ancestral's on the same prompt, and the share of pictures
with more than ten times Ancestral's energy. Medians, because an afro reaches into the corners and has most of the
energy of all.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from rsd.media import read_image
from rsd.metrics import background_energy

FIGURES = ("div", "agreement", "coverage")
MANY = 10.0
"""Times Ancestral's energy that a picture with specks has."""


def energies(folder: Path) -> torch.Tensor:
    """Return the background energy of each of a run's pictures, [N]."""
    pictures = [read_image(path) for path in sorted((folder / "particles").glob("*.png"))]
    return background_energy(torch.cat(pictures))


def table(sweep: Path) -> list[str]:
    """Return the lines of the table, in the order of sweep.csv."""
    figures: dict[str, list[list[float]]] = {}
    found: dict[str, dict[str, torch.Tensor]] = {}
    with open(sweep / "sweep.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"] if row["method"] == "ancestral" else f"{row['method']}, γ = {float(row['gamma']):g}"
            figures.setdefault(name, []).append([float(row[figure] or "nan") for figure in FIGURES])
            found.setdefault(name, {})[row["prompt"]] = energies(sweep / row["folder"])
    lines = [
        "| method | prompts | Div | agreement | coverage | background energy | of Ancestral's | pictures with specks |",
        "|---|" + "---|" * 7,
    ]
    clean = {prompt: pictures.mean() for prompt, pictures in found["ancestral"].items()}
    for name, by_prompt in found.items():
        div, agreement, coverage = torch.tensor(figures[name]).nanmean(0).tolist()
        mean = torch.stack([pictures.mean() for pictures in by_prompt.values()])
        ratio = torch.stack([pictures.mean() / clean[prompt] for prompt, pictures in by_prompt.items()])
        specked = torch.cat([pictures > MANY * clean[prompt] for prompt, pictures in by_prompt.items()])
        lines.append(
            f"| {name} | {len(by_prompt)} | {div:.3f} | {agreement:.3f} | {coverage:.2f} | "
            f"{mean.quantile(0.5):.3f} | {ratio.quantile(0.5):.2f} | {specked.double().mean():.0%} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of a finished rsd sweep")
    print("\n".join(table(parser.parse_args(argv).sweep)))


if __name__ == "__main__":
    main()
