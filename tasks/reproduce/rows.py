"""From a row of an experiment to a command of rsd and its folder, and whether it can run here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rsd import hub
from rsd.runs.folder import slug

from ..inverse.methods import FIELD
from . import data
from .entry import Entry, Row
from .options import FFHQ, IF, SD, Reproduce

DONE = {"restore": "summary.json", "text-to-image": "summary.json", "text-to-3d": "summary.json", "toy": "toy.json"}
"""What a command leaves at its end."""


@dataclass(frozen=True)
class Plan:
    """A row as it will run: ``argv`` of ``command``, without its folder. ``key``: what sets it apart from others of the
    same scale. ``data``: what it runs on. ``prior``: the model it uses. ``lacks``: why it cannot run, or None."""

    label: str
    command: str
    argv: tuple[str, ...]
    key: str
    data: Path
    prior: str = ""
    lacks: str | None = None

    def folder(self, runs: Path) -> Path:
        """Where it is kept below ``runs``: rows of several experiments that say the same share it."""
        return runs / slug(self.key, limit=100)

    def told(self) -> str:
        """As one would type it."""
        return shlex.join(["rsd", self.command, *self.argv])

    def whole(self, runs: Path) -> list[str]:
        """The command's arguments, with its folder."""
        again = [] if self.command == "toy" else ["--resume"]
        return [*self.argv, "--out", str(self.folder(runs)), *again]


def plan(entry: Entry, row: Row, options: Reproduce, where: Path) -> Plan:
    """The run of a row on data in ``where`` (see :func:`rsd.tasks.reproduce.data.prepare`)."""
    flags = row.at(options.scale)
    prior = prior_of(entry.command, flags, options)
    method = value(flags, "--method")
    argv = [*given(entry.command, where), *(["--prior", prior] if prior else []), *flags]
    if options.steps:
        argv = [*without(argv, "--steps"), "--steps", str(options.steps)]
    if options.seed and "--seed" not in argv:
        argv += ["--seed", str(options.seed)]
    if entry.command != "toy":
        argv += ["--device", options.device, *precision(options), *asked(entry.command, options)]
    lacks = data.missing_data(entry.data, options) or missing(entry.command, method, options)
    key = " ".join([entry.command, entry.data, *flags])
    return Plan(row.label, entry.command, tuple(argv), key, where, prior, lacks)


def given(command: str, where: Path) -> list[str]:
    """How a command is told its data."""
    return {"restore": [str(where), "--clean"], "toy": []}.get(command, ["--prompts", str(where)])


def prior_of(command: str, flags: list[str], options: Reproduce) -> str:
    """The model of a row."""
    paper = options.scale == "paper"
    if command == "toy":
        return ""
    if command == "text-to-3d":
        return IF if paper else "heads-pixels"
    if on_pixels(value(flags, "--method")):
        return (options.pixel_prior or FFHQ) if paper else "heads-pixels"
    return SD if paper else "heads"


def precision(options: Reproduce) -> list[str]:
    """The precision of the networks."""
    chosen = options.dtype or ("float16" if options.scale == "paper" else None)
    return ["--dtype", chosen] if chosen else []


def asked(command: str, options: Reproduce) -> list[str]:
    """The figures that need networks of their own, at the paper's scale."""
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


def missing(command: str, method: str | None, options: Reproduce) -> str | None:
    """What this version, or this installation, lacks to run a method."""
    if command == "restore" and method not in FIELD:
        return f"needs the method {method}, which this version does not have"
    if command == "text-to-3d" or on_pixels(method):
        if options.scale == "builtin" and not (hub.BUILT_IN / "pixel" / "model_index.json").is_file():
            return "needs the built-in prior heads-pixels, which is not in this installation"
        if options.scale == "paper" and on_pixels(method) and not (options.pixel_prior or options.dry_run):
            return "needs --pixel-prior, a DDPMPipeline of faces at 256 px"
    return None


def on_pixels(method: str | None) -> bool:
    """Whether a method of `rsd restore` needs a prior of pixels."""
    return method in FIELD and FIELD[method].space == "pixels"


def value(flags: list[str], name: str) -> str | None:
    """What follows a flag, or None."""
    return flags[flags.index(name) + 1] if name in flags else None


def without(flags: list[str], name: str) -> list[str]:
    """The flags without one of one value."""
    if name not in flags:
        return flags
    at = flags.index(name)
    return flags[:at] + flags[at + 2 :]
