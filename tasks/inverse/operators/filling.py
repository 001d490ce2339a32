"""Fill hidden pixels smoothly, a first estimate for inpainting."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def filled(y: torch.Tensor, known: torch.Tensor, steps: int = 16) -> torch.Tensor:
    """Return y [1, C, H, W] with the pixels that are not ``known`` [1, 1, H, W] filled in smoothly."""
    k = known.to(y.dtype)
    if bool(known.all()):
        return y
    height, width = y.shape[-2:]
    if min(height, width) < 2 or not bool(known.any()):
        mean = (y * k).sum((-2, -1), keepdim=True) / k.sum().clamp(min=1)
        return torch.where(known, y, mean)
    pad = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(k, pad), 2)
    coarse = F.avg_pool2d(F.pad(y * k, pad), 2) / weight.clamp(min=1e-6)
    guess = filled(coarse, weight > 0, steps).repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
    x = torch.where(known, y, guess)
    for _ in range(steps):
        p = F.pad(x, (1, 1, 1, 1), mode="replicate")
        mean = (p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:]) / 4
        x = torch.where(known, y, mean)
    return x
