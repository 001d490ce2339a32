"""Synthetic pictures for the training: leaves that lie over one another, in the colours and textures of photographs.

Dead leaves (Matheron; Lee, Mumford and Huang 2001) have the edges, the occlusions and the statistics over scales of
photographs, and there is no end of them. Denoisers that are trained on them are nearly as good on photographs as those
trained on photographs (Achddou, Gousseau and Ladjal 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Draw = Callable[[np.random.Generator, int], np.ndarray]

SMALLEST = 1.5
"""Smallest radius of a leaf in pixels of the finished picture."""
FILL = 2.0
"""Leaves are laid until their areas add up to this times the picture's."""
TEXTURED = 0.5
"""Share of the leaves of 8 px or more that are cut from photographs; the others have one colour or a shade."""
BLURRED = 0.5
"""Share of the pictures that are blurred, as what is out of focus."""


def radius(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a leaf's radius with a density that falls with its cube, which makes the picture alike at all scales."""
    return float(1 / math.sqrt(rng.uniform(1 / high**2, 1 / low**2)))


def outline(rng: np.random.Generator, size: float) -> list[tuple[float, float]]:
    """Return the corners of a leaf of about the radius ``size`` around (0, 0): an ellipse, a polygon or a band."""
    kind = rng.random()
    count = 24 if kind < 0.5 else int(rng.integers(3, 7))
    angles = np.arange(count) * 2 * math.pi / count
    reach = np.ones(count) if kind < 0.5 else rng.uniform(0.6, 1.4, count)
    stretch = math.exp(rng.uniform(-0.5, 0.5) if kind < 0.85 else rng.uniform(1, 2))
    x, y = reach * np.cos(angles) * size * stretch, reach * np.sin(angles) * size / stretch
    turn = rng.uniform(0, 2 * math.pi)
    return list(zip(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn), strict=True))


def leaves(rng: np.random.Generator, side: int, photograph: Draw) -> np.ndarray:
    """Return a picture of leaves, uint8 [side, side, 3]. ``photograph``: returns a crop of a given side, from which
    colours and textures are taken."""
    scale = 2  # drawn at twice the size: edges without steps
    big = side * scale
    palette = photograph(rng, side).reshape(-1, 3)
    canvas = Image.fromarray(photograph(rng, side)).resize((big, big), Image.Resampling.BICUBIC)
    draw, area = ImageDraw.Draw(canvas), 0.0
    smallest = SMALLEST * math.exp(rng.uniform(0, 1.5))
    while area < FILL * side**2:
        size = radius(rng, smallest, side)
        area += math.pi * size**2
        x, y = rng.uniform(0, big, 2)
        corners = [(x + scale * dx, y + scale * dy) for dx, dy in outline(rng, size)]
        colour = tuple(int(c) for c in palette[rng.integers(len(palette))])
        if size < 8:
            draw.polygon(corners, fill=colour)
            continue
        mask = Image.new("L", (big, big))
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        if rng.random() < TEXTURED:
            filling = photograph(rng, side)
        else:
            other = palette[rng.integers(len(palette))] if rng.random() < 0.5 else np.array(colour)
            filling = shade(rng, np.array(colour, float), other.astype(float), side)
        canvas.paste(Image.fromarray(filling).resize((big, big), Image.Resampling.BICUBIC), mask=mask)
    if rng.random() < BLURRED:
        canvas = canvas.filter(ImageFilter.GaussianBlur(scale * rng.uniform(0, 1.5)))
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX))


def shade(rng: np.random.Generator, first: np.ndarray, second: np.ndarray, side: int) -> np.ndarray:
    """Return a straight shade from one colour [3] to another, uint8 [side, side, 3]."""
    turn = rng.uniform(0, 2 * math.pi)
    along = np.arange(side)[:, None] * math.sin(turn) + np.arange(side) * math.cos(turn)
    share = ((along - along.min()) / np.ptp(along))[..., None]
    return (first * (1 - share) + second * share).round().astype(np.uint8)
