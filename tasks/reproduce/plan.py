"""Plan a row of an experiment: its command of rsd, its folder, and whether it can run here."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd import hub
from rsd.runs.folder import slug
from rsd.runs.settings import command_words, typed_values

from ..inverse import packaged as restore
from ..inverse.methods import METHODS
from ..inverse.options import Restore
from ..text_to_3d.options import TextTo3D
from ..text_to_3d.packaged import COMMAND as TEXT_TO_3D
from ..text_to_image.options import TextToImage
from ..text_to_image.packaged import COMMAND as TEXT_TO_IMAGE
from ..toy.command import Toy
from . import data
from .experiments.entry import Entry, Row, Values
from .options import FFHQ, IF, SD, Reproduce

DONE = {"restore": "summary.json", "text-to-image": "summary.json", "text-to-3d": "summary.json", "toy": "toy.json"}
"""The file that a command writes when it finishes."""


OPTIONS: Mapping[str, type] = {"restore": Restore, "text-to-image": TextToImage, "text-to-3d": TextTo3D, "toy": Toy}
"""The options of each command."""
RESOLVE: Mapping[str, Callable[..., tuple[Any, str | None]]] = {
    "restore": restore.resolve, "text-to-image": TEXT_TO_IMAGE.resolve, "text-to-3d": TEXT_TO_3D.resolve,
}  # fmt: skip
"""How each command's options follow from a settings file, here none, and from what is given."""


@dataclass(frozen=True)
class Plan:
    """A row as it will run: the values that it gives to options of ``command``, without the folder. ``key``: identifies
    it among rows of the same scale. ``data``: the data it runs on. ``prior``: its model. ``why_not``: why it cannot
    run, or None."""

    label: str
    command: str
    given: Values
    key: str
    data: Path
    prior: str = ""
    why_not: str | None = None

    def folder(self, runs: Path) -> Path:
        """Return its folder below ``runs``; identical rows of several experiments share it."""
        return runs / slug(self.key, limit=100)

    def command_line(self) -> str:
        """Return the command line that does the same."""
        return shlex.join(["rsd", self.command, *command_words(OPTIONS[self.command], self.given)])

    def values(self, runs: Path | None = None) -> dict[str, Any]:
        """Return what it gives as the command's options hold it; with its folder if ``runs`` is given."""
        where = {} if runs is None else {"out": self.folder(runs)}
        resumed = {"resume": True} if runs and self.command != "toy" else {}
        return typed_values(OPTIONS[self.command], {**self.given, **where, **resumed})

    def options(self) -> Any:
        """Return the options that it runs with, from the packaged settings and what it gives."""
        return RESOLVE[self.command]({}, self.values())[0]


def plan(entry: Entry, row: Row, options: Reproduce, where: Path) -> Plan:
    """Return the plan of a row on data in ``where`` (see :func:`rsd.tasks.reproduce.data.prepare`)."""
    own = row.at(options.scale)
    method = own.get("method")
    prior = prior_of(entry.command, method, options)
    given = {**data_values(entry.command, where), **({"prior": prior} if prior else {}), **own}
    if options.steps:
        given = {**{name: value for name, value in given.items() if name != "steps"}, "steps": options.steps}
    if options.seed:
        given.setdefault("seed", options.seed)
    if entry.command != "toy":
        given |= {"device": options.device, **precision(options), **metric_values(entry.command, options)}
    why_not = data.missing_data(entry.data, options) or why_unavailable(entry.command, method, options)
    key = " ".join([entry.command, entry.data, *command_words(OPTIONS[entry.command], own)])
    return Plan(row.label, entry.command, given, key, where, prior, why_not)


def data_values(command: str, where: Path) -> dict[str, Any]:
    """Return the options that give a command its data."""
    return {"restore": {"images": (where,), "clean": True}, "toy": {}}.get(command, {"prompts": where})


def prior_of(command: str, method: str | None, options: Reproduce) -> str:
    """Return the prior of a row."""
    paper = options.scale == "paper"
    if command == "toy":
        return ""
    if command == "text-to-3d":
        return IF if paper else "heads-pixels"
    if on_pixels(method):
        return (options.pixel_prior or FFHQ) if paper else "heads-pixels"
    return SD if paper else "heads"


def precision(options: Reproduce) -> dict[str, Any]:
    """Return the option for the networks' precision."""
    chosen = options.dtype or ("float16" if options.scale == "paper" else None)
    return {"dtype": chosen} if chosen else {}


def metric_values(command: str, options: Reproduce) -> dict[str, Any]:
    """Return the options for figures that need networks of their own, at the paper's scale."""
    if options.scale != "paper" or command not in ("restore", "text-to-image"):
        return {}
    if command == "restore":
        return {"metrics": ("lpips", "fid")}
    names: list[str] = ["clip"]
    where: dict[str, Any] = {}
    if options.aesthetic_weights:
        names, where = [*names, "aesthetic"], {"aesthetic_weights": str(options.aesthetic_weights)}
    if options.coco_images:
        names, where = [*names, "fid"], {**where, "fid_folder": options.coco_images}
    return {"metrics": tuple(names), **where}


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
