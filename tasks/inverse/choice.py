"""The prior "auto": heads for built-in heads, photos for other pictures. Imports nothing heavy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsd.formats import FORMATS, LUMA, PICTURES
from rsd.priors import has_photos
from rsd.runs.settings import is_manifest

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 64
"""The most pixels a side of built-in heads without their mark, which may be degraded."""
NEAR = 0.15
"""The largest distance, of 1, of the mean colour of an upper corner from a background of heads."""
MOST = 50
"""The pictures of a folder or a manifest that are looked at."""


def auto_prior(paths: Sequence[Path]) -> str:
    """Return the built-in prior for pictures, measurements, folders or manifests: photos if one of them is a photograph
    and that prior is installed, else heads."""
    return "photos" if has_photos() and first_photograph(paths) else "heads"


def describe(paths: Sequence[Path]) -> str:
    """Return why :func:`auto_prior` chose its prior, in a line."""
    found = first_photograph(paths)
    if found is None:
        return "prior: heads, for built-in heads (--prior photos for photographs)"
    if has_photos():
        return f"prior: photos, since {found.name} is a photograph (--prior heads for heads without their mark)"
    return f"prior: heads; {found.name} is a photograph, but the prior photos is not installed (docs/photos.md)"


def first_photograph(paths: Sequence[Path]) -> Path | None:
    """Return the first picture that is no built-in head; None if there is none, or none that can be read."""
    return next((path for path in _pictures(paths) if is_photograph(path)), None)


def is_photograph(path: Path) -> bool:
    """Return whether a picture has no mark of a built-in head, and is larger than they are or has another
    background."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            if "head" in getattr(picture, "text", {}):
                return False
            return max(picture.size) > LARGEST or not _has_background(picture)
    except Exception:  # Pillow's decoders raise many types; the file is reported later
        return False


def _has_background(picture: Image) -> bool:
    """Return whether both upper corners have the same of the plain backgrounds of heads, perhaps too bright or blurred,
    noisy or grey; or show nothing, since they are hidden."""
    import numpy as np

    from rsd.heads.render import BACKGROUND

    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    rows, columns = (max(side // 8, 1) for side in values.shape[:2])
    corners = [part.reshape(-1, 3).mean(0) for part in (values[:rows, :columns], values[:rows, -columns:])]
    plain = np.array([*BACKGROUND.values()])
    bright = np.clip(2 * plain - 0.5, 0, 1)  # task hdr
    grey = (plain @ LUMA)[:, None].repeat(3, 1)
    known = np.concatenate([plain, bright, grey, [(0, 0, 0), (0.5, 0.5, 0.5)]])
    return bool((np.abs(np.stack(corners)[:, None] - known).max(2) < NEAR).all(0).any())


def _pictures(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        try:
            if is_manifest(path):
                found += [path.parent / name for name in _listed(path)[:MOST]]
            elif path.is_dir():
                found += sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)[:MOST]
            elif path.suffix.lower() != ".safetensors" and path.is_file():
                found.append(path)
        except (OSError, ValueError):  # reported later
            continue
    return found


def _listed(path: Path) -> list[str]:
    """Return the pictures of a manifest. Mistakes are reported later."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        return [row.get("image") or "" for row in csv.DictReader(text.splitlines(), skipinitialspace=True)]
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [str(line.get("image", "")) for line in lines if isinstance(line, dict)]
