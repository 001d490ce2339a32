"""``rsd restore`` and ``rsd measure``: parse flags and settings files, check them, and start the work."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rsd.runs import flags
from rsd.runs.flags import Flag
from rsd.runs.settings import make_folder

from .choice import describe
from .inputs import MEASUREMENT, Job, ignored_files, list_jobs
from .options import Restore, TaskOptions, check_used
from .packaged import borrowed_note, layers, resolve
from .pictures.measured import about


def main(argv: list[str]) -> int:
    """Restore; return the exit code."""
    file, given = layers(argv)
    options, name = resolve(file, given)
    source = name or f"none packaged for {options.task} by {options.method} (see the defaults in rsd restore --help)"
    if not options.task:
        source = "those of each line's task"
    jobs = list_jobs(options, lambda choice: resolve(file, {**given, **choice})[0])
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"settings: {source}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        if {**file, **given}.get("prior", "auto") == "auto":  # the prior is chosen for the pictures
            print(describe(options.images))
        for line in [*filter(None, [borrowed_note(options)]), *ignored_files(options.images)]:
            print(f"note: {line}")
    if options.propose:
        from .damage import propose

        return propose(options, jobs)
    if options.autocast:
        settle(options, jobs, typed="autocast" in given)
    from .head import run

    sys.stdout.flush()
    return run(options, jobs)


def settle(options: Restore, jobs: list[Job], *, typed: bool) -> None:
    """Raise ValueError for --autocast on a device without bfloat16. Only print a note if a settings file asks for
    it."""
    from rsd.distributed import pick_device
    from rsd.priors.precision import settle_autocast

    autocast = settle_autocast(options.autocast, pick_device(options.device), typed=typed)
    for one in (options, *(job.options for job in jobs)):
        one.autocast = autocast


@dataclass(kw_only=True)
class Measure(TaskOptions):
    """Measure clean images: y = f(x) + sigma_v v, one .safetensors file per image, in float32.

    `rsd restore FILE.safetensors` with the same --task, --prior and --seed restores it; y and its noise equal those
    of `rsd restore IMAGE --clean` with the same three. A picture of each measurement is written to pictures/.
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
    """Images are cropped and resized to this prior's size."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    seed: int = 0
    """Seed of the noise and of random masks and kernels."""


def measure(argv: list[str]) -> int:
    """Measure; return the exit code."""
    request = flags.parse(Measure, argv, prog="rsd measure")
    options = Restore(**{**asdict(request), "clean": True})
    options.check()
    check_used(flags.values(Measure, argv, prog="rsd measure"), options)
    jobs = list_jobs(options)
    files = [request.out / f"{job.name}{MEASUREMENT}" for job in jobs]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} already exists; choose another --out.")
    from rsd import media
    from rsd.priors import image_size

    from .problem import load

    size = image_size(options.prior, options.revision)
    problems = [load(job.path, job.options, size, job.name) for job in jobs]  # load all before writing any
    make_folder(request.out / "pictures")
    for job, file, problem in zip(jobs, files, problems, strict=True):
        for note in problem.notes:
            print(note)
        media.write_measurement(file, problem.y, about(options))
        media.write_png(request.out / "pictures" / f"{job.name}.png", problem.operator.picture(problem.y))
        print(f"{job.title}: {' x '.join(map(str, problem.y.shape[1:]))} in {file}")
    return 0
