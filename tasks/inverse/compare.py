"""``rsd compare``: methods x tasks x images on the same priors, operators, noise and seeds.

A cell is a run folder of ``rsd restore``; what is done is skipped, so the same command goes on after an interruption.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rsd.settings import known, layered, shard

from .command import parse
from .jobs import Job, list_jobs
from .methods import FIELD, check_method
from .names import TASKS, is_task
from .options import Restore

OWN = ("compare.json", "compare.csv", "compare.md", "grid.png", "cells")
PASSED = ("particles", "steps", "seed", "sigma_v", "div_features", "fid_features", "device", "dtype", "chunk", "memory")
"""Options that every run gets."""


@dataclass(kw_only=True)
class Compare:
    """Restore the same degraded pictures by several methods, and put the figures side by side.

    Each run is as of `rsd restore --clean` with the packaged settings of its task, method and prior. Methods of pixels
    run on --pixel-prior, all others on --prior; where the two differ in size, PSNR and SSIM are also told at the
    smaller one. A method that does not fit a task (a linear one, say) is left out, and named. The same command again
    goes on where it stopped.
    """

    methods: tuple[str, ...] = ("rlsd", "latent-red-diff", "latent-dps", "psld")
    """Methods, separated by commas or spaces (see `rsd methods`)."""
    tasks: tuple[str, ...] = ("inpaint_half_face",)
    """Tasks, likewise (see `rsd tasks`); sr4:8 takes the first 8 images only."""
    images: Path | None = None
    """A folder of clean images."""
    out: Path = Path("runs/compare")
    """The folder to write to: compare.json, compare.csv, compare.md, grid.png, cells/."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it."""
    prior: str = "heads"
    """The prior of all methods but those of pixels: a built-in name, a hub id, or a local folder."""
    pixel_prior: str = "heads-pixels"
    """The prior of the methods of pixels."""
    particles: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """N, answers of each method."""
    steps: int | None = None
    """Steps of every method (default: of its packaged settings, which were tuned for theirs)."""
    shard: str | None = None
    """K/N: only every N-th pair of a method and a task, from the K-th (0 ... N-1), and no table: for several processes
    that share --out. The same command without it afterwards writes the table."""
    seed: int = 0
    """Every random number follows from it."""
    sigma_v: float | None = None
    """Standard deviation of the measurement noise."""
    metrics: tuple[Literal["lpips", "fid"], ...] = ()
    """Figures that need networks of their own."""
    div_features: str | None = None
    """What Div is measured on."""
    fid_features: str | None = None
    """What the Frechet distance compares."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str | None = None
    """Precision of the networks."""
    chunk: int | None = None
    """Particles a network sees at once."""
    memory: str | None = None
    """auto, fast, flat, lean: see `rsd restore --help`."""

    def check(self) -> None:
        """Split the lists; raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        for name in ("methods", "tasks"):
            values = tuple(part for text in getattr(self, name) for part in text.split(",") if part)
            setattr(self, name, values)
            if not values:
                raise ValueError(f"{name} is empty; give at least one.")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {' '.join(values)}: one is given twice.")
        for method in self.methods:
            check_method(method)
        shard(self.shard)
        for text in self.tasks:
            split(text)
        if self.images is None:
            raise ValueError("compare needs --images, a folder of clean images; `rsd heads --out heads` writes one.")
        if not self.images.is_dir():
            raise FileNotFoundError(f"{self.images} is no folder of images; check the path.")


@dataclass(frozen=True)
class Pair:
    """A method on a task: what ``restore`` is told, and its images."""

    method: str
    task: str
    options: Restore
    jobs: list[Job]

    @property
    def folder(self) -> Path:
        """Where its cells are."""
        assert self.options.out is not None
        return self.options.out


def split(text: str) -> tuple[str, int | None]:
    """ "sr4:8" as ("sr4", 8), "sr4" as ("sr4", None). Raises ValueError, in one sentence, for what is neither."""
    task, colon, first = text.partition(":")
    if not is_task(task):
        raise known("task", task, TASKS)
    if colon and not (first.isdigit() and int(first) > 0):
        raise ValueError(f'The task "{text}" has no number after its colon; write {task}:8 for the first 8 images.')
    return task, int(first) if colon else None


def pairs(compare: Compare) -> list[Pair]:
    """All methods on all tasks, task by task. Raises ValueError for settings that cannot run."""
    shared = ["--clean", "--resume", *(["--metrics", *compare.metrics] if compare.metrics else [])]
    for name in PASSED:
        if (value := getattr(compare, name)) is not None:
            shared += [f"--{name.replace('_', '-')}", str(value)]
    found = []
    for text in compare.tasks:
        task, first = split(text)
        for method in compare.methods:
            prior = compare.pixel_prior if FIELD[method].space == "pixels" else compare.prior
            own = ["--task", task, "--method", method, "--prior", prior]
            out = compare.out / "cells" / f"{task}-{method}"
            options, _ = parse([str(compare.images), *own, "--out", str(out), *shared])
            found.append(Pair(method, task, options, list_jobs(options)[:first]))
    return found


def main(argv: list[str]) -> int:
    """Compare; returns the exit code."""
    compare, _ = layered(
        Compare, argv, prog="rsd compare", positional="", folder="inverse", packaged=lambda options: (None, ())
    )
    compare.check()
    cells = pairs(compare)
    from .cells import run

    sys.stdout.flush()
    return run(compare, cells)
