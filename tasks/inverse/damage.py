"""Read the damage of a picture from the picture: its noise, its compression, the width of its blur, its scratches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .operators import Denoise, Operator, PoissonDenoise, make_operator
from .operators.blind import DOUBT, estimate_blur
from .operators.grain import estimate_peak, estimate_sigma
from .operators.jpeg import of_file, read_jpeg
from .operators.masks import Size
from .operators.scratches import find_scratches
from .options import LEAST_NOISE, Restore

SMALLEST = 32
"""The shorter side in pixels from which noise and blur are estimated."""


def operator_of(path: Path, picture: torch.Tensor, options: Restore, size: Size) -> tuple[Operator | None, str | None]:
    """Return the operator that a damaged picture [1, 3, H, W] shows, and a note; None where the options say all.

    Raise ValueError, without the file's name, if the picture does not show it."""
    if options.clean:
        return None, None
    match options.task:
        case "denoise" if options.sigma_v <= LEAST_NOISE:
            _check_large(picture, "--sigma-v")
            made = Denoise(max(estimate_sigma(picture), LEAST_NOISE))
            assert made.sigma is not None
            return _named(made, options), (
                f"noise of {127.5 * made.sigma:.1f} grey levels, as estimated; "
                f"--sigma-v {2 * made.sigma:.2g} removes more, --sigma-v {made.sigma / 2:.2g} less"
            )
        case "denoise_poisson" if options.peak is None:
            _check_large(picture, "--peak")
            peak = min(max(estimate_peak(picture), 1.0), 1e6)
            return _named(PoissonDenoise(peak), options), f"{peak:.3g} photons at white, as estimated; or give --peak"
        case "deblur_gaussian" if options.blur is None and options.kernel is None and blind(options):
            _check_large(picture, "--blur")
            width = estimate_blur(picture, estimate_sigma(picture))
            known = replace(options, blur=width)
            note = (
                f"a blur of {width:.2f} px, as estimated from the spectrum (give or take {width * DOUBT:.2f} px); "
                "if samples have rings give a smaller --blur, if they are soft a larger one"
            )
            return make_operator(options.task, size=size, blur=known.blur), note
        case "jpeg" if options.quality is None:
            found = of_file(path)
            return _named(found, options), found.name
    return None, None


def blind(options: Restore) -> bool:
    """Return whether the width of the blur is estimated: for photographs. Pictures of the built-in heads are taken to
    have the task's own."""
    from rsd.priors import over_heads

    return not over_heads(options.prior)


def measurement_of(path: Path, picture: torch.Tensor, operator: Operator, options: Restore) -> torch.Tensor:
    """Return the picture as the operator measures it: a JPEG file from its stored coefficients."""
    if options.task == "jpeg" and not options.clean and options.quality is None:
        return read_jpeg(path, operator)  # type: ignore[arg-type]
    return picture


def scratched(picture: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return the known pixels of a picture, bool [1, 1, H, W], and a note. Raise ValueError if no scratch is found."""
    known = find_scratches(picture)
    share = 1 - float(known.double().mean())
    if share == 0:
        raise ValueError("no scratches were found; paint them into a mask yourself, and give it with --mask.")
    return known, (
        f"{100 * share:.2g}% of the pixels are taken for scratches (mask.png); if that is wrong, correct a copy of the "
        "mask and give it with --mask"
    )


def _check_large(picture: torch.Tensor, flag: str) -> None:
    if min(picture.shape[-2:]) < SMALLEST:
        raise ValueError(f"it is too small to estimate its damage from; give {flag}.")


def _named(operator: Operator, options: Restore) -> Operator:
    operator.task = options.task
    return operator
