"""``rsd sweep`` for the runner: each setting of each prompt is a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rsd.distributed import Ensemble
from rsd.runs.folder import RunFolder, write_json
from rsd.runs.head import Item, Networks
from rsd.runs.prompts import PromptJob, folder_names, shorten
from rsd.runs.summary import write_csv

from .head import ImageHead, Run
from .options import TextToImage
from .plots import grids, means, tradeoff
from .scores import FIGURES, figures

OWN = ("sweep.json", "sweep.csv", "tradeoff.png", "grids")
"""Files in the folder of a sweep beside its runs."""


class Point(Protocol):
    """A point of a curve: the options that its runs share. ``features``: None if particles do not interact."""

    method: str
    gamma: float
    features: str | None
    options: TextToImage
    folder: str

    @property
    def label(self) -> str:
        """The name in plots."""
        ...


class SweepHead(ImageHead):
    """Prompts to draw with each of several settings."""

    what = "runs"
    own = OWN
    runs = "runs/*/*"
    names_finished = False

    def __init__(self, out: Path, points: Sequence[Point], prompts: Sequence[str]):
        shared = points[0].options
        super().__init__(shared, [PromptJob(prompt, prompt, shared) for prompt in prompts])
        self.several, self.folder, self.names = True, out, folder_names(prompts)
        self.settings = points
        self.points: dict[Item, Point] = {}
        for prompt in prompts:
            for point in points:
                label, place = f"{point.label}: {prompt}", f"runs/{point.folder}/{self.names[prompt]}"
                self.points[Item(label, shorten(prompt), place, point.options, prompt)] = point
        self.items = list(self.points)

    @property
    def out(self) -> Path:
        """The folder of the sweep."""
        return self.folder

    def announce(self, items: Sequence[Item]) -> None:
        """Print the number of runs, and warn of words that the prior does not know."""
        size = f"{len(self.settings)} settings of {len(self.names)} prompts"
        todo = sum(not self.run_folder(item).done for item in self.items)
        print(f"{len(self.items)} runs: {size}; {todo} to do", flush=True)
        super().announce(items)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """Print the setting's name and return the run."""
        print(f"{self.points[item].label}:", flush=True)
        with super().start(item, networks, ensemble, folder) as started:
            yield started

    def summarise(self, out: Path, done: dict[Item, RunFolder], failures: dict[str, str], networks: Networks) -> None:
        """Write sweep.json, sweep.csv, tradeoff.png and grids/."""
        rows: list[dict[str, Any]] = []
        for item, folder in done.items():
            point = self.points[item]
            about = {"method": point.method, "gamma": point.gamma, "features": point.features, "prompt": item.source}
            rows.append({**about, "folder": str(folder.path.relative_to(out)), "metrics": folder.metrics()})
        write(out, rows, self.names)


def write(out: Path, rows: list[dict[str, Any]], names: dict[str, str]) -> None:
    """Write sweep.json, sweep.csv, tradeoff.png and grids/ from the finished runs."""
    write_json(out / "sweep.json", rows)
    about = ("method", "gamma", "features", "prompt", "folder")
    table = [{**{k: row[k] for k in about}, **figures(row["metrics"])} for row in rows]
    write_csv(out / "sweep.csv", table, [*about, *FIGURES])
    tradeoff(table, out / "tradeoff.png")
    grids(out, table, names)
    for line in curve_lines(table):
        print(line)
    print(f"sweep.json, sweep.csv, tradeoff.png, grids/ in {out}")


def curve_lines(table: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line with the means over prompts for each setting."""
    for (method, features, gamma), found in means(table).items():
        shown = ", ".join(f"{k} {v:.3f}" for k, v in found.items() if v is not None and k != "seconds")
        at = "" if method == "ancestral" else f", gamma {gamma:g}" + (f", {features}" if features else "")
        yield f"{method + at:<32} {shown}"
