"""Masks for inpainting: bool tensors [1, 1, H, W], True for known pixels, the same for all channels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from rsd.randomness import generator

PRESET_SIZE = 512
HALF_FACE = (150, 449, 250, 449)
"""Hidden rows and columns of the paper's half-face box at 512 px: first and last row, first and last column."""
FULL_FACE = (150, 449, 150, 374)

TINT = 0.2
"""The difference of a pixel's channels, of 1, from which it has a colour."""

Box = tuple[int, int, int, int]
Size = int | tuple[int, int]
"""The side of a square picture in pixels, or height and width."""


def sides_of(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def scaled_box(box: Box, size: Size) -> Box:
    """Scale a box from 512 px to another size: its edges (not its pixels) are scaled and rounded, halves up."""
    height, width = sides_of(size)
    edges = ((box[0], height), (box[1] + 1, height), (box[2], width), (box[3] + 1, width))
    top, bottom, left, right = (math.floor(edge * side / PRESET_SIZE + 0.5) for edge, side in edges)
    return top, bottom - 1, left, right - 1


def box_mask(box: Box, size: int, width: int | None = None) -> torch.Tensor:
    """Hide rows box[0]..box[1] and columns box[2]..box[3], counted from 0, inclusive, of an image ``size`` high and
    ``width`` wide (default: square).

    Raise ValueError for a box that is empty, leaves the image, or hides all of it.
    """
    width = size if width is None else width
    top, bottom, left, right = box
    if not (0 <= top <= bottom < size and 0 <= left <= right < width):
        limits = f"0-{size - 1}" if width == size else f"0-{size - 1} (rows) and 0-{width - 1} (columns)"
        raise ValueError(
            f"The box hides rows {top}-{bottom}, columns {left}-{right}; first <= last must lie in {limits}."
        )
    keep = torch.ones(1, 1, size, width, dtype=torch.bool)
    keep[..., top : bottom + 1, left : right + 1] = False
    if not keep.any():
        raise ValueError("The box hides every pixel; leave some known.")
    return keep


def random_mask(size: Size, *, seed: int, hidden: float = 0.8) -> torch.Tensor:
    """Hide that share of the pixels (rounded to a number), drawn without replacement."""
    if not 0 <= hidden < 1:
        raise ValueError(f"The hidden share of the random mask is {hidden}; give 0 or more, less than 1.")
    height, width = sides_of(size)
    order = torch.randperm(height * width, generator=generator(seed=seed, purpose="random mask"))
    keep = torch.ones(height * width, dtype=torch.bool)
    keep[order[: round(hidden * height * width)]] = False
    return _checked(keep.reshape(1, 1, height, width), "random mask")


def freeform_mask(size: Size, *, seed: int, low: float = 0.10, high: float = 0.20) -> torch.Tensor:
    """Hide brush strokes that cover between ``low`` and ``high`` of the image (Saharia et al. 2022: 10-20%).

    A round brush moves along curves of random length and width until a share drawn from that range is covered. The
    strokes are drawn in the unit square, so a seed gives (nearly) the same mask at every size.
    """
    rng = np.random.default_rng(generator(seed=seed, purpose="free-form mask").initial_seed())
    target = rng.uniform(low, low + 0.9 * (high - low))  # the last dab may overshoot it
    height, width = sides_of(size)
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    hidden, number = np.zeros((height, width), dtype=bool), 0
    while True:
        x, y, angle = *rng.uniform(0.05, 0.95, 2), rng.uniform(0, 2 * math.pi)
        radius, bend = rng.uniform(0.015, 0.04), rng.normal(0, 4)
        for _ in range(int(rng.uniform(0.2, 0.8) / (radius / 2))):  # dabs half a radius apart
            near = _near(rows, y, radius), _near(columns, x, radius)
            dab = (rows[near[0], None] - y) ** 2 + (columns[None, near[1]] - x) ** 2 <= radius**2
            number += int(np.count_nonzero(dab & ~hidden[near]))
            hidden[near] |= dab
            if number / hidden.size >= target:
                return _checked(torch.from_numpy(~hidden)[None, None], "free-form mask")
            angle += bend * radius / 2 + rng.normal(0, 0.15)
            x, y = (x + math.cos(angle) * radius / 2) % 1, (y + math.sin(angle) * radius / 2) % 1


def _near(places: np.ndarray, at: float, radius: float) -> slice:
    """Return where ascending ``places`` lie within ``radius`` of ``at``, and one place more on either side."""
    first, last = np.searchsorted(places, (at - radius, at + radius))
    return slice(max(int(first) - 1, 0), int(last) + 1)


def read_levels(path: str | Path) -> torch.Tensor:
    """Read a mask image of any size as brightness, [1, 1, H, W] from 0 (black) to 1 (white).

    Raise ValueError for a mask with colours or with transparent pixels, which are neither; file errors as in
    rsd.media.read_image.
    """
    from rsd.media import read_image, transparent

    channels = (read_image(path) + 1) / 2
    levels = channels.mean(1, keepdim=True)
    if (share := float((channels.amax(1) - channels.amin(1) > TINT).double().mean())) > 1e-3:
        raise ValueError(
            f"The mask {path} has colours ({100 * share:.2g}% of its pixels); save it in black and white, white where "
            "pixels are known and black where they are hidden."
        )
    if transparent(path):
        raise ValueError(
            f"The mask {path} has transparent pixels; save it without transparency, white where pixels are known and "
            "black where they are hidden. If they are the hole in your image, restore that file with --mask alpha."
        )
    return levels


def grey_share(levels: torch.Tensor) -> float:
    """Return the share of a mask's pixels that are neither black nor white: more than 8 of 255 levels from both, since
    JPEG changes them a little."""
    return float(((levels > 8.5 / 255) & (levels < 1 - 8.5 / 255)).double().mean())


def known_of(levels: torch.Tensor, path: str | Path, hole: str = "black") -> torch.Tensor:
    """Return the KNOWN pixels of a mask, bool, thresholded at mid-grey; ``hole``: the colour of hidden pixels. Raise
    ValueError for another colour than black or white, and if every pixel is hidden."""
    known = _brighter(levels, hole)
    if not known.any():
        other = "white" if hole == "black" else "black"
        raise ValueError(
            f"The mask {path} hides every pixel; {other} is known, {hole} is hidden (--mask-hole {other} inverts that)."
        )
    return known


def _brighter(levels: torch.Tensor, hole: str) -> torch.Tensor:
    if hole not in ("black", "white"):
        raise ValueError(f'The colour of hidden pixels is "{hole}"; give black or white.')
    return (levels > 0.5) if hole == "black" else (levels <= 0.5)


def read_mask(path: str | Path, hole: str = "black") -> torch.Tensor:
    """Read a mask image of any size as bool [1, 1, H, W]: white (brighter than mid-grey) is True, KNOWN, black is
    hidden; inverted with ``hole`` "white".

    Raise what :func:`read_levels` and :func:`known_of` raise.
    """
    return known_of(read_levels(path), path, hole)


def given_mask(mask: str | Path | torch.Tensor, size: Size, hole: str = "black") -> torch.Tensor:
    """Return the user's mask: an image file, white (brighter than mid-grey) for KNOWN pixels, black for hidden ones,
    or a tensor [H, W] or [1, 1, H, W], 1 or True for known pixels (above 0.5 counts as 1). Both are inverted with
    ``hole`` "white".

    Raise ValueError for a wrong size, values that are not finite, and a mask that hides everything; file errors as in
    rsd.media.read_image.
    """
    if isinstance(mask, torch.Tensor):
        what, values = "mask", mask.float()
    else:
        what, values = f"mask {mask}", read_levels(mask)[0, 0]
    height, width = sides_of(size)
    if values.shape[-2:] != (height, width) or values.numel() != height * width:
        shape = list(values.shape)
        raise ValueError(f"The {what} has shape {shape}, the image [{height}, {width}]; they must be equal.")
    if not torch.isfinite(values).all():
        raise ValueError(f"The {what} has values that are not finite; use 1 where pixels are known and 0 elsewhere.")
    values = values.reshape(1, 1, height, width)
    return _checked(_brighter(values, hole), what) if isinstance(mask, torch.Tensor) else known_of(values, mask, hole)


def _checked(keep: torch.Tensor, what: str) -> torch.Tensor:
    assert keep.ndim == 4 and keep.shape[:2] == (1, 1) and keep.dtype == torch.bool
    if not keep.any():
        raise ValueError(f"The {what} hides every pixel; leave some known (in a mask image, white is known).")
    return keep
