"""What several prompts leave together: a row each, the means over prompts, and the distance to a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rsd.runs.folder import RunFolder, write_json
from rsd.runs.summary import mean, means_told, particles, write_csv

from .scores import Scorers, fid

SUMMARY = "summary.json"
FIGURES = ("div", "agreement", "coverage", "clip", "aesthetic", "seconds")


def figures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """metrics.json as one number a figure: means over particles, or over open attributes for the coverage."""
    found = {name: metrics[name] for name in FIGURES}
    return {k: v.get("mean") if isinstance(v, dict) else v for k, v in found.items()}


def summarise(
    out: Path, folders: dict[str, RunFolder], failures: dict[str, str], scorers: Scorers | None
) -> dict[str, float | None]:
    """summary.json and summary.csv; the means over prompts."""
    rows: list[dict[str, Any]] = []
    for prompt, folder in folders.items():
        rows.append({"prompt": prompt, "folder": folder.path.name, **figures(folder.metrics())})
    means = {name: mean([row[name] for row in rows]) for name in FIGURES}
    distance, reasons = together(out / SUMMARY, list(folders.values()), scorers)
    whole = {"prompts": rows, "mean": means, "fid": distance, "failed": failures, "reasons": reasons}
    write_json(out / SUMMARY, whole)
    write_csv(out / "summary.csv", rows, ["prompt", "folder", *FIGURES])
    shown = means_told(rows, means)
    print(f"{len(rows)} done, {len(failures)} failed; means over prompts: {shown}; {out / SUMMARY}")
    return means


def together(
    file: Path, folders: list[RunFolder], scorers: Scorers | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The distance of all runs' pictures to the folder of FID, or None and why. Where it is not asked for, what the
    summary ``file`` already holds of the same runs stays."""
    if scorers and scorers.fid:
        found = fid(torch.cat([particles(folder) for folder in folders]), scorers) if folders else None
        return found, {} if found else {"fid": "it needs two pictures or more"}
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"prompts": [], "fid": None}
    same = {row["folder"] for row in before["prompts"]} == {folder.path.name for folder in folders}
    if before["fid"] and same:
        return before["fid"], {}
    return None, {"fid": "not asked for (see --metrics fid)"}
