"""How clean the pictures of a sweep are: the high-pass energy of their backgrounds beside that of Ancestral's pictures.

    rsd sweep --methods vsd,sds --gammas 0,20 --out runs/sweep
    python -m scripts.specks runs/sweep

Print a table with the means over prompts of Div, agreement, coverage and energy
(:func:`rsd.metrics.background_energy`).
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


def energy(folder: Path) -> float:
    """Return the mean background energy of a run's pictures."""
    pictures = [read_image(path) for path in sorted((folder / "particles").glob("*.png"))]
    return float(background_energy(torch.cat(pictures)).mean())


def table(sweep: Path) -> list[str]:
    """Return the lines of the table, in the order of sweep.csv."""
    groups: dict[str, list[list[float]]] = {}
    with open(sweep / "sweep.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"] if row["method"] == "ancestral" else f"{row['method']}, γ = {float(row['gamma']):g}"
            found = [float(row[figure] or "nan") for figure in FIGURES]
            groups.setdefault(name, []).append([*found, energy(sweep / row["folder"])])
    means = {name: torch.tensor(rows).nanmean(0).tolist() for name, rows in groups.items()}
    clean = means["ancestral"][-1]
    lines = [
        "| method | prompts | Div | agreement | coverage | background energy | of Ancestral's |",
        "|---|" + "---|" * 6,
    ]
    for name, (div, agreement, coverage, specks) in means.items():
        lines.append(
            f"| {name} | {len(groups[name])} | {div:.3f} | {agreement:.3f} | {coverage:.2f} | {specks:.3f} | "
            f"{specks / clean:.2f} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of a finished rsd sweep")
    print("\n".join(table(parser.parse_args(argv).sweep)))


if __name__ == "__main__":
    main()
