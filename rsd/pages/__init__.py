"""Self-contained HTML pages: the layout that all reports share, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

MOST = 2560


def render(folder: Path, name: str, **values: Any) -> str:
    """Render the template ``folder/name``, which extends page.html of this folder. ``values`` has its title, about (see
    :func:`rsd.runs.folder.provenance`; with the command) and data (the commands that make the data, or "")."""
    return _environment(folder).get_template(name).render(**values)


def data_uri(picture: Image.Image, most: int = MOST, **options: Any) -> str:
    """Return an image as a data URI in WebP, at most ``most`` px on the longer side."""
    buffer = io.BytesIO()
    shrink(picture.convert("RGB"), most).save(buffer, "WEBP", **{"quality": 88, "method": 6, **options})
    return encoded(buffer.getvalue(), "webp")


def shrink(picture: Image.Image, most: int) -> Image.Image:
    """Shrink an image to at most ``most`` pixels on the longer side."""
    factor = most / max(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)


def encoded(content: bytes, kind: str) -> str:
    """Return the content of an image file as a data URI; ``kind``: png, webp, gif ..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def number(value: Any) -> str:
    """Format a figure with three digits, None as a dash."""
    return "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def minutes(seconds: float) -> str:
    """Format seconds."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=number, minutes=minutes)
    return environment
