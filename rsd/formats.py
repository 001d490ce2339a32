"""Which files are pictures: in a folder by their suffix, when opened by their first bytes (rsd.media reads them); and
what brightness is.

Imports nothing heavy, so that mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (JFIF, BT.601)."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
"""Formats that Pillow may open. Not all: it passes EPS to Ghostscript."""
PICTURES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Lower-case suffixes of pictures in a folder, those of FORMATS."""
UNREAD = (
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".svg", ".pdf", ".eps", ".ps", ".psd", ".xcf", ".kra", ".ico", ".icns",
    ".tga", ".dds", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
"""Suffixes of pictures in unsupported formats."""


def skipped_files(folder: Path, taken: Collection[str] = PICTURES) -> list[str]:
    """List the entries of a folder without one of the suffixes ``taken``, each with the reason; hidden files are
    skipped."""
    found = []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or (suffix in taken and not path.is_dir()):
            continue
        if path.is_dir():
            why = "a folder: give it by itself"
        elif suffix in UNREAD:
            why = "an unsupported picture format: save it as PNG, JPEG or TIFF"
        elif suffix == ".jsonl":
            why = "a manifest: give it by itself"
        else:
            why = f"{path.suffix} is not a picture format" if suffix else "no suffix"
        found.append(f"{path.name} ({why})")
    return found


def is_transparent(path: Path) -> bool:
    """Return whether a picture has transparent pixels. Raises Pillow's errors if it cannot be opened."""
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        return image.has_transparency_data and min(image.convert("RGBA").getchannel("A").tobytes(), default=255) < 255
