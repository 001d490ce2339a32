"""The cells of ``rsd compare``: which of them can be, running those that are not done, and a row for each."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from rsd import metrics
from rsd.media import fit_to, read_image
from rsd.priors import image_size
from rsd.runs import RunFolder, check_folder_of_runs, slug
from rsd.session import plain_warnings, survives
from rsd.settings import shard
from rsd.summary import particles

from . import job
from .compare import OWN, Compare, Pair
from .jobs import Job
from .table import write


def run(compare: Compare, pairs: list[Pair]) -> int:
    """Run what is not done, then write what a comparison leaves; the exit code: 0 all done, 1 some failed."""
    check_folder_of_runs(compare.out, resume=True, own=OWN, runs="cells/*/*")
    sizes = {pair.options.prior: image_size(pair.options.prior, pair.options.revision) for pair in pairs}
    able, left_out = [], {}
    for pair in pairs:
        try:
            job.check_method(pair.options, sizes[pair.options.prior])
        except ValueError as error:
            left_out[f"{pair.task} by {pair.method}"] = str(error)
        else:
            able.append(pair)
    if not able:
        raise ValueError(f"No method fits any task: {'; '.join(left_out.values())}")
    for pair in able:
        for one in pair.jobs:  # before anything is written: no half comparison of each setting
            cell(pair, one).check(job.config(one.path, pair.options))
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    failures: dict[str, str] = {}
    first, every = shard(compare.shard)
    with plain_warnings():
        for pair in able[first::every]:
            survives(f"{pair.task} by {pair.method}", failures, partial(restore, pair, failures), several=True)
    if compare.shard:
        print(f"shard {compare.shard} done; the same command without --shard writes the table")
        return _told(failures)
    common = min(sizes[pair.options.prior] for pair in able)
    rows = [row(compare.out, pair, one, common) for pair in able for one in pair.jobs if cell(pair, one).done]
    write(compare.out, rows, able, left_out)
    return _told(failures)


def _told(failures: dict[str, str]) -> int:
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def cell(pair: Pair, one: Job) -> RunFolder:
    """The run folder of one image."""
    return RunFolder(pair.folder / slug(one.title), resume=True)


def restore(pair: Pair, failures: dict[str, str]) -> None:
    """Restore the images of a pair that are not done; what fails is added to ``failures``."""
    todo = [
        one for one in pair.jobs if not cell(pair, one).done or job.lacking(cell(pair, one).metrics(), pair.options)
    ]
    if not todo and (pair.folder / "summary.json").exists():
        return
    print(f"{pair.task} by {pair.method}: {len(todo)} of {len(pair.jobs)} to do", flush=True)
    for name, why in job.restore_all(pair.options, pair.jobs, several=True).items():
        failures[f"{pair.task} by {pair.method}: {name}"] = why


def row(out: Path, pair: Pair, one: Job, common: int) -> dict[str, Any]:
    """A cell as compare.json has it; ``common``: pixels at which all methods are compared."""
    folder = cell(pair, one)
    held = folder.metrics()
    costs = {name: held.pop(name, None) for name in ("seconds", "network_calls", "peak_bytes")}
    images = particles(folder)
    truth = fit_to(read_image(one.path), images.shape[-1], pair.options.fit)[0]
    if images.shape[-1] != common:
        images, truth = (F.interpolate(x, size=(common, common), mode="area") for x in (images, truth))
    held["common"] = {
        "size": common,
        "psnr": metrics.summary(metrics.psnr(images, truth), best="max"),
        "ssim": metrics.summary(metrics.ssim(images, truth), best="max"),
    }
    about: dict[str, Any] = {"method": pair.method, "task": pair.task, "image": one.title, "prior": pair.options.prior}
    about |= {"steps": pair.options.steps, "particles": pair.options.particles}
    return {**about, "folder": str(folder.path.relative_to(out)), "metrics": held, **costs}
