"""How well samples explain a measurement, for the selection of those to keep (``--draw M --keep N``)."""

from __future__ import annotations

import math

import torch

from rsd.metrics.selection import Fit

from .operators import Operator, data_residual

GREY = 2 / 255 / math.sqrt(12)
"""The rounding of 8-bit pictures in [-1, 1], the noise level if sigma_v is 0."""


@torch.no_grad()
def measurement_fit(operator: Operator, images: torch.Tensor, y: torch.Tensor, sigma_v: float) -> Fit:
    """Return the residual |y - f(x)| / sqrt(m) of images [M, 3, H, W], in units of sigma_v (in those of y if sigma_v is
    0). The score is 1 / residual; residuals below the noise are equal, since they say nothing more about x."""
    difference, count = data_residual(operator, images, y)
    each = difference.abs().square().flatten(1).sum(1).double().cpu().sqrt() / math.sqrt(count)
    return Fit("residual", each / (sigma_v or 1.0), 1 / each.clamp(min=sigma_v or GREY))
