"""Files that come from the page: copied into the folder of runs, with limits, and checked as the command line does."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from rsd.formats import FORMATS, PICTURES
from rsd.media import read_image
from rsd.runs.folder import write_bytes

UPLOADS = "uploads"
"""The folder of uploaded files in the folder of runs. A run that goes on needs its picture there."""
LIMIT = 64 * 2**20
"""Bytes of an uploaded file, at most."""
PIXELS = 50_000_000
"""Pixels of an uploaded picture, at most."""
ARRAYS = (".npy", ".safetensors")
"""Files with numbers instead of a picture: measurements and kernels. Neither can hold code."""


def keep(file: str | Path, runs: Path, *, what: str = "picture", arrays: bool = True) -> Path:
    """Copy an uploaded file into ``runs``/uploads, and return its path there; equal files are copied once.

    ``what``: its name in messages. ``arrays``: whether it may be a measurement or a kernel. Raises ValueError or
    OSError, in one sentence, for a file that is too large or no picture.
    """
    file = Path(file)
    name, suffix = file.name, file.suffix.lower()
    size = file.stat().st_size
    if size > LIMIT:
        raise ValueError(f"The {what} {name} has {size / 2**20:.0f} MB; give a file of at most {LIMIT // 2**20} MB.")
    if not (suffix in PICTURES or (arrays and suffix in ARRAYS)):
        raise ValueError(f"The {what} {name} is not a picture; give a PNG, a JPEG or another format of pictures.")
    if suffix in PICTURES:
        check_picture(file, what)
    data = file.read_bytes()
    kept = runs / UPLOADS / hashlib.sha256(data).hexdigest()[:12] / f"{safe_stem(file.stem)}{suffix}"
    if not kept.exists():
        write_bytes(kept, data)
    return kept


def check_picture(file: Path, what: str) -> None:
    """Raise ValueError or OSError for a picture that is too large or cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
    except Exception:  # Pillow's decoders raise many types; reading it says in one sentence what is wrong
        width = height = 0
    if width * height > PIXELS:
        raise ValueError(
            f"The {what} {file.name} has {width} x {height} pixels; give one of at most {PIXELS // 10**6} million."
        )
    try:
        read_image(file)
    except (ValueError, OSError) as error:  # with the file's own name: its place on this machine says nothing
        raise type(error)(str(error).replace(str(file), file.name)) from error


def safe_stem(stem: str) -> str:
    """Return a file name without its suffix in letters, digits, dots, dashes and underscores. It chooses the random
    numbers of a run, so it stays as it is if it can."""
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:60] or "picture"


def painted(editor: Any, picture: Path, runs: Path) -> Path:
    """Return the mask of what was painted over a picture: black where there is paint, of the picture's size.

    ``editor``: the value of gradio's ImageEditor with PIL images. Raises ValueError if nothing is painted.
    """
    with Image.open(picture, formats=FORMATS) as shown:
        size = ImageOps.exif_transpose(shown).size
    mask = Image.new("L", size, 255)
    for layer in (editor or {}).get("layers") or []:
        paint = layer.convert("RGBA").getchannel("A").resize(size, Image.Resampling.NEAREST)
        mask.paste(0, mask=paint.point(lambda alpha: 255 * (alpha > 0)))
    if mask.getextrema() == (255, 255):
        raise ValueError("Nothing is painted; paint over what is missing, or choose another mask.")
    name = hashlib.sha256(mask.tobytes() + repr(size).encode()).hexdigest()[:12]
    kept = runs / UPLOADS / name / "mask.png"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        mask.save(kept)
    return kept
