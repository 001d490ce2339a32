"""Write a scratched photograph and its mask for `make demo`: ``python -m scripts.scratched --out DIR``.

The photograph is the astronaut of scikit-image (NASA, public domain), which the prior of photographs has not been
trained on. It is part of the package: nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from rsd.runs.flags import script

BOX = (60, 0, 380, 260)
"""The part of the photograph: left, upper, right and lower pixel."""
LINES = (
    ((10, 40), (150, 62), (310, 20)), ((300, 5), (262, 120), (280, 255)), ((40, 255), (90, 150), (60, 8)),
    ((120, 210), (200, 190), (318, 214)), ((150, 5), (176, 90), (160, 140)),
)  # fmt: skip
"""Scratches: points x, y in that part."""


@dataclass
class Scratched:
    """Write photo.png (scratched), mask.png (white where pixels are known) and clean.png."""

    out: Path = Path("runs/scratched")
    """The folder to write to."""


def main() -> None:
    """Write the three pictures."""
    o = script(Scratched, "python -m scripts.scratched")
    clean = Image.fromarray(data.astronaut()).crop(BOX)
    mask = Image.new("L", clean.size, 255)
    pen = ImageDraw.Draw(mask)
    for line in LINES:
        pen.line(line, fill=0, width=4, joint="curve")
    values = np.array(clean)
    values[np.asarray(mask) == 0] = (236, 230, 220)
    o.out.mkdir(parents=True, exist_ok=True)
    for name, picture in (("photo", Image.fromarray(values)), ("mask", mask), ("clean", clean)):
        picture.save(o.out / f"{name}.png")
    print(f"{o.out}: photo.png, mask.png, clean.png")


if __name__ == "__main__":
    main()
