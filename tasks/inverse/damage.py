"""Read the damage of a picture from the picture: its noise, its compression, the width of its blur, its scratches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rsd import media
from rsd.priors import over_heads
from rsd.runs.settings import make_folder

from .inputs import Job
from .operators import Blur, Denoise, Operator, PoissonDenoise
from .operators.blind import DOUBT, estimate_blur
from .operators.grain import estimate_peak, estimate_sigma
from .operators.jpeg import of_file, read_jpeg
from .operators.kernels import gaussian_of
from .operators.scratches import find_scratches
from .options import LEAST_NOISE, Restore

SMALLEST = 32
"""The shorter side in pixels from which noise and blur are estimated."""
MASKS = Path("runs/masks")
"""Where --propose writes without --out."""

Seen = tuple[Operator, torch.Tensor, tuple[str, ...]]


def seen(path: Path, picture: torch.Tensor, operator: Operator, options: Restore, *, whole: bool) -> Seen:
    """Return the operator that a damaged picture [1, 3, H, W] shows, the measurement, and notes; those that are given
    where the options say all. ``whole``: whether the picture has the file's own pixels.

    Raise ValueError, without the file's name, if the picture does not show it."""
    made: Operator
    match options.task:
        case "denoise" if options.sigma_v <= LEAST_NOISE:
            _check_large(picture, "--sigma-v")
            sigma = max(estimate_sigma(picture), LEAST_NOISE)
            made, note = (
                Denoise(sigma),
                (f"noise of {127.5 * sigma:.1f} grey levels, as estimated (--sigma-v {sigma:.2g}; more smooths more)"),
            )
        case "denoise_poisson" if options.peak is None:
            _check_large(picture, "--peak")
            peak = min(max(estimate_peak(picture), 1.0), 1e6)
            made, note = PoissonDenoise(peak), f"{peak:.3g} photons at white, as estimated (--peak; less smooths more)"
        case "deblur_gaussian" if options.blur is None and options.kernel is None and not over_heads(options.prior):
            _check_large(picture, "--blur")
            width = estimate_blur(picture, estimate_sigma(picture))
            made = Blur(gaussian_of(width), f"Gaussian blur of {width:.2f} px")
            note = (
                f"a blur of {width:.2f} px, as estimated from the spectrum, give or take {width * DOUBT:.2f} px "
                "(--blur; less if samples have rings, more if they are soft)"
            )
        case "jpeg" if options.quality is None:
            if not whole:
                raise ValueError(
                    "its blocks would be lost in cropping or resizing it; take a prior that takes any size, --prior "
                    "photos, and --fit whole."
                )
            found = of_file(path)
            picture, made, note = read_stored(path, picture, found), found, found.name
        case _:
            return operator, picture, ()
    made.task = options.task
    return made, picture, (note,)


def read_stored(path: Path, picture: torch.Tensor, operator: Operator) -> torch.Tensor:
    """Return the measurement of a JPEG file. Raise ValueError if its colours are not sRGB, of which ``picture`` is."""
    y = read_jpeg(path, operator)  # type: ignore[arg-type]
    with Image.open(path) as opened:
        plain = np.asarray(opened.convert("RGB"), dtype=np.float32)
    here = picture.float().mean((0, 2, 3)) - torch.from_numpy(plain.mean((0, 1)) / 127.5 - 1)
    if float(here.abs().max()) > 2 / 127.5:
        raise ValueError(
            "its colours have a profile other than sRGB, in which the compression cannot be followed; remove the "
            "profile from a copy, restore that, and put the profile back."
        )
    return y


def scratched(picture: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return the known pixels of a picture, bool [1, 1, H, W], and a note. Raise ValueError if no scratch is found."""
    known = find_scratches(picture)
    share = 1 - float(known.double().mean())
    if share == 0:
        raise ValueError("no scratches were found; paint them into a mask yourself, black, and give it with --mask.")
    return known, (
        f"note: {100 * share:.2g}% of the pixels are taken for scratches, see mask.png; if that is wrong, correct it, "
        "and give it with --mask mask.png instead of --task scratches"
    )


def propose(options: Restore, jobs: Sequence[Job]) -> int:
    """Write what is taken for scratches in each picture, NAME-mask.png and NAME-marked.png, which shows it in red.
    Return the exit code."""
    folder = options.out or MASKS
    make_folder(folder)
    for job in jobs:
        picture = media.read_image(job.path)
        try:
            known, _ = scratched(picture)
        except ValueError as error:
            raise ValueError(f"{job.path}: {error}") from error
        file, _ = write_proposal(picture, known, folder, job.name)
        share = 1 - float(known.double().mean())
        print(f"{job.title}: {100 * share:.2g}% is taken for scratches, {file}; correct it if need be, then:")
        print(f"  rsd restore {job.path} --mask {file}")
    return 0


def write_proposal(picture: torch.Tensor, known: torch.Tensor, folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME-mask.png, which is black where a picture is taken for scratched, and NAME-marked.png, where that is
    red. Return both paths."""
    mask, marked = folder / f"{name}-mask.png", folder / f"{name}-marked.png"
    media.write_png(mask, 2 * known.float().expand(-1, 3, -1, -1) - 1)
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1)
    media.write_png(marked, torch.where(known, picture, red))
    return mask, marked


def _check_large(picture: torch.Tensor, flag: str) -> None:
    if min(picture.shape[-2:]) < SMALLEST:
        raise ValueError(f"it is too small to estimate its damage from; give {flag}.")
