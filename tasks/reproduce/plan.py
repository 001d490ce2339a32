"""Plan a row of an experiment: its command of rsd, its folder, and whether it can run here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rsd import hub
from rsd.runs.folder import slug

from ..inverse.methods import METHODS
from . import data
from .experiments.entry import Entry, Row
from .options import FFHQ, IF, SD, Reproduce

DONE = {"restore": "summary.json", "text-to-image": "summary.json", "text-to-3d": "summary.json", "toy": "toy.json"}
"""The file that a command writes when it finishes."""


@dataclass(frozen=True)
class Plan:
    """A row as it will run: ``argv`` of ``command``, without its folder. ``key``: identifies it among rows of the same
    scale. ``data``: the data it runs on. ``prior``: its model. ``why_not``: why it cannot run, or None."""

    label: str
    command: str
    argv: tuple[str, ...]
    key: str
    data: Path
    prior: str = ""
    why_not: str | None = None

    def folder(self, runs: Path) -> Path:
        """Return its folder below ``runs``; identical rows of several experiments share it."""
        return runs / slug(self.key, limit=100)

    def command_line(self) -> str:
        """Return the command line."""
        return shlex.join(["rsd", self.command, *self.argv])

    def arguments(self, runs: Path) -> list[str]:
        """Return the command's arguments, with its folder."""
        resume = [] if self.command == "toy" else ["--resume"]
        return [*self.argv, "--out", str(self.folder(runs)), *resume]


def plan(entry: Entry, row: Row, options: Reproduce, where: Path) -> Plan:
    """Return the plan of a row on data in ``where`` (see :func:`rsd.tasks.reproduce.data.prepare`)."""
    flags = row.at(options.scale)
    prior = prior_of(entry.command, flags, options)
    method = value(flags, "--method")
    argv = [*data_arguments(entry.command, where), *(["--prior", prior] if prior else []), *flags]
    if options.steps:
        argv = [*without(argv, "--steps"), "--steps", str(options.steps)]
    if options.seed and "--seed" not in argv:
        argv += ["--seed", str(options.seed)]
    if entry.command != "toy":
        argv += ["--device", options.device, *precision(options), *metric_arguments(entry.command, options)]
    why_not = data.missing_data(entry.data, options) or why_unavailable(entry.command, method, options)
    key = " ".join([entry.command, entry.data, *flags])
    return Plan(row.label, entry.command, tuple(argv), key, where, prior, why_not)


def data_arguments(command: str, where: Path) -> list[str]:
    """Return the arguments that give a command its data."""
    return {"restore": [str(where), "--clean"], "toy": []}.get(command, ["--prompts", str(where)])


def prior_of(command: str, flags: list[str], options: Reproduce) -> str:
    """Return the prior of a row."""
    paper = options.scale == "paper"
    if command == "toy":
        return ""
    if command == "text-to-3d":
        return IF if paper else "heads-pixels"
    if on_pixels(value(flags, "--method")):
        return (options.pixel_prior or FFHQ) if paper else "heads-pixels"
    return SD if paper else "heads"


def precision(options: Reproduce) -> list[str]:
    """Return the arguments for the networks' precision."""
    chosen = options.dtype or ("float16" if options.scale == "paper" else None)
    return ["--dtype", chosen] if chosen else []


def metric_arguments(command: str, options: Reproduce) -> list[str]:
    """Return the arguments for figures that need networks of their own, at the paper's scale."""
    if options.scale != "paper" or command not in ("restore", "text-to-image"):
        return []
    if command == "restore":
        return ["--metrics", "lpips", "fid"]
    names, where = ["clip"], []
    if options.aesthetic_weights:
        names, where = [*names, "aesthetic"], ["--aesthetic-weights", str(options.aesthetic_weights)]
    if options.coco_images:
        names, where = [*names, "fid"], [*where, "--fid-folder", str(options.coco_images)]
    return ["--metrics", *names, *where]


def why_unavailable(command: str, method: str | None, options: Reproduce) -> str | None:
    """Return the reason if this version or installation cannot run a method, else None."""
    if command == "restore" and method not in METHODS:
        return f"needs the method {method}, which this version does not have"
    if command == "text-to-3d" or on_pixels(method):
        if options.scale == "builtin" and not (hub.BUILT_IN / "pixel" / "model_index.json").is_file():
            return "needs the built-in prior heads-pixels, which is not in this installation"
        if options.scale == "paper" and on_pixels(method) and not (options.pixel_prior or options.dry_run):
            return "needs --pixel-prior, a DDPMPipeline of faces at 256 px"
    return None


def on_pixels(method: str | None) -> bool:
    """Return whether a method of `rsd restore` needs a prior in pixel space."""
    return method in METHODS and METHODS[method].space == "pixels"


def value(flags: list[str], name: str) -> str | None:
    """Return the value of a flag, or None."""
    return flags[flags.index(name) + 1] if name in flags else None


def without(flags: list[str], name: str) -> list[str]:
    """Return the flags without one flag and its value."""
    if name not in flags:
        return flags
    at = flags.index(name)
    return flags[:at] + flags[at + 2 :]
