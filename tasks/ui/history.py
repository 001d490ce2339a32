"""The runs in a folder of runs, whoever made them, and how their samples rank."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsd.runs.folder import CHECKPOINT, CONFIG, METRICS, RunFolder, lock_holder
from rsd.runs.session import PREVIEW
from rsd.runs.summary import particles

from ..text_to_image.api import fit as prompt_fit
from .request import IMAGE, RESTORE, SCENE, command_of, continued, read_config
from .uploads import UPLOADS

MOST = 200
"""The newest runs that are listed."""
INNER = {UPLOADS, "particles", "frames", "scenes", "views"}
"""Folders that hold no runs."""


@dataclass(frozen=True)
class Entry:
    """A run. ``name``: its folder in the folder of runs; ``state``: "finished", "running" (in another process) or
    "interrupted"; ``picture``: what shows it, None if there is nothing yet."""

    folder: Path
    name: str
    command: str
    about: str
    state: str
    picture: Path | None


def entries(runs: Path) -> list[Entry]:
    """Return the runs in a folder and its subfolders, the newest first."""
    found: list[Path] = []
    for place, folders, files in os.walk(runs):
        folders[:] = [name for name in folders if name not in INNER and not name.startswith(".")]
        if CONFIG in files:
            found.append(Path(place))
    found.sort(key=lambda folder: (folder / CONFIG).stat().st_mtime, reverse=True)
    listed = []
    for folder in found[:MOST]:
        try:
            listed.append(entry(folder, runs))
        except ValueError:  # a toy's or a study's folder
            continue
    return listed


def entry(folder: Path, runs: Path) -> Entry:
    """Return what there is to know about a run's folder. Raise ValueError if it is no run's."""
    config = read_config(folder)
    command = command_of(config)
    name = folder.relative_to(runs).as_posix()
    return Entry(folder, name, command, describe(config), state(folder), picture(folder))


def describe(config: dict[str, Any]) -> str:
    """Describe a run by its config.yaml in a few words."""
    command = command_of(config)
    what = Path(config["images"][0]).name if command == RESTORE else config["prompt"]
    task = f", {config['task']}" if command == RESTORE else ""
    return f"{what}{task}, {config.get('method', '')}"


def state(folder: Path) -> str:
    """Return the state of a run by its files and its lock."""
    if (folder / METRICS).exists():
        return "finished"
    return "running" if lock_holder(folder) else "interrupted"


def picture(folder: Path) -> Path | None:
    """Return the picture that shows a run best; None if there is none yet."""
    names = ("contact.png", "grid.png", PREVIEW)
    return next((folder / name for name in names if (folder / name).exists()), None)


def samples(folder: Path) -> list[Path]:
    """Return the pictures of a run's samples."""
    return sorted((folder / "particles").glob("*.png"))


def scenes(folder: Path) -> list[Path]:
    """Return the folders of a run's scenes."""
    return sorted(path for path in (folder / "scenes").glob("*") if path.is_dir())


def metrics(folder: Path) -> dict[str, Any]:
    """Return the figures of a finished run; empty for others."""
    file = folder / METRICS
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def steps(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of steps.jsonl, without a last one that is being written."""
    file, rows = folder / "steps.jsonl", []
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def step_of(folder: Path) -> int:
    """Return how many steps an interrupted run's checkpoint covers."""
    return len(steps(folder)) if (folder / CHECKPOINT).exists() else 0


@dataclass(frozen=True)
class Ranking:
    """``fit``: how well each sample fits, larger is better, and ``values`` of the measure ``name``, None if nothing
    measures it; ``difference``: the mean root-mean-square distance of each sample to the others."""

    difference: list[float]
    name: str = ""
    values: tuple[float, ...] = ()
    fit: tuple[float, ...] = ()

    def order(self, by: str) -> list[int]:
        """Return the samples' numbers, the best first: by "fit", by "difference", else as they are."""
        keys = {"fit": self.fit, "difference": self.difference}.get(by)
        numbers = range(len(self.difference))
        return sorted(numbers, key=lambda k: -keys[k]) if keys else list(numbers)


def rank(folder: Path) -> Ranking:
    """Return how the samples of a finished run rank. If its picture has gone, they rank by difference alone."""
    if not samples(folder):
        return Ranking([])
    images = particles(RunFolder(folder, resume=True))
    n = len(images)
    squares = (images[:, None] - images[None]).square().flatten(2).mean(2).sqrt() if n <= 64 else images.new_zeros(n, n)
    difference = (squares.sum(1) / max(n - 1, 1)).tolist()
    try:
        with torch.no_grad():
            found = _fit(folder, images)
    except (ValueError, OSError):
        found = None
    if found is None:
        return Ranking(difference)
    return Ranking(difference, found.name, tuple(found.values.tolist()), tuple(found.scores.nan_to_num(0).tolist()))


def _fit(folder: Path, images: torch.Tensor) -> Any:
    request = continued(folder)
    head = request.head()
    item = head.items[0]
    if request.command == IMAGE:
        return prompt_fit(images, item.source, item.options)
    if request.command == SCENE:
        return None
    run = RunFolder(folder, resume=True)
    from rsd.metrics.scoring import Scorers

    shown, problem = head.finished(item, run)
    return head.fit(item, shown, problem, Scorers())
