"""What a measurement of a known head leaves open: render every alternative and see whether the measurement changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from rsd.heads.attributes import ATTRIBUTES, Head, visible
from rsd.heads.render import render

LEAST_ENERGY = 0.2  # sum of squared changes, images in [-1, 1]: about three pixels that change by 0.15 in each colour


def picture(head: Head, size: int) -> torch.Tensor:
    """The head drawn, [1, 3, size, size] in [-1, 1]."""
    return torch.from_numpy(render(head, size).astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


def open_values(head: Head, measure: Callable[[torch.Tensor], torch.Tensor], size: int = 64) -> dict[str, set[str]]:
    """For every attribute that shows in the clean picture, the values that the measurement does not tell apart from the
    true one (the true one included): more than one means that the attribute is hidden.

    ``measure``: [1, 3, size, size] to y, noiseless, zero where nothing is observed.
    """
    seen = visible(head.values, head.camera)
    truth = measure(picture(head, size))
    left_open: dict[str, set[str]] = {}
    for attribute, options in ATTRIBUTES.items():
        if not seen[attribute]:
            continue
        values = {head[attribute]}
        for option in options:
            if option in values:
                continue
            other = replace(head, values={**head.values, attribute: option})
            energy = (measure(picture(other, size)) - truth).abs().square().sum()
            if float(energy) < LEAST_ENERGY:
                values.add(option)
        left_open[attribute] = values
    return left_open
