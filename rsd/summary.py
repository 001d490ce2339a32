"""What several runs share: one folder that holds them, their pictures, means and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from rsd.media import read_image
from rsd.runs import CONFIG, RunFolder, write_bytes

SUMMARIES = ("summary.json", "summary.csv")


def check_own(path: Path, names: Collection[str]) -> None:
    """Raise ValueError, in one sentence, if a folder holds what is not in ``names`` (or a half-written one of them);
    OSError if it cannot be read."""
    if not path.is_dir():
        return
    known = {*names, *(f".{name}.part" for name in names)}
    others = sorted(p.name for p in path.iterdir() if p.name not in known)
    if others:
        raise ValueError(f"The output folder {path} holds other files ({others[0]}, ...); choose another --out.")


def check_collection(path: Path, *, resume: bool) -> None:
    """Raise ValueError, in one sentence, unless a folder can hold several runs: it is not there, is empty, or holds
    runs and their summary, and ``resume`` is given. Whether it can be written is the runs' affair."""
    if not path.is_dir():
        return
    if (path / CONFIG).exists():
        raise ValueError(f"The output folder {path} is that of a single run; choose another --out.")
    runs = [p.name for p in path.iterdir() if p.is_dir() and _is_run(p)]
    check_own(path, {*SUMMARIES, *runs})
    if runs and not resume:
        raise ValueError(f"The output folder {path} holds other runs; choose another --out, or go on with --resume.")


def _is_run(path: Path) -> bool:
    held = {p.name for p in path.iterdir()}
    return not held - {f".{CONFIG}.part"} or CONFIG in held


def particles(folder: RunFolder) -> torch.Tensor:
    """The answers of a finished run, [N, 3, H, W] in [-1, 1], as its pictures hold them."""
    return torch.cat([read_image(p) for p in sorted((folder.path / "particles").glob("*.png"))])


def mean(values: list[float | None]) -> float | None:
    """Over the values that are known; None if there are none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


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
