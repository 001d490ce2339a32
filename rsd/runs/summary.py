"""What several runs share: one folder that holds them, their pictures, means and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from rsd.media import read_image
from rsd.runs.folder import RunFolder, write_bytes


def particles(folder: RunFolder) -> torch.Tensor:
    """The answers of a finished run, [N, 3, H, W] in [-1, 1], as its pictures hold them."""
    return torch.cat([read_image(p) for p in sorted((folder.path / "particles").glob("*.png"))])


def mean(values: list[float | None]) -> float | None:
    """Over the values that are known; None if there are none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def means_told(rows: list[dict[str, Any]], means: dict[str, float | None]) -> str:
    """Means of rows in a line; where some rows lack a figure, of how many it is."""
    told = []
    for name, value in means.items():
        if value is not None:
            number = sum(row[name] is not None for row in rows)
            told.append(f"{name} {value:.3g}" + (f" (of {number} of {len(rows)})" if number < len(rows) else ""))
    return ", ".join(told)


def write_csv(path: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """A table, in one piece; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def one_network(names: Collection[str | None]) -> str | None:
    """Why figures measured on these networks have no mean, or None if they have one."""
    if len(set(names)) < 2:
        return None
    told = ", ".join(sorted(str(name) for name in set(names)))
    return f"measured on different networks ({told}); go on with --resume --div-features and one of their names"
