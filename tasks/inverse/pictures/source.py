"""The file of a picture, and answers like it: size, bit depth, colours, profile, EXIF and transparency.

A restoration works on sRGB. Here its answer is converted to the colours of the file and pasted into the file's own
values, so that what is not restored stays equal to the last bit.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from rsd.formats import FORMATS, LUMA
from rsd.media import converted
from rsd.runs.folder import write_bytes

BRIGHTNESS = np.array(LUMA, dtype=np.float32)
DIRECT = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "F")
"""Modes whose values an answer keeps. Palettes and other spaces become RGB, 16-bit modes arrays of uint16."""
HIGH = ("16B", "16L", "16N")


@dataclass(frozen=True)
class Source:
    """A picture as it is in its file, upright.

    ``values``: [H, W] grey or [H, W, C], of bool (1 bit), uint8, uint16 or float32. ``mode``: 1, L, LA, RGB, RGBA, CMYK
    or F, whatever the number of bits. ``profile``: the ICC profile of the colours, b"" for sRGB; ``exif``: without the
    orientation, which has been applied; ``dpi``: pixels per inch, if the file says.
    """

    values: np.ndarray
    mode: str
    profile: bytes = b""
    exif: bytes = b""
    dpi: tuple[float, float] | None = None

    @property
    def suffix(self) -> str:
        """The suffix of its answers: PNG, or TIFF for what PNG cannot hold."""
        return ".tif" if self.mode in ("CMYK", "F") else ".png"

    @property
    def has_alpha(self) -> bool:
        """Whether it has transparency."""
        return self.mode in ("LA", "RGBA")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def top(self) -> float:
        """The value of white."""
        return {"b": 1.0, "f": 1.0}.get(self.values.dtype.kind) or float(np.iinfo(self.values.dtype).max)

    def answer(
        self, x: torch.Tensor, weight: torch.Tensor | None = None, *, colour: bool = False, fill: bool = False
    ) -> Source:
        """Return a picture like this one that shows x [3, H, W] in [-1, 1] (sRGB, clamped).

        ``weight`` [H, W]: the share of x at each pixel, 0 keeps the file's values; None: x everywhere, which may have
        another size then. ``colour``: x has the colours that this grey picture lacks. ``fill``: pixels with weight
        become opaque."""
        if weight is not None and not colour and (box := _box_of(weight)) != (slice(0, None), slice(0, None)):
            values = self.values.copy()
            if box is not None:
                part = replace(self, values=self.values[box])
                values[box] = part.answer(x[(..., *box)], weight[box], fill=fill).values
            return replace(self, values=values)
        own = self._coloured() if colour and self.mode in ("1", "L", "LA", "F") else self
        rgb = (x.detach().float().cpu().clamp(-1, 1) + 1).permute(1, 2, 0).numpy() / 2
        alpha = self._alpha(rgb.shape[:2])
        if alpha is not None and not fill:  # what was shown on white
            seen = np.maximum(alpha, 1e-6)[..., None]
            rgb = np.where(alpha[..., None] > 0, (rgb - (1 - alpha[..., None])) / seen, rgb).clip(0, 1)
        made = own._from_srgb(rgb)
        if own.has_alpha:
            assert alpha is not None
            if fill:
                alpha = np.ones_like(alpha) if weight is None else np.maximum(alpha, weight.numpy() > 0)
            made = np.concatenate([made, alpha[..., None]], 2)
        made = own.top * (made[..., 0] if own.values.ndim == 2 else made)
        if weight is not None:
            share = weight.double().cpu().numpy().reshape(self.sides + (1,) * (own.values.ndim - 2))
            if own.has_alpha and not fill:
                share = np.concatenate([share.repeat(made.shape[2] - 1, 2), np.zeros_like(share)], 2)
            made = own.values + share * (made - own.values) if own.values.dtype != bool else np.where(
                share > 0, made, own.values)  # fmt: skip
        kind = own.values.dtype
        if kind.kind == "b":
            values = made > 0.5
        else:
            values = made.astype(kind) if kind.kind == "f" else np.rint(made).clip(0, own.top).astype(kind)
        if weight is not None:
            values = np.where(share > 0, values, own.values)
        return replace(own, values=values)

    def _alpha(self, sides: tuple[int, ...]) -> np.ndarray | None:
        if not self.has_alpha:
            return None
        alpha = self.values[..., -1].astype(np.float32) / self.top
        if alpha.shape != sides:
            height, width = sides
            alpha = np.asarray(Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
        return alpha

    def _coloured(self) -> Source:
        """Return the same picture in RGB, in sRGB; floating-point values in 16 bits, since PNG holds no others."""
        grey = self.values[..., :1] if self.values.ndim == 3 else self.values[..., None]
        if grey.dtype == bool:
            grey = grey.astype(np.uint8) * np.uint8(255)
        elif grey.dtype.kind == "f":
            grey = np.rint(65535 * grey.clip(0, 1)).astype(np.uint16)
        values = np.repeat(grey, 3, axis=2)
        if self.mode == "LA":
            values = np.concatenate([values, self.values[..., 1:]], 2)
        return replace(self, values=values, mode="RGBA" if self.mode == "LA" else "RGB", profile=b"")

    def _from_srgb(self, rgb: np.ndarray) -> np.ndarray:
        """Convert float32 [H, W, 3] in [0, 1] to the file's colours, [H, W, C] without alpha. The profile is applied in
        8 bits, the rest of the precision is added unchanged."""
        if self.mode == "CMYK":
            coarse = Image.fromarray(np.rint(255 * rgb).astype(np.uint8))
            inks = self._transform("RGB", "CMYK", coarse) or coarse.convert("CMYK")
            return np.asarray(inks, dtype=np.float32) / 255
        if self.mode in ("1", "L", "LA", "F"):
            grey = rgb @ BRIGHTNESS
            if self.profile and self.mode != "F":
                steps = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
                curve = converted(steps, self.profile)[0]
                if curve is not None:
                    line = np.maximum.accumulate(np.asarray(curve, dtype=np.float32)[0] @ BRIGHTNESS / 255)
                    grey = np.interp(grey, line, np.linspace(0, 1, 256)).astype(np.float32)
            return grey[..., None]
        if self.profile:
            levels = np.rint(255 * rgb).astype(np.uint8)
            if (made := self._transform("RGB", "RGB", Image.fromarray(levels))) is not None:
                shift = np.asarray(made, dtype=np.float32) - levels
                return (rgb + shift / 255).clip(0, 1)
        return rgb

    def _transform(self, mode: str, own: str, picture: Image.Image) -> Image.Image | None:
        """Convert an sRGB picture to the profile's colours; None if they are sRGB's or the profile is unusable."""
        if not self.profile or (own == "RGB" and not _converts(self.profile)):
            return None
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(self.profile))
            transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), profile, mode, own)
            return ImageCms.applyTransform(picture, transform)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return None

    def save(self, path: Path, text: dict[str, str] | None = None) -> Path:
        """Write the picture to ``path`` with its own suffix, atomically, ``text`` in the chunks of a PNG. Return the
        path."""
        path = path.with_suffix(self.suffix)
        write_bytes(path, self.encoded(text or {}))
        return path

    def encoded(self, text: dict[str, str]) -> bytes:
        """Return the content of its file."""
        info = PngInfo()
        for key, value in text.items():
            info.add_itxt(key, value)
        about: dict[str, Any] = {"icc_profile": self.profile} if self.profile else {}
        about |= {"exif": self.exif} if self.exif else {}
        about |= {"dpi": self.dpi} if self.dpi else {}
        buffer = io.BytesIO()
        if self.suffix == ".tif":
            made = Image.fromarray(self.values) if self.mode == "F" else Image.fromarray(self.values, "CMYK")
            made.save(buffer, "TIFF", compression="tiff_adobe_deflate", **about)
            return buffer.getvalue()
        if self.values.dtype == np.uint16 and self.values.ndim == 3:  # Pillow writes no colours of 16 bits
            Image.new("L", (1, 1)).save(buffer, "PNG", pnginfo=info, **about)
            return _deep_png(buffer.getvalue(), self.values)
        Image.fromarray(self.values).save(buffer, "PNG", pnginfo=info, **about)
        return buffer.getvalue()


def _box_of(weight: torch.Tensor) -> tuple[slice, slice] | None:
    """Return the rows and columns with weight [H, W], each from 0 to None if that is all of them; None if there are
    none."""
    rows, columns = ((weight > 0).any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return None
    if len(rows) and (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1) == (
        0, weight.shape[0], 0, weight.shape[1]):  # fmt: skip
        return slice(0, None), slice(0, None)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _converts(profile: bytes) -> bool:
    """Return whether a profile of RGB colours differs from sRGB, so that :func:`rsd.media.read_image` converts it."""
    return converted(Image.new("RGB", (1, 1)), profile)[0] is not None


def read_source(path: Path) -> Source:
    """Read the file of a picture that :func:`rsd.media.read_image` accepts."""
    with Image.open(path, formats=FORMATS) as opened:
        profile, dpi = opened.info.get("icc_profile") or b"", opened.info.get("dpi")
        upright = ImageOps.exif_transpose(opened)
        exif = _exif(upright)
        depth = opened.mode[0] == "I"
    kept: dict[str, Any] = {"profile": profile, "exif": exif, "dpi": dpi}
    if (deep := _deep_colours(path)) is not None:
        return Source(deep, {2: "LA", 3: "RGB", 4: "RGBA"}[deep.shape[2]], **kept)
    if depth:
        return Source(np.asarray(upright).astype(np.uint16), "L", **kept)
    if upright.mode not in DIRECT or (upright.mode in ("1", "L", "RGB") and upright.has_transparency_data):
        grey = upright.mode in ("1", "L")
        alpha = upright.has_transparency_data
        upright = upright.convert(("LA" if grey else "RGBA") if alpha else "RGB")
    return Source(np.array(upright), upright.mode, **kept)


def _exif(picture: Image.Image) -> bytes:
    """Return the EXIF data of an upright picture; b"" if there are none."""
    exif = picture.getexif()
    exif.pop(0x0112, None)
    return exif.tobytes() if len(exif) else b""


def _deep_colours(path: Path) -> np.ndarray | None:
    """Return the values of a PNG or TIFF with colours (or grey and alpha) of 16 bits, uint16 [H, W, C], upright; None
    for other files. Pillow reads only the high bytes: the low ones come from reading it with swapped bytes."""
    with Image.open(path, formats=FORMATS) as picture:
        rawmode = _rawmode(picture)
        if not rawmode or ";16" not in rawmode or picture.mode[0] == "I":
            return None
        if rawmode == "LA;16B":  # there is no swapped mode of it; its bytes are those of RGBA
            _set_rawmode(picture, "RGBA")
            raw = np.asarray(ImageOps.exif_transpose(picture)).astype(np.uint16)
            return raw[..., ::2] << 8 | raw[..., 1::2]
        high = np.asarray(ImageOps.exif_transpose(picture)).astype(np.uint16)
    with Image.open(path, formats=FORMATS) as picture:
        name, _, order = rawmode.partition(";")
        little = order == "16L" or (order == "16N" and np.little_endian)
        _set_rawmode(picture, f"{name};{'16B' if little else '16L'}")
        low = np.asarray(ImageOps.exif_transpose(picture)).astype(np.uint16)
    return high << 8 | low


def _rawmode(picture: Image.Image) -> str:
    """Return how a file's pixels are stored, as Pillow names it."""
    tiles = getattr(picture, "tile", None) or [None]
    arguments = getattr(tiles[0], "args", None)
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _set_rawmode(picture: Any, rawmode: str) -> None:
    """Let Pillow read a file's pixels as if they were stored so."""
    if rawmode == "RGBA":
        picture._mode = "RGBA"
    picture.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in picture.tile
    ]


def _deep_png(small: bytes, values: np.ndarray) -> bytes:
    """Return a PNG of 16 bits a channel, uint16 [H, W, C], with the other chunks of the PNG ``small``."""
    height, width, channels = values.shape
    rows = np.ascontiguousarray(values, dtype=">u2").view(np.uint8).reshape(height, -1)
    rows = np.concatenate(
        [rows[:1], rows[1:] - rows[:-1]]
    )  # each row less the one above (filter 2; the first: above 0)
    data = np.concatenate([np.full((height, 1), 2, np.uint8), rows], 1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    found, at = [small[:8]], 8
    while at < len(small):
        (length,) = struct.unpack(">I", small[at : at + 4])
        kind, content = small[at + 4 : at + 8], small[at + 8 : at + 8 + length]
        content = {b"IHDR": header, b"IDAT": zlib.compress(data, 6)}.get(kind, content) if kind in (
            b"IHDR", b"IDAT") else content  # fmt: skip
        found.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
        at += 12 + length
    return b"".join(found)
