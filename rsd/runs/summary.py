"""What several runs share: one folder that holds them, their pictures, means and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd.media import read_image
from rsd.runs.folder import RunFolder, write_bytes, write_json


def particles(folder: RunFolder) -> torch.Tensor:
    """The answers of a finished run, [N, 3, H, W] in [-1, 1], as its pictures hold them."""
    return torch.cat([read_image(p) for p in sorted((folder.path / "particles").glob("*.png"))])


def summarise(
    out: Path, what: str, rows: list[dict[str, Any]], figures: Sequence[str], failures: Mapping[str, str],
    together: Mapping[str, tuple[Any, str | None]] | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """Write summary.json and summary.csv of several runs, a row each, and print them in a line; the means of
    ``figures`` over ``what``, of Div only if one network measured it. ``together``: figures of all runs and why each is
    None."""
    means = {name: mean([row[name] for row in rows]) for name in figures}
    whole = together or {}
    reasons = {name: why for name, (_, why) in whole.items() if why}
    if mixed := one_network([row.get("div_features") for row in rows if row["div"] is not None]):
        means["div"], reasons["div"] = None, mixed
    values = {name: value for name, (value, _) in whole.items()}
    write_json(out / "summary.json", {what: rows, "mean": means, **values, "failed": failures, "reasons": reasons})
    write_csv(out / "summary.csv", rows, list(rows[0]) if rows else [what.rstrip("s"), *figures])
    shown = means_told(rows, {name: value for name, value in means.items() if not name.endswith("_std")})
    for name, value in values.items():
        shown += f", {name} on {value['features']} {value['value']:.3g}" if value else ""
    print(f"{len(rows)} done, {len(failures)} failed; means over {what}: {shown}; {out / 'summary.json'}")
    return means


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
