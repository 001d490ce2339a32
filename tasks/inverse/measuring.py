"""``rsd measure``: what an operator makes of clean images, as files that ``rsd restore`` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rsd.runs.settings import make_folder

from .inputs import MEASUREMENT, list_jobs
from .options import Restore


@dataclass(kw_only=True)
class Measure:
    """Measure clean images: y = f(x) + sigma_v v, one .safetensors file an image, as exact as float32.

    `rsd restore FILE.safetensors` with the same --task and --prior restores it; y and the noise in it are those of
    `rsd restore IMAGE --clean` with the same --seed. A picture of each, to look at, goes to pictures/.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Clean images, or folders of them."""
    task: str
    """What happens to them: see `rsd tasks`."""
    out: Path = Path("runs/measured")
    """The folder to write to."""
    prior: str = "heads"
    """Images are brought to this prior's size."""
    revision: str | None = None
    """Revision of a hub model."""
    seed: int = 0
    """Of the noise, and of masks and kernels that are drawn."""
    sigma_v: float = 0.001
    """Standard deviation of the noise."""
    mask: Path | None = None
    """inpaint_mask: an image as large as the input, white where pixels are known."""
    box: tuple[int, int, int, int] | None = None
    """inpaint_box: hidden rows and columns, FIRST_ROW LAST_ROW FIRST_COLUMN LAST_COLUMN, inclusive."""
    downsample: Literal["block", "bicubic"] = "block"
    """sr: block average or antialiased bicubic."""
    kernel: Path | None = None
    """deblur: a kernel file (.png, .npy, .safetensors) instead of the task's own."""
    operator: str | None = None
    """operator: a function of yours, as module:function."""
    fit: Literal["crop", "resize", "refuse"] = "crop"
    """How an image of another size is brought to the prior's."""


def main(argv: list[str]) -> int:
    """Measure; returns the exit code."""
    asked = tyro.cli(Measure, args=argv, prog="rsd measure")
    options = Restore(**{**asdict(asked), "clean": True})
    options.check()
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
