"""``rsd heads``: write pictures of heads that the built-in models were not trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rsd.heads.attributes import ATTRIBUTES, Camera, Head, caption
from rsd.heads.reading import vocabulary
from rsd.runs import flags
from rsd.runs.settings import make_folder


@dataclass(kw_only=True)
class Heads:
    """Write procedural heads as PNG files, with attributes and caption in the text chunks."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("rsd heads --out heads", "rsd heads --out test --number 16 --view any")
    GROUPS: ClassVar[flags.Groups] = {"which heads": "number first split view size", "output": "out"}

    out: Path
    """The folder to write to."""
    number: int = 8
    """Number of heads."""
    first: int = 0
    """Number of the first head; a number always gives the same head."""
    split: Literal["train", "validation", "test"] = "test"
    """The split; the models were trained on train."""
    view: Literal["frontal", "any", "all"] = "frontal"
    """frontal (facing the camera), any (mostly faces), all (uniform azimuth)."""
    size: int = 64
    """Width and height in pixels; the built-in prior works at 64."""

    def check(self) -> None:
        """Raise ValueError for an invalid value."""
        for name, least in (("number", 1), ("first", 0), ("size", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")


def to_json(head: Head) -> str:
    """Serialise a head for the text chunk of a PNG."""
    c = head.camera
    return json.dumps({**head.values, "camera": [c.azimuth, c.elevation, c.zoom], "light": head.light})


def from_json(text: str) -> Head:
    """Parse the text of :func:`to_json`. Raise ValueError if it is invalid."""
    try:
        entry = json.loads(text)
        values = {a: entry[a] for a in ATTRIBUTES}
        for attribute, value in values.items():
            ATTRIBUTES[attribute].index(value)
        azimuth, elevation, zoom = entry["camera"]
        light = entry["light"]
        return Head(values, Camera(float(azimuth), float(elevation), float(zoom)), (float(light[0]), float(light[1])))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"this text does not describe a head: {text[:80]!r}") from error


def main(argv: list[str]) -> int:
    """Write the pictures. Return the exit code."""
    words = f"Prompts for the priors over heads can contain: {vocabulary()}."
    options = flags.parse(Heads, argv, prog="rsd heads", more=words)
    options.check()
    make_folder(options.out)
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from rsd.heads.data import head_at
    from rsd.heads.render import render

    for index in range(options.first, options.first + options.number):
        head = head_at(options.split, index, options.view)
        info = PngInfo()
        info.add_text("head", to_json(head))
        info.add_text("caption", caption(head.values, view=head.camera.view))
        Image.fromarray(render(head, options.size)).save(options.out / f"head-{index:04d}.png", pnginfo=info)
    print(f"{options.number} heads in {options.out}")
    return 0
