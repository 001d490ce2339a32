"""The prior "auto": heads for built-in heads, photos for other pictures. Imports nothing heavy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from rsd.formats import FORMATS, PICTURES
from rsd.priors import has_photos
from rsd.runs.settings import is_manifest

LARGEST = 64
"""Pictures whose sides are at most this many pixels are taken for heads, which may be degraded: photographs are
larger."""
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
    """Return whether a picture is larger than heads are and has no mark of a built-in head."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            large = max(picture.size) > LARGEST
            return large and "head" not in getattr(picture, "text", {})
    except Exception:  # Pillow's decoders raise many types; the file is reported later
        return False


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
