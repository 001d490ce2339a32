"""Find scratches, hairs and dust in a scanned photograph: thin, long marks that are brighter or darker than both of
their sides."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import label, regionprops

from rsd.formats import LUMA

RADIUS = 3
"""Marks are at most about twice this wide, in pixels of a picture whose shorter side has SIDE px; larger pictures in
proportion."""
SIDE = 512
LENGTH = 25
"""Length of the lines along which a mark is followed, in the same pixels."""
ANGLES = 16
LEAST = 0.2
"""The least contrast of a mark along its line, 25 of 255 grey levels."""


def find_scratches(x: torch.Tensor, strength: float = 8.0) -> torch.Tensor:
    """Return the KNOWN pixels of a picture [1, 3, H, W] in [-1, 1]: bool [1, 1, H, W], False at scratches.

    A mark is what an opening or a closing by a square removes (top hat). It counts where its mean along a line of some
    angle is ``strength`` times the typical one of the picture, and well above that of all angles, so that texture does
    not count. Fine straight lines of the picture itself, wires for instance, look the same."""
    side = min(x.shape[-2:])
    scale = max(1.0, side / SIDE)
    light = torch.einsum("c,bchw->bhw", x.new_tensor(LUMA), x)[:, None]
    found = torch.zeros_like(light, dtype=torch.bool)
    r = max(1, round(RADIUS * scale))
    r = min(r, (side - 1) // 4)
    if r < 1:
        return ~found
    for sign in (1.0, -1.0):
        found |= _marks(top_hat(sign * light, r), max(7, round(LENGTH * scale)), strength)
    return ~_grown(found, max(1, round(scale)))


def top_hat(light: torch.Tensor, r: int) -> torch.Tensor:
    """Return how much brighter a pixel is than the brightest square of 2 r + 1 px that fits beneath, [1, 1, H, W]."""
    lower = -_pool(-light, r)
    return light - _pool(lower, r)


def _pool(x: torch.Tensor, r: int) -> torch.Tensor:
    rows = F.max_pool2d(F.pad(x, (0, 0, r, r), mode="replicate"), (2 * r + 1, 1), 1)
    return F.max_pool2d(F.pad(rows, (r, r, 0, 0), mode="replicate"), (1, 2 * r + 1), 1)


def _marks(hat: torch.Tensor, length: int, strength: float) -> torch.Tensor:
    """Return the pixels of the top hat that belong to long marks."""
    lines = line_kernels(length).to(hat)
    half = lines.shape[-1] // 2
    along = F.conv2d(F.pad(hat, (half, half, half, half), mode="replicate"), lines)
    best, each = along.amax(1, keepdim=True), along.mean(1, keepdim=True)
    coarse = F.avg_pool2d(best, 8, ceil_mode=True, count_include_pad=False)  # its mean in a square of 4 lengths
    window = 2 * (length // 4) + 1
    coarse = F.avg_pool2d(coarse, window, 1, window // 2, count_include_pad=False)
    around = F.interpolate(coarse, scale_factor=8)[..., : hat.shape[-2], : hat.shape[-1]]
    typical = float(best.flatten().median())
    least = (2.5 * around).clamp(min=max(strength * typical, LEAST))
    core = (best > least) & (best > 2 * each) & (hat > 0.5 * best)
    near = F.max_pool2d(core.float(), 5, 1, 2) > 0
    return _long(core | (near & (hat > 0.5 * least)), length)


def _long(found: torch.Tensor, length: int) -> torch.Tensor:
    """Return the connected parts that are at least 0.8 ``length`` long and thin."""
    parts = label(found[0, 0].cpu().numpy(), connectivity=2)
    keep = np.zeros(parts.max() + 1, dtype=bool)
    for part in regionprops(parts):
        top, left, bottom, right = part.bbox
        extent = math.hypot(bottom - top, right - left)
        keep[part.label] = extent >= 0.8 * length and part.area <= 0.35 * length * extent
    return torch.from_numpy(keep[parts])[None, None].to(found.device)


def line_kernels(length: int) -> torch.Tensor:
    """Return lines through the middle at ANGLES angles, [ANGLES, 1, length, length] (odd), each of sum 1."""
    length += 1 - length % 2
    middle = length // 2
    kernels = torch.zeros(ANGLES, 1, length, length)
    for k in range(ANGLES):
        angle = math.pi * k / ANGLES
        for step in torch.linspace(-middle, middle, 2 * length).tolist():
            row, column = round(middle + step * math.sin(angle)), round(middle + step * math.cos(angle))
            kernels[k, 0, row, column] = 1
    return kernels / kernels.sum((-2, -1), keepdim=True)


def _grown(found: torch.Tensor, r: int) -> torch.Tensor:
    return F.max_pool2d(found.float(), 2 * r + 1, 1, r) > 0
