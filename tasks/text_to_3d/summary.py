"""What several prompts leave together: a row each, and the means over prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsd.runs.folder import RunFolder, write_json
from rsd.runs.summary import mean, means_told, one_network, write_csv

FIGURES = ("div", "agreement", "face_front", "janus", "seconds")
COLUMNS = (*FIGURES, "div_features")


def summarise(out: Path, folders: dict[str, RunFolder], failures: dict[str, str]) -> dict[str, float | None]:
    """summary.json and summary.csv; the means over prompts, of Div only if one network measured it."""
    rows: list[dict[str, Any]] = []
    for prompt, folder in folders.items():
        found = folder.metrics()
        rows.append({"prompt": prompt, "folder": folder.path.name, **{name: found.get(name) for name in COLUMNS}})
    means = {name: mean([row[name] for row in rows]) for name in FIGURES}
    reasons: dict[str, str] = {}
    if mixed := one_network([row["div_features"] for row in rows if row["div"] is not None]):
        means["div"], reasons["div"] = None, mixed
    write_json(out / "summary.json", {"prompts": rows, "mean": means, "failed": failures, "reasons": reasons})
    write_csv(out / "summary.csv", rows, ["prompt", "folder", *COLUMNS])
    shown = means_told(rows, means)
    print(f"{len(rows)} done, {len(failures)} failed; means over prompts: {shown}; {out / 'summary.json'}")
    return means
