"""List the images to restore and their options: files, folders of them, and manifests.

A line of a manifest has an ``image``, a path relative to the manifest, and any of :data:`FIELDS`, which win over the
flags. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rsd.formats import PICTURES, skipped_files
from rsd.runs.flags import joined
from rsd.runs.settings import Line, is_manifest, read_manifest

from .names import task_name
from .options import ALPHA, Restore, check_used, implied_task

MEASUREMENT = ".safetensors"
IMAGES = (*PICTURES, MEASUREMENT)
CHOOSING = ("task", "method", "preset")
"""Fields that select the packaged settings."""
FIELDS = (
    *CHOOSING, "particles", "draw", "keep", "steps", "seed", "gamma", "window", "interacting", "push_limit",
    "repel_every", "noise", "inversion_steps", "lambda", "rho", "lr_x", "x_step", "lr_z", "hyper", "prompt",
    "negative_prompt", "guidance", "sigma_v", "mask", "mask_hole", "box", "downsample", "kernel", "operator", "fit",
    "keep_known", "clean",
)  # fmt: skip
"""Fields that a line of a manifest may have besides "image" and "name"."""


PLACEHOLDERS: dict[str, Any] = {
    "inpaint_mask": {"mask": Path(".")},
    "inpaint_box": {"box": (0, 1, 0, 1)},
    "operator": {"operator": ":"},
}
"""Placeholders for a task's required fields, replaced by the manifest line's values."""


@dataclass(frozen=True, eq=False)
class Job:
    """One image to restore. ``name`` identifies it in the random numbers; ``title`` in messages, tables and folder
    names."""

    path: Path
    name: str
    title: str
    options: Restore

    @property
    def label(self) -> str:
        """The name in error messages: the path, and the title if the manifest gives one."""
        return str(self.path) if self.title == self.path.name else f"{self.path} ({self.title})"


Resolve = Callable[[dict[str, Any]], Restore]
"""Return the options for a manifest line's task, method and preset."""


def list_jobs(options: Restore, resolve: Resolve | None = None) -> list[Job]:
    """List the given files, the images in the given folders, and the lines of manifests.

    ``resolve``: by default ``options`` with those changes, without packaged settings. Raise ValueError if there is no
    image, if two have the same name (without suffix), which identifies their random numbers, and for errors in a
    manifest.
    """
    change: Resolve = resolve or (lambda choice: replace(options, **choice))  # type: ignore[arg-type]
    jobs = [job for path in options.images for job in _jobs_in(path, options, change)]
    first: dict[str, Job] = {}
    for job in jobs:
        if job.name in first:
            raise ValueError(
                f"Two inputs have the same name, {first[job.name].path} and {job.path}; rename one (in a manifest give "
                'it a "name"): it identifies the random numbers.'
            )
        first[job.name] = job
    if not jobs:
        raise ValueError("No images given; type: rsd restore photo.png --mask mask.png")
    return jobs


def are_several(options: Restore, jobs: Sequence[Job]) -> bool:
    """Return whether the output is a folder of runs, not one run."""
    return len(jobs) > 1 or options.images[0].is_dir() or is_manifest(options.images[0])


def ignored_files(folders: Iterable[Path]) -> list[str]:
    """Return a note for each folder with ignored files."""
    rest = {folder: skipped_files(folder, IMAGES) for folder in folders if folder.is_dir()}
    return [f"ignored in {folder}: {', '.join(names)}" for folder, names in rest.items() if names]


def _jobs_in(path: Path, options: Restore, resolve: Resolve) -> Iterator[Job]:
    if is_manifest(path):
        yield from read_lines(path, options, resolve)
        return
    taken = lambda p: p.suffix.lower() in IMAGES and not p.name.startswith(".") and not p.is_dir()  # noqa: E731
    found = sorted(filter(taken, path.iterdir())) if path.is_dir() else [path]
    if not found:
        rest = skipped_files(path, IMAGES)
        others = f"; it has {', '.join(rest)}" if rest else ""
        raise ValueError(f"The folder {path} has no images ({', '.join(IMAGES)}){others}.")
    for one in found:
        yield Job(one, one.stem, one.name, options)


def read_lines(path: Path, options: Restore, resolve: Resolve) -> Iterator[Job]:
    """Yield a job for each line of a manifest, with ``options`` where the line sets nothing. Missing pictures fail with
    their job. Raises ValueError, in one sentence that names the line, for a mistake."""
    chosen: dict[tuple[str, ...], Restore] = {}
    make = partial(_job, folder=path.parent, shared=options, chosen=chosen, resolve=resolve)
    example = '{"image": "a.png", "task": "sr4"}'
    yield from read_manifest(path, Restore, "image", FIELDS, make, example=example)


def _job(line: Line, *, folder: Path, shared: Restore, chosen: dict[tuple[str, ...], Restore], resolve: Resolve) -> Job:
    values = dict(line.settings)
    if values.get("mask") == folder / ALPHA:  # a word, not a path
        values["mask"] = ALPHA
    choice = {key: values.pop(key) for key in CHOOSING if key in values}
    if "task" not in choice and not shared.task and (implied := implied_task(values)):
        choice["task"] = implied
    key = tuple(choice.get(name, "") for name in CHOOSING)
    if key not in chosen:
        needs = PLACEHOLDERS.get(task_name(choice.get("task", shared.task)), {})
        own = {name: getattr(shared, name) for name in needs}
        chosen[key] = replace(resolve({**choice, **needs}), **own) if choice else shared
    if "hyper" in values:
        values["hyper"] = joined(chosen[key].hyper, values["hyper"])
    path = folder / line.source
    options = replace(chosen[key], images=(path,), **values)
    with suppress(FileNotFoundError):  # reported for this image alone
        options.check()
    if not options.task:
        raise ValueError(options.missing_task())
    check_used({*choice, *values}, options)
    return Job(path, line.name or path.stem, line.name or path.name, options)
