"""``rsd restore`` and ``rsd measure``: parse flags and settings files, check them, and start the work."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rsd.runs import flags
from rsd.runs.flags import Flag
from rsd.runs.settings import make_folder, tokens

from .inputs import MEASUREMENT, Job, left_behind, list_jobs
from .options import Restore, TaskOptions, check_used
from .packaged import guessed, parse


def main(argv: list[str]) -> int:
    """Restore; returns the exit code."""
    options, name = parse(argv)
    told = name or f"none packaged for {options.task} by {options.method} (rsd restore --help tells the defaults)"
    if not options.task:
        told = "of each line's task"
    jobs = list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"settings: {told}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        for line in [*filter(None, [guessed(options)]), *left_behind(options.images)]:
            print(f"note: {line}")
    if options.autocast:
        settle(options, jobs, typed="--autocast" in argv)
    from .head import run

    sys.stdout.flush()
    return run(options, jobs)


def settle(options: Restore, jobs: list[Job], *, typed: bool) -> None:
    """Refuse --autocast where the device has no bfloat16; that of a settings file is left out, with a note."""
    from rsd.priors.precision import settle_autocast
    from rsd.runs.session import pick_device

    autocast = settle_autocast(options.autocast, pick_device(options.device), typed=typed)
    for one in (options, *(job.options for job in jobs)):
        one.autocast = autocast


@dataclass(kw_only=True)
class Measure(TaskOptions):
    """Measure clean images: y = f(x) + sigma_v v, one .safetensors file an image, as exact as float32.

    `rsd restore FILE.safetensors` with the same --task and --prior restores it; y and the noise in it are those of
    `rsd restore IMAGE --clean` with the same --seed. A picture of each, to look at, goes to pictures/.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd measure heads --task sr4 --out runs/measured",
        "rsd measure photo.png --task deblur_motion --kernel kernel.png --sigma-v 0.01",
    )
    GROUPS = {"input": "images out prior revision seed"}

    images: Annotated[tuple[Path, ...], Flag(positional=True)]
    """Clean images, or folders of them."""
    out: Path = Path("runs/measured")
    """The folder to write to."""
    prior: str = "heads"
    """Images are brought to this prior's size."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    seed: int = 0
    """Of the noise, and of masks and kernels that are drawn."""


def measure(argv: list[str]) -> int:
    """Measure; returns the exit code."""
    asked = flags.parse(Measure, argv, prog="rsd measure")
    options = Restore(**{**asdict(asked), "clean": True})
    options.check()
    check_used(flags.values(Measure, argv, prog="rsd measure"), options)
    jobs = list_jobs(options)
    files = [asked.out / f"{job.name}{MEASUREMENT}" for job in jobs]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} is there already; choose another --out.")
    from rsd import media
    from rsd.priors import image_size

    from .problem import load

    size = image_size(options.prior, options.revision)
    problems = [load(job.path, job.options, size, job.name) for job in jobs]  # all, before any is written
    make_folder(asked.out / "pictures")
    for job, file, problem in zip(jobs, files, problems, strict=True):
        for note in problem.notes:
            print(note)
        media.write_measurement(file, problem.y, {"task": options.task})
        media.write_png(asked.out / "pictures" / f"{job.name}.png", problem.operator.picture(problem.y))
        print(f"{job.title}: {' x '.join(map(str, problem.y.shape[1:]))} in {file}")
    return 0
