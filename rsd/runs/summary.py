"""The summary of several runs in one folder: tables and means."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd.media import read_image
from rsd.runs.folder import SAMPLES, RunFolder, write_bytes, write_json


def particles(folder: RunFolder) -> torch.Tensor:
    """Read the samples of a finished run, [N, 3, H, W] in [-1, 1], from its 8-bit pictures."""
    return torch.cat([read_image(p) for p in sorted((folder.path / SAMPLES).glob("[0-9]*"))])


def summarise(
    out: Path, what: str, rows: list[dict[str, Any]], figures: Sequence[str], failures: Mapping[str, str],
    together: Mapping[str, tuple[Any, str | None]] | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """Write summary.json and summary.csv with a row per run, and print the means of ``figures`` over ``what``. Return
    the means; Div has one only if the same network measured all. ``together``: figures of all runs together, and why
    each is None."""
    means = {name: mean([row[name] for row in rows]) for name in figures}
    whole = together or {}
    reasons = {name: why for name, (_, why) in whole.items() if why}
    if mixed := mixed_networks([row.get("div_features") for row in rows if row["div"] is not None]):
        for name in {"div", "vendi"} & set(means):
            means[name], reasons[name] = None, mixed
    values = {name: value for name, (value, _) in whole.items()}
    write_json(out / "summary.json", {what: rows, "mean": means, **values, "failed": failures, "reasons": reasons})
    write_csv(out / "summary.csv", rows, list(rows[0]) if rows else [what.rstrip("s"), *figures])
    shown = format_means(rows, {name: value for name, value in means.items() if not name.endswith("_std")})
    for name, value in values.items():
        shown += f", {name} on {value['features']} {value['value']:.3g}" if value else ""
    shown = f"means over {what}: {shown}; " if shown else ""
    print(f"{len(rows)} done, {len(failures)} failed; {shown}{out / 'summary.json'}")
    return means


def mean(values: list[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def format_means(rows: list[dict[str, Any]], means: dict[str, float | None]) -> str:
    """Format means in a line; if some rows have no value, with the number of rows that do."""
    parts = []
    for name, value in means.items():
        if value is not None:
            number = sum(row[name] is not None for row in rows)
            parts.append(f"{name} {value:.3g}" + (f" (of {number} of {len(rows)})" if number < len(rows) else ""))
    return ", ".join(parts)


def write_csv(path: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Write a table atomically; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def mixed_networks(names: Collection[str | None]) -> str | None:
    """Return why figures measured with these networks have no mean; None if they have one."""
    if len(set(names)) < 2:
        return None
    listed = ", ".join(sorted(str(name) for name in set(names)))
    return f"measured on different networks ({listed}); use --resume --div-features and one of their names"
