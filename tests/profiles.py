"""Colour profiles for tests, written as in the ICC specification (v2 and v4 tags)."""

from __future__ import annotations

import itertools
import struct

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of red, green and blue, adapted to D50, as the profiles of those names have them."""


def s15(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


SRGB_CURVE = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """Return a profile with those tags."""
    text = b"test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(79),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": b"XYZ " + bytes(4) + s15(*D50),
        **tags,
    }
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    size = at + len(data)
    head = struct.pack(">I4sI", size, b"\0\0\0\0", 0x04000000 if SRGB_CURVE in tags.values() else 0x02400000)
    head += kind + space + connection + bytes(12) + b"acsp" + bytes(28) + s15(*D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


def rgb(primaries: tuple[tuple[float, float, float], ...], curve: bytes) -> bytes:
    """Return the profile of a display with those primaries."""
    named = zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    columns = {name: b"XYZ " + bytes(4) + s15(*xyz) for name, xyz in named}
    return profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def grey(curve: bytes) -> bytes:
    """Return a grey profile with that curve."""
    return profile(b"GRAY", {b"kTRC": curve})


def cmyk() -> bytes:
    """Return the profile of a printer whose lightness L* falls linearly with black ink, and whose other inks are
    ignored."""
    identity = bytes(range(256))
    nodes = itertools.product((0, 1), repeat=4)  # the last ink, black, changes fastest
    table = b"".join(bytes((0 if ink[3] else 255, 128, 128)) for ink in nodes)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += identity * 4 + table + identity * 3
    return profile(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, kind=b"prtr", connection=b"Lab ")
