"""The scratched photograph of `make demo`."""

import sys

import numpy as np
from PIL import Image

from scripts import scratched


def test_the_mask_shows_where_the_photograph_is_scratched(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scratched", "--out", str(tmp_path)])
    scratched.main()
    photo, mask, clean = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("photo", "mask", "clean"))
    changed = (photo != clean).any(2)
    assert 0.02 < (mask == 0).mean() < 0.08 and not changed[mask == 255].any() and changed[mask == 0].mean() > 0.95
