"""Masks for inpainting: bool tensors [1, 1, size, size], True where a pixel is known, the same for all channels."""

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

Box = tuple[int, int, int, int]


def scaled_box(box: Box, size: int) -> Box:
    """A box given at 512 px, at another size: its edges (not its pixels) are scaled and rounded, halves up."""
    top, bottom, left, right = (
        math.floor(edge * size / PRESET_SIZE + 0.5) for edge in (box[0], box[1] + 1, box[2], box[3] + 1)
    )
    return top, bottom - 1, left, right - 1


def box_mask(box: Box, size: int) -> torch.Tensor:
    """Hide rows box[0]..box[1] and columns box[2]..box[3], counted from 0, inclusive.

    Raises ValueError for a box that is empty, leaves the picture, or hides all of it.
    """
    top, bottom, left, right = box
    if not (0 <= top <= bottom < size and 0 <= left <= right < size):
        raise ValueError(
            f"The box hides rows {top}-{bottom}, columns {left}-{right}; first <= last must lie in 0-{size - 1}."
        )
    keep = torch.ones(1, 1, size, size, dtype=torch.bool)
    keep[..., top : bottom + 1, left : right + 1] = False
    return _checked(keep, size, "box")


def random_mask(size: int, *, seed: int, hidden: float = 0.8) -> torch.Tensor:
    """Hide that share of the pixels (their number rounded), drawn without replacement."""
    if not 0 <= hidden < 1:
        raise ValueError(f"The hidden share of the random mask is {hidden}; give 0 or more, less than 1.")
    order = torch.randperm(size * size, generator=generator(seed=seed, purpose="random mask"))
    keep = torch.ones(size * size, dtype=torch.bool)
    keep[order[: round(hidden * size * size)]] = False
    return _checked(keep.reshape(1, 1, size, size), size, "random mask")


def freeform_mask(size: int, *, seed: int, low: float = 0.10, high: float = 0.20) -> torch.Tensor:
    """Hide brush strokes that cover between ``low`` and ``high`` of the picture (as Saharia et al. 2022: 10-20%).

    A round brush walks along curves of random length and width until a share drawn from that range is covered. The
    strokes are drawn in the unit square, so a seed has (nearly) the same mask at every size.
    """
    rng = np.random.default_rng(generator(seed=seed, purpose="free-form mask").initial_seed())
    target = rng.uniform(low, low + 0.9 * (high - low))  # the last dab may overshoot it
    centres = (np.arange(size) + 0.5) / size
    hidden = np.zeros((size, size), dtype=bool)
    while True:
        x, y, angle = *rng.uniform(0.05, 0.95, 2), rng.uniform(0, 2 * math.pi)
        radius, bend = rng.uniform(0.015, 0.04), rng.normal(0, 4)
        for _ in range(int(rng.uniform(0.2, 0.8) / (radius / 2))):  # dabs half a radius apart
            hidden |= (centres[:, None] - y) ** 2 + (centres[None, :] - x) ** 2 <= radius**2
            if hidden.mean() >= target:
                return _checked(torch.from_numpy(~hidden)[None, None], size, "free-form mask")
            angle += bend * radius / 2 + rng.normal(0, 0.15)
            x, y = (x + math.cos(angle) * radius / 2) % 1, (y + math.sin(angle) * radius / 2) % 1


def read_mask(path: str | Path) -> torch.Tensor:
    """A mask image of any size, bool [1, 1, H, W]: white (brighter than mid-grey) is True, KNOWN, black is hidden.

    Raises ValueError for a mask that hides everything or has transparent pixels, which are neither white nor black;
    file errors as rsd.media.read_image.
    """
    from rsd.media import read_image, transparent

    known = read_image(path).mean(1, keepdim=True) > 0
    if transparent(path):
        raise ValueError(
            f"The mask {path} has transparent pixels; save it without transparency, white where pixels are known and "
            "black where they are hidden."
        )
    if not known.any():
        raise ValueError(f"The mask {path} hides every pixel; white is known, black is hidden.")
    return known


def given_mask(mask: str | Path | torch.Tensor, size: int) -> torch.Tensor:
    """The user's mask: an image file, white (brighter than mid-grey) where pixels are KNOWN, black where hidden; or a
    tensor [size, size] or [1, 1, size, size], 1 or True where known (above 0.5 counts as 1).

    Raises ValueError for a wrong size, values that are not finite, and a mask that hides everything; file errors as
    rsd.media.read_image.
    """
    if isinstance(mask, torch.Tensor):
        what, values = "mask", mask
    else:
        what, values = f"mask {mask}", read_mask(mask)[0, 0]
    if values.shape[-2:] != (size, size) or values.numel() != size * size:
        raise ValueError(f"The {what} has shape {list(values.shape)}, the image [{size}, {size}]; they must be equal.")
    if not torch.isfinite(values.float()).all():
        raise ValueError(f"The {what} has values that are not finite; use 1 where pixels are known and 0 elsewhere.")
    return _checked(values.reshape(1, 1, size, size).float() > 0.5, size, what)


def _checked(keep: torch.Tensor, size: int, what: str) -> torch.Tensor:
    assert keep.shape == (1, 1, size, size) and keep.dtype == torch.bool
    if not keep.any():
        raise ValueError(f"The {what} hides every pixel; leave some known (in a mask image, white is known).")
    return keep
