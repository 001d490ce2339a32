"""Which files are pictures: in a folder by their suffix, when opened by their first bytes. rsd.media reads them.

Imports nothing heavy, so that a mistake about files is told at once.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
"""What Pillow may open a file as. No others: it hands EPS to Ghostscript."""
PICTURES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Suffixes of what counts as a picture in a folder, in lower case: those of FORMATS."""
UNREAD = (
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".svg", ".pdf", ".eps", ".ps", ".psd", ".xcf", ".kra", ".ico", ".icns",
    ".tga", ".dds", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
"""Suffixes of pictures of kinds that are not read."""


def not_taken(folder: Path, taken: Collection[str] = PICTURES) -> list[str]:
    """What of a folder has none of the suffixes ``taken``, in order, each with the reason; hidden files are no part
    of it."""
    found = []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or (suffix in taken and not path.is_dir()):
            continue
        if path.is_dir():
            why = "a folder: give it by itself"
        elif suffix in UNREAD:
            why = "a kind of picture that is not read: save it as PNG, JPEG or TIFF"
        elif suffix == ".jsonl":
            why = "a manifest: give it by itself"
        else:
            why = f"the suffix {path.suffix} is of no picture" if suffix else "no suffix"
        found.append(f"{path.name} ({why})")
    return found


def is_transparent(path: Path) -> bool:
    """Whether any pixel of a picture is not opaque. Raises what Pillow raises for what it cannot open."""
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        return image.has_transparency_data and min(image.convert("RGBA").getchannel("A").tobytes(), default=255) < 255
