"""What several prompts leave together: a row each, and the means over prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsd.runs import RunFolder, write_json
from rsd.summary import mean, write_csv

FIGURES = ("div", "agreement", "janus", "seconds")


def summarise(out: Path, folders: dict[str, RunFolder], failures: dict[str, str]) -> dict[str, float | None]:
    """summary.json and summary.csv; the means over prompts."""
    rows: list[dict[str, Any]] = []
    for prompt, folder in folders.items():
        found = folder.metrics()
        rows.append({"prompt": prompt, "folder": folder.path.name, **{name: found[name] for name in FIGURES}})
    means = {name: mean([row[name] for row in rows]) for name in FIGURES}
    write_json(out / "summary.json", {"prompts": rows, "mean": means, "failed": failures})
    write_csv(out / "summary.csv", rows, ["prompt", "folder", *FIGURES])
    shown = ", ".join(f"{k} {v:.3g}" for k, v in means.items() if v is not None)
    print(f"{len(rows)} done, {len(failures)} failed; means over prompts: {shown}; {out / 'summary.json'}")
    return means
