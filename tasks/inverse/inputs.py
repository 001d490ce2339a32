"""Which images are to be restored, with which settings: files, folders of them, and manifests.

A manifest is a text file of a JSON object a line: ``image``, a path relative to the manifest, and any of
:data:`FIELDS`, which win over the flags. Imports nothing heavy.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rsd.formats import PICTURES, skipped_files
from rsd.runs.words import expected, suggestion

from .names import task_name
from .options import ALPHA, MANIFEST, Restore, check_used, said_by

MEASUREMENT = ".safetensors"
IMAGES = (*PICTURES, MEASUREMENT)
CHOOSING = ("task", "method", "preset")
"""Fields that choose the packaged settings."""
FIELDS = (
    *CHOOSING, "particles", "steps", "seed", "gamma", "window", "interacting", "repel_every", "lambda", "rho", "lr_x",
    "x_step", "lr_z", "hyper", "prompt", "negative_prompt", "guidance", "sigma_v", "mask", "mask_hole", "box",
    "downsample", "kernel", "operator", "fit", "keep_known", "clean",
)  # fmt: skip
"""What a line of a manifest may say beside "image" and "name"."""


NEEDS: dict[str, Any] = {
    "inpaint_mask": {"mask": "."},
    "inpaint_box": {"box": [0, 1, 0, 1]},
    "operator": {"operator": ":"},
}
"""What a task does not go without: stands for a line's own until that is known."""


@dataclass(frozen=True, eq=False)
class Job:
    """One image to restore. ``name``: in the random numbers; ``title``: in messages, tables and as its folder."""

    path: Path
    name: str
    title: str
    options: Restore

    @property
    def label(self) -> str:
        """Among failures: where it is, and its name if the manifest gave it one."""
        return str(self.path) if self.title == self.path.name else f"{self.path} ({self.title})"


Resolve = Callable[[dict[str, Any]], Restore]
"""The options where a manifest's line chooses task or method."""


def list_jobs(options: Restore, resolve: Resolve | None = None) -> list[Job]:
    """The files named, the images in the folders named, and what manifests list. ``resolve``: by default ``options``
    with those changes, and no packaged settings.

    Raises ValueError if there is none, or two of one name (but for a file's ending), since the random numbers go by
    that name; and for what is wrong with a manifest.
    """
    change: Resolve = resolve or (lambda choice: replace(options, **choice))  # type: ignore[arg-type]
    jobs = [job for path in options.images for job in _under(path, options, change)]
    first: dict[str, Job] = {}
    for job in jobs:
        if job.name in first:
            raise ValueError(
                f"Two inputs have one name, {first[job.name].path} and {job.path}; rename one (in a manifest give it "
                'a "name"): random numbers go by it.'
            )
        first[job.name] = job
    if not jobs:
        raise ValueError("No images given; type: rsd restore photo.png --mask mask.png")
    return jobs


def are_several(options: Restore, jobs: list[Job]) -> bool:
    """Whether the output is a folder of runs, not one run."""
    return len(jobs) > 1 or options.images[0].is_dir() or is_manifest(options.images[0])


def is_manifest(path: Path) -> bool:
    """Whether a file is a list of images, by its suffix."""
    return path.suffix.lower() == MANIFEST


def left_behind(folders: Iterable[Path]) -> list[str]:
    """For each folder that holds more than is taken from it a sentence that names the rest, and why."""
    rest = {folder: skipped_files(folder, IMAGES) for folder in folders if folder.is_dir()}
    return [f"not taken from {folder}: {', '.join(names)}" for folder, names in rest.items() if names]


def _under(path: Path, options: Restore, resolve: Resolve) -> Iterator[Job]:
    if is_manifest(path):
        yield from read_manifest(path, options, resolve)
        return
    taken = lambda p: p.suffix.lower() in IMAGES and not p.name.startswith(".") and not p.is_dir()  # noqa: E731
    found = sorted(filter(taken, path.iterdir())) if path.is_dir() else [path]
    if not found:
        rest = skipped_files(path, IMAGES)
        told = f"; it has {', '.join(rest)}" if rest else ""
        raise ValueError(f"The folder {path} holds no images ({', '.join(IMAGES)}){told}.")
    for one in found:
        yield Job(one, one.stem, one.name, options)


def read_manifest(path: Path, options: Restore, resolve: Resolve) -> Iterator[Job]:
    """A job a line, with ``options`` where it says nothing; empty lines are skipped. Files that are not there are their
    jobs' affair. Raises ValueError, in one sentence that names the line, for a mistake in one."""
    chosen: dict[tuple[str, ...], Restore] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors begin it with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _job(line, path.parent, options, chosen, resolve)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def _job(line: str, folder: Path, shared: Restore, chosen: dict[tuple[str, ...], Restore], resolve: Resolve) -> Job:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON ({error.msg} at column {error.colno}).") from error
    if not isinstance(given, dict) or not isinstance(given.get("image"), str):
        raise ValueError('give an object with "image": a path, for example {"image": "a.png", "task": "sr4"}.')
    names = ("image", "name", *FIELDS)
    for key in given:
        if key not in names:
            raise ValueError(f'unknown key "{key}".{suggestion(key, names)} There are: {", ".join(names)}.')
    values = {key: _value(key, given[key], folder) for key in given if key not in ("image", "name")}
    choice = {key: values.pop(key) for key in CHOOSING if key in values}
    if "task" not in choice and not shared.task and (said := said_by(values)):
        choice["task"] = said
    key = tuple(choice.get(name, "") for name in CHOOSING)
    if key not in chosen:
        needs = NEEDS.get(task_name(choice.get("task", shared.task)), {})
        own = {name: getattr(shared, name) for name in needs}
        chosen[key] = replace(resolve({**choice, **needs}), **own) if choice else shared
    path, title = folder / given["image"], given.get("name")
    if title is not None and (not isinstance(title, str) or not title):
        raise ValueError(f"name is {json.dumps(title)}; give text.")
    values = {"lambda_" if name == "lambda" else name: value for name, value in values.items()}
    options = replace(chosen[key], images=(path,), **values)
    with suppress(FileNotFoundError):  # told of this image alone, when its turn comes
        options.check()
    if not options.task:
        raise ValueError(options.untold())
    check_used({*choice, *values}, options)
    return Job(path, title or path.stem, title or path.name, options)


def _value(key: str, value: Any, folder: Path) -> Any:
    """A JSON value as the field's type. Raises ValueError, in one sentence, if it is not of it."""
    hint = _hints()["lambda_" if key == "lambda" else key]
    try:
        return ALPHA if key == "mask" and value == str(ALPHA) else _as(hint, value, folder)
    except TypeError as error:
        raise ValueError(f"{key} is {json.dumps(value, ensure_ascii=False)}; give {expected(hint)}.") from error


@cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Restore)


def _as(hint: Any, value: Any, folder: Path) -> Any:
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _as(next(a for a in arguments if a is not type(None)), value, folder)
    if origin is tuple and arguments[-1] is Ellipsis and isinstance(value, list):
        return tuple(_as(arguments[0], v, folder) for v in value)
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_as(a, v, folder) for a, v in zip(arguments, value, strict=True))
    if origin is Literal and value in arguments:
        return value
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise TypeError(hint)
