"""The pairs of a method and a task that ``rsd compare`` runs, and their options. Imports nothing heavy.

A cell is a run folder of ``rsd restore``. Finished cells are skipped, so the same command resumes a comparison.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsd.priors import takes_any_size
from rsd.runs.folder import RunFolder, slug

from ..inputs import Job, list_jobs
from ..names import READ_BY_SOME, matched, reads, split_task
from ..options import OperatorOptions, Restore
from ..packaged import chosen, packaged, presets

if TYPE_CHECKING:
    from .options import Compare

PASSED = (
    "particles", "draw", "keep", "seed", "sigma_v", "div_features", "fid_features", "device", "dtype", "autocast",
    "chunk", "memory",
)  # fmt: skip
"""Options that every run gets."""


@dataclass(frozen=True)
class Pair:
    """A method on a task, with the options of its runs, its images and the name of its packaged settings."""

    method: str
    task: str
    options: Restore
    jobs: list[Job]
    settings: str

    @property
    def title(self) -> str:
        """The name in messages."""
        return title(self.task, self.method)

    @property
    def folder(self) -> Path:
        """The folder of its cells."""
        assert self.options.out is not None
        return self.options.out

    def cell(self, job: Job) -> RunFolder:
        """Return the run folder of one image."""
        return RunFolder(self.folder / slug(job.title), resume=True, samples=job.options.kept)


def title(task: str, method: str) -> str:
    """Return the name of a pair in messages."""
    return f"{task} by {method}"


def pairs(compare: Compare) -> tuple[list[Pair], dict[str, str]]:
    """Pair all methods with all tasks, task by task. Return the pairs, and by title why the others are left out.

    Raise ValueError for settings that cannot run, and what :meth:`Compare.sizes` raises.
    """
    sizes = compare.sizes()
    found, left_out = [], {}
    for text in compare.tasks:
        task, first = split_task(text)
        for method in compare.methods:
            prior = compare.prior_of(method)
            own = matched(task, sizes[prior], sizes[compare.reference])
            if own is None or packaged(own, method, prior) is None:
                left_out[title(task, method)] = (
                    f"No settings are packaged for it with {prior}, and untuned ones would not be fair; "
                    f"{compare.flag_of(method)} takes another prior."
                    if own
                    else f"No srK of {prior} ({sizes[prior]} px) leaves as many px as {task} of {compare.reference}."
                )
                continue
            options, settings = options_of(compare, own, method, prior, compare.out / "cells" / f"{task}-{method}")
            found.append(Pair(method, task, options, list_jobs(options)[:first], settings))
    return found, left_out


def options_of(compare: Compare, task: str, method: str, prior: str, out: Path) -> tuple[Restore, str]:
    """Return the options of ``rsd restore --clean`` for a pair, checked, and the name of its packaged settings."""
    assert compare.images is not None
    passed: dict[str, Any] = {name: getattr(compare, name) for name in PASSED}
    given = {name: value for name, value in passed.items() if value is not None and value is not False}
    for field in dataclasses.fields(OperatorOptions):
        read = reads(task, field.name) if field.name in READ_BY_SOME else True
        if read and getattr(compare, field.name) != field.default:
            given[field.name] = getattr(compare, field.name)
    if own := tuple(name for name in compare.metrics if name != "fid"):  # fid compares all images together
        given["metrics"] = own
    if compare.steps is not None:
        given["preset" if compare.steps in presets(task, method, prior) else "steps"] = compare.steps
    if compare.fit == "auto" and takes_any_size(prior) and not compare.whole:
        given["fit"] = "crop"  # as the other priors do, for the same picture
    options = Restore(
        images=(compare.images,), task=task, method=method, prior=prior, out=out, clean=True, resume=True, **given
    )
    settings = chosen(options)
    assert settings is not None
    # The packaged settings, then what the user gives.
    options = dataclasses.replace(options, **{**settings.values(Restore), **given})
    options.check()
    return options, settings.name
