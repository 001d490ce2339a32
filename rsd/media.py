"""Read and write pictures. Elsewhere, images are float32 tensors [B, 3, H, W] in [-1, 1]; only this module converts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageDraw, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from rsd.formats import FORMATS, is_transparent
from rsd.formats import PICTURES as PICTURES
from rsd.runs.folder import write_bytes

MAX_PIXELS = 100_000_000
PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of a picture by the colour space of its profile."""
FITS = ("whole", "crop", "resize", "refuse")
MARGIN, CELL, LABEL = 6, 192, 16
LARGEST = 1024
"""The longer side of a picture in a grid, in pixels, at most."""


def read_image(path: str | Path) -> torch.Tensor:
    """Read a picture as float32 [1, 3, H, W] in [-1, 1].

    Applies the EXIF rotation, composites transparency on white, and converts grey, palette, CMYK and 16-bit pictures to
    RGB (16-bit colours to 8 bits, 16-bit grey exactly); reads the first frame of an animation. Colours with an embedded
    profile (Display P3, Adobe RGB, a printer's CMYK ...) are converted to sRGB; an unusable profile is ignored with a
    warning.
    Raises FileNotFoundError, PermissionError, or ValueError if the file is not a picture, is damaged, or has more than
    100 million pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path.")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            profile = opened.info.get("icc_profile", b"")
            mode, (values, why) = opened.mode, _rgb(ImageOps.exif_transpose(opened), profile)
            why = "it is damaged" if profile is None else why
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has more than {MAX_PIXELS:,} pixels; make it smaller.") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture in a supported format; give a PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF file."
        ) from error
    except PermissionError as error:
        raise PermissionError(f"{path} cannot be read; check its permissions.") from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise ValueError(f"{path} is a damaged picture ({error}); create it again.") from error
    if mode[0] in "IF" and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        top = 1 if mode == "F" else 65535
        raise ValueError(f"{path} has pixels that are not finite or not in 0 to {top}; scale them.")
    if why:
        warnings.warn(f"{path.name}: its colour profile is ignored ({why}); colours are read as sRGB.", stacklevel=2)
    return torch.from_numpy(values).permute(2, 0, 1)[None].mul_(2).sub_(1)


def _rgb(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, str]:
    """Return float32 [H, W, 3] in [0, 1] (integer and float files may exceed it), and why the profile was not used, or
    ""."""
    why = ""
    if image.mode[0] in "IF":
        grey = np.asarray(image).astype(np.float32) / np.float32(1 if image.mode == "F" else 65535)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        if profile and image.mode != "F" and grey.min() >= 0 and grey.max() <= 1:
            steps = np.arange(256, dtype=np.uint8)
            curve, why = converted(Image.fromarray(steps[None]), profile)  # in 8 bits, interpolated linearly
            if curve:
                values = np.asarray(curve, dtype=np.float32)[0] / 255
                rgb = np.stack([np.interp(grey, steps / 255, values[:, k]) for k in range(3)], 2).astype(np.float32)
        return rgb, why
    colours, why = converted(image, profile) if profile else (None, "")
    rgb = np.array(colours or image.convert("RGB"), dtype=np.float32)
    rgb /= 255  # in place: a panorama of 100 million pixels takes 1.2 GB
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"), dtype=np.float32)[..., 3:] / 255
        rgb = (rgb * alpha + (1 - alpha)).clip(0, 1)
    return rgb, why


def converted(image: Image.Image, profile: bytes) -> tuple[Image.Image | None, str]:
    """Convert a picture to sRGB by its profile. Return None if the colours are already sRGB (up to rounding), or if the
    profile cannot be used, with the reason."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = PROFILED.get(space)
        if mode is None or (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode[0] not in "1L"):
            return None, f"it is of {space} colours, the picture of {image.mode}"
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "CMYK":
            levels = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1).reshape(1, -1, 3)
            probe = Image.fromarray(levels).convert(mode)
            there = np.asarray(ImageCms.applyTransform(probe, transform), dtype=int)
            if np.abs(there - np.asarray(probe.convert("RGB"))).max() <= 1:
                return None, ""
        return ImageCms.applyTransform(image.convert(mode), transform), ""
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return None, f"it is damaged: {str(error) or type(error).__name__}"


def transparent(path: str | Path) -> bool:
    """Return whether a picture has transparent pixels."""
    return is_transparent(Path(path))


def read_alpha(path: str | Path) -> torch.Tensor:
    """Read the opacity of a picture, [1, 1, H, W] in [0, 1], rotated as in :func:`read_image`."""
    with Image.open(path, formats=FORMATS) as opened:
        alpha = np.array(ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A"), dtype=np.float32) / 255
    return torch.from_numpy(alpha)[None, None]


def read_text(path: str | Path) -> dict[str, str]:
    """Read the text chunks of a PNG file; empty for other pictures."""
    with Image.open(path) as image:
        return {str(k): str(v) for k, v in getattr(image, "text", {}).items()}


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """Convert [3, H, W] or [1, 3, H, W] in [-1, 1] (clamped) to uint8 [H, W, 3]."""
    x = x.detach().float().cpu().reshape(3, *x.shape[-2:]).clamp(-1, 1)
    return ((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def write_png(path: Path, x: torch.Tensor, text: dict[str, str] | None = None) -> None:
    """Write [1, 3, H, W] in [-1, 1] (clamped) as PNG with text chunks, atomically."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    save_png(path, Image.fromarray(to_uint8(x)), info)


def save_png(path: Path, picture: Image.Image, info: PngInfo | None = None) -> None:
    """Write a PIL picture as PNG, atomically."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())


def fit_to(x: torch.Tensor, size: int, how: str) -> tuple[torch.Tensor, str | None]:
    """Crop and resize [1, 3, H, W] to size x size px. Also return a description, or None if nothing changed.

    ``how``: "crop" (the central square, then resized), "resize" (stretched), "refuse", or "whole" (nothing changes).
    Resizing is bicubic and antialiased. Raises ValueError if ``how`` is "refuse" and the size differs, or if it is
    unknown.
    """
    if how not in FITS:
        raise ValueError(f'Unknown fit "{how}"; use {", ".join(FITS)}.')
    height, width = x.shape[-2:]
    if how == "whole" or height == width == size:
        return x, None
    if how == "refuse":
        raise ValueError(
            f"The image is {width} x {height} px, but {size} x {size} are required; use --fit crop or --fit resize."
        )
    done = []
    if how == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
        done.append(f"cropped from {width} x {height} px to its central {side} x {side}")
    if x.shape[-2:] != (size, size):
        done.append(f"resized from {x.shape[-1]} x {x.shape[-2]} px to {size} x {size}")
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    return x, " and ".join(done)


def shrunk(x: torch.Tensor, most: int) -> torch.Tensor:
    """Return images [B, 3, H, W] with no side above ``most`` pixels; smaller ones are unchanged."""
    height, width = x.shape[-2:]
    factor = most / max(height, width)
    if factor >= 1:
        return x
    size = max(round(height * factor), 1), max(round(width * factor), 1)
    return F.interpolate(x.float(), size=size, mode="area")


def enlarge(x: torch.Tensor, least: int = CELL) -> Image.Image:
    """Convert [1, 3, H, W] to a picture at least ``least`` px wide, with square pixels."""
    picture = Image.fromarray(to_uint8(x))
    factor = -(-least // picture.width) if picture.width < least else 1
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def grid(
    images: Sequence[torch.Tensor | Image.Image], *, labels: Sequence[str] | None = None, columns: int = 0
) -> Image.Image:
    """Arrange pictures on white with labels above; small ones are enlarged. ``columns`` 0: one row."""
    columns = columns or len(images)
    cells = [x if isinstance(x, Image.Image) else enlarge(shrunk(x, LARGEST)) for x in images]
    side = max(max(c.size) for c in cells)
    cells = [c if max(c.size) == side else _contain(c, side) for c in cells]
    wide, high = max(c.width for c in cells), max(c.height for c in cells)
    head = LABEL if labels else 0
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (wide + MARGIN) + MARGIN, rows * (high + head + MARGIN) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for k, cell in enumerate(cells):
        left, top = MARGIN + k % columns * (wide + MARGIN), MARGIN + k // columns * (high + head + MARGIN)
        if labels:
            draw.text((left + 2, top), labels[k], fill="black")
        sheet.paste(cell, (left + (wide - cell.width) // 2, top + head))
    return sheet


def _contain(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)


# Anchors of a perceptual colour map from dark to bright, 0 .. 255.
_RAMP = np.array(
    [(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)], dtype=np.float32
)


def deviation(images: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of each pixel over images [N, 3, H, W] in [-1, 1], mean over colours, [H, W]."""
    return images.float().clamp(-1, 1).std(0, correction=0).mean(0)


def spread(images: torch.Tensor) -> Image.Image:
    """Show where the particles disagree: :func:`deviation` from black (0) to yellow (the maximum), with a scale in
    units of [-1, 1] intensities."""
    values = deviation(shrunk(images, LARGEST)).cpu().numpy()
    top = max(float(values.max()), 1e-6)
    picture = Image.fromarray(_colour(values / top))
    factor = max(-(-2 * CELL // picture.width), 1)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (picture.width + 70, picture.height), "white")
    sheet.paste(picture, (0, 0))
    bar = np.linspace(1, 0, picture.height, dtype=np.float32)[:, None].repeat(16, 1)
    sheet.paste(Image.fromarray(_colour(bar)), (picture.width + 8, 0))
    draw = ImageDraw.Draw(sheet)
    for value, at in ((top, 2), (top / 2, picture.height // 2 - 6), (0.0, picture.height - 14)):
        draw.text((picture.width + 28, at), f"{value:.2f}", fill="black")
    return sheet


def _colour(values: np.ndarray) -> np.ndarray:
    at = values.clip(0, 1) * (len(_RAMP) - 1)
    low = np.minimum(at.astype(int), len(_RAMP) - 2)
    part = (at - low)[..., None]
    return (_RAMP[low] * (1 - part) + _RAMP[low + 1] * part).round().astype(np.uint8)


def write_gif(path: Path, frames: Sequence[torch.Tensor], *, milliseconds: int = 90, hold: int = 2500) -> None:
    """Write an animation of frames [N, 3, H, W], the particles side by side; the last frame stays longer."""
    pictures = [grid([x[None] for x in frame]) for frame in frames]
    pictures = [p.quantize(256, dither=Image.Dither.NONE) for p in pictures]  # early noise would spoil a shared palette
    buffer = io.BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [hold]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    write_bytes(path, buffer.getvalue())


def write_measurement(path: Path, y: torch.Tensor, about: dict[str, str] | None = None) -> None:
    """Write a measurement [1, ...] as safetensors, key "y"."""
    from safetensors.torch import save

    write_bytes(path, save({"y": y.detach().cpu().contiguous()}, metadata=about))


def read_about(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that :func:`read_measurement` reads."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_measurement(path: str | Path) -> torch.Tensor:
    """Read a measurement [1, ...] from a safetensors file with one tensor, or one called "y". A missing batch dimension
    is not added. Raises FileNotFoundError, or ValueError for another file, several tensors, or NaN.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path.")
    try:
        tensors = load_file(path)
    except PermissionError as error:
        raise PermissionError(f"{path} cannot be read; check its permissions.") from error
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is not a safetensors file; write measurements with safetensors.torch.save_file."
        ) from error
    if "y" not in tensors and len(tensors) != 1:
        raise ValueError(f'{path} contains {sorted(tensors)}; a measurement is one tensor, called "y".')
    y = tensors["y"] if "y" in tensors else next(iter(tensors.values()))
    if not torch.isfinite(torch.view_as_real(y) if y.is_complex() else y.float()).all():
        raise ValueError(f"{path} has values that are not finite (NaN or infinite); repair it.")
    return y if y.is_complex() else y.float()
