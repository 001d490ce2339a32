"""``rsd sweep`` as the runner has it: each setting of each prompt is a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rsd.distributed import Ensemble
from rsd.runs.folder import METRICS, RunFolder, write_json
from rsd.runs.head import Item, Networks
from rsd.runs.prompts import folder_names, shorten
from rsd.runs.summary import write_csv

from .head import ImageHead, Run
from .options import TextToImage
from .plots import grids, means, tradeoff
from .scores import FIGURES, figures

OWN = ("sweep.json", "sweep.csv", "tradeoff.png", "grids")
"""What its folder holds beside its runs."""


class Point(Protocol):
    """One curve's point: the options that its runs share. ``features``: None where particles do not interact."""

    method: str
    gamma: float
    features: str | None
    options: TextToImage
    folder: str

    @property
    def label(self) -> str:
        """As pictures name it."""
        ...


class SweepHead(ImageHead):
    """Prompts to draw with each of several settings."""

    what = "runs"
    own = OWN
    runs = "runs/*/*"
    all_or_none = True  # no half sweep of each setting
    names_finished = False

    def __init__(self, out: Path, points: Sequence[Point], prompts: Sequence[str]):
        super().__init__(points[0].options, prompts)
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
        """Tell how much there is to do, and of words that the prior does not know."""
        of = f"{len(self.settings)} settings of {len(self.names)} prompts"
        todo = sum(not (self.out / item.folder / METRICS).exists() for item in self.items)
        print(f"{len(self.items)} runs: {of}; {todo} to do", flush=True)
        super().announce(items)

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, None]]:
        """A run, below the name of its setting."""
        print(f"{self.points[item].label}:", flush=True)
        with super().start(item, networks, ensemble, folder) as started:
            yield started

    def summarise(self, out: Path, done: dict[Item, RunFolder], failures: dict[str, str], networks: Networks) -> None:
        """sweep.json, sweep.csv, tradeoff.png and grids/."""
        rows: list[dict[str, Any]] = []
        for item, folder in done.items():
            point = self.points[item]
            about = {"method": point.method, "gamma": point.gamma, "features": point.features, "prompt": item.source}
            rows.append({**about, "folder": str(folder.path.relative_to(out)), "metrics": folder.metrics()})
        write(out, rows, self.names)


def write(out: Path, rows: list[dict[str, Any]], names: dict[str, str]) -> None:
    """sweep.json, sweep.csv, tradeoff.png and grids/, from the runs that are done."""
    write_json(out / "sweep.json", rows)
    about = ("method", "gamma", "features", "prompt", "folder")
    table = [{**{k: row[k] for k in about}, **figures(row["metrics"])} for row in rows]
    write_csv(out / "sweep.csv", table, [*about, *FIGURES])
    tradeoff(table, out / "tradeoff.png")
    grids(out, table, names)
    for line in curves_told(table):
        print(line)
    print(f"sweep.json, sweep.csv, tradeoff.png, grids/ in {out}")


def curves_told(table: list[dict[str, Any]]) -> Iterator[str]:
    """The means over prompts of every setting, a line each."""
    for (method, features, gamma), found in means(table).items():
        shown = ", ".join(f"{k} {v:.3f}" for k, v in found.items() if v is not None and k != "seconds")
        at = "" if method == "ancestral" else f", gamma {gamma:g}" + (f", {features}" if features else "")
        yield f"{method + at:<32} {shown}"
