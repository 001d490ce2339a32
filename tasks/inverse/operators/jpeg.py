"""JPEG compression: blocks of 8 x 8 DCT coefficients, each rounded to a multiple of its step.

A file says which coefficients were stored, so each coefficient of the picture before lies in a known interval. The
proximal map is the projection onto these intervals (Rosenholtz & Zakhor 1992, "Iterative procedures for reduction of
blocking effects in transform image coding").
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, JpegImagePlugin

from rsd.formats import LUMA

from .base import Operator

BLOCK = 8
ORIENTATION = 0x0112
"""EXIF's number of the orientation."""
OFFSET = 0.5
"""JPEG counts from the grey level 128; 0 in [-1, 1] is 127.5."""
SUBSAMPLINGS = {0: (1, 1), 1: (1, 2), 2: (2, 2)}
"""Rows and columns that share a colour, by Pillow's number: 4:4:4, 4:2:2, 4:2:0."""


def luma_matrix() -> torch.Tensor:
    """Return the map from RGB to YCbCr, float64 [3, 3]."""
    y = torch.tensor(LUMA, dtype=torch.float64)
    blue, red = (torch.eye(3, dtype=torch.float64)[k] for k in (2, 0))
    return torch.stack([y, (blue - y) / (2 - 2 * y[2]), (red - y) / (2 - 2 * y[0])])


def dct_matrix() -> torch.Tensor:
    """Return the orthonormal DCT-II of 8 numbers, float64 [8, 8]."""
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    rows = torch.cos(math.pi * (n + 0.5) * k / BLOCK) * (2 / BLOCK) ** 0.5
    rows[0] /= 2**0.5
    return rows


class JPEG(Operator):
    """y = the decoded JPEG of x, [B, 3, H, W], not clipped and not rounded to grey levels; range about [-1, 1].

    ``tables``: steps of the coefficients of brightness and colour, [2, 8, 8], in grey levels of 255. ``shared``: rows
    and columns of pixels that share a colour, (1, 1), (1, 2) or (2, 2): they are averaged, and repeated again.
    ``turn``: EXIF's number of how the file's rows are turned in x (1: not at all). Sides that are no multiple of the
    blocks are padded by repeating the edge. The derivative ignores the rounding.
    """

    tables: torch.Tensor
    dct: torch.Tensor
    ycc: torch.Tensor
    rgb: torch.Tensor

    def __init__(
        self, tables: torch.Tensor, shared: tuple[int, int] = (2, 2), name: str = "JPEG compression", turn: int = 1
    ):
        super().__init__(name, linear=False)
        self.shared, self.turn = shared, turn
        matrix = luma_matrix()
        for key, value in (("tables", tables), ("dct", dct_matrix()), ("ycc", matrix), ("rgb", matrix.inverse())):
            self.register_buffer(key, value.float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W]."""
        made = self._picture([_rounded(part) for part in self._encode(x)], x.shape[-2:])
        return (made + OFFSET / 127.5).to(x.dtype)

    def proximal(self, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
        """Return the picture whose coefficients lie in the intervals of y, the nearest to d in YCbCr: each coefficient
        is clamped, and colours change by as much in all the pixels that share one. ``tau`` has no effect, since the
        intervals are certain."""
        change = []
        for plane, (wanted, mine) in enumerate(zip(self._encode(y.to(d)), self._encode(d), strict=True)):
            kept, width = wanted.round(), self._widths(wanted, d.shape[-2:], plane)
            change.append(torch.minimum(torch.maximum(mine, kept - width), kept + width) - mine)
        return (d + self._picture(change, d.shape[-2:])).to(d.dtype)

    def _widths(self, part: torch.Tensor, size: torch.Size, plane: int) -> torch.Tensor:
        """Return half the width of the intervals of a plane's blocks, [rows, columns, 1, 1]: 1/2, and 1 of blocks that
        reach beyond the picture, of which the decoded part does not say all."""
        widths = torch.full(part.shape[1:3], 0.5, device=part.device, dtype=part.dtype)
        sides = size if self.turn < 5 else (size[1], size[0])
        rows, columns = (n // (BLOCK * (k if plane else 1)) for n, k in zip(sides, self.shared, strict=True))
        widths[rows:] = widths[:, columns:] = 1.0
        return widths[..., None, None]

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return the decoded picture."""
        return y

    def noise_level(self, sigma_v: float) -> float:
        """Return 0: a file has no noise besides its rounding."""
        return 0.0

    def add_noise(self, y: torch.Tensor, normal: torch.Tensor, sigma_v: float) -> torch.Tensor:
        """Return y: a file has no noise besides its rounding."""
        return y

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the coefficients of brightness and of both colours in units of their steps, before rounding, each
        [B, rows, columns, 8, 8]."""
        x = turned_back((x if x.dtype == torch.float64 else x.float()) * 127.5, self.turn)
        down, across = (BLOCK * k for k in self.shared)
        x = F.pad(x, (0, -x.shape[-1] % across, 0, -x.shape[-2] % down), mode="replicate")
        planes = torch.einsum("ij,bjhw->bihw", self.ycc.to(x), x)
        planes[:, 0] -= OFFSET
        colours = F.avg_pool2d(planes[:, 1:], self.shared)
        return [self._dct(planes[:, 0], 0), *(self._dct(colours[:, k], 1) for k in (0, 1))]

    def _dct(self, plane: torch.Tensor, table: int) -> torch.Tensor:
        blocks = plane.unflatten(-1, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3)
        dct = self.dct.to(plane)
        return dct @ blocks @ dct.T / self.tables[table].to(plane)

    def _picture(self, parts: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
        """Return the picture [B, 3, H, W] of coefficients in units of their steps, less the grey of 128; ``size``: its
        sides."""
        height, width = size if self.turn < 5 else (size[1], size[0])
        planes = []
        for part, table in zip(parts, (0, 1, 1), strict=True):
            dct = self.dct.to(part)
            blocks = dct.T @ (part * self.tables[table].to(part)) @ dct
            planes.append(blocks.transpose(2, 3).flatten(-2).flatten(1, 2))
        colours = [p.repeat_interleave(self.shared[0], -2).repeat_interleave(self.shared[1], -1) for p in planes[1:]]
        made = torch.stack([planes[0], *colours], 1)[..., :height, :width]
        return turned(torch.einsum("ij,bjhw->bihw", self.rgb.to(made), made) / 127.5, self.turn)


def turned(x: torch.Tensor, turn: int) -> torch.Tensor:
    """Return a picture [.., H, W] as a file shows it upright whose EXIF orientation is ``turn``, 1 to 8."""
    if turn >= 5:
        x = x.transpose(-2, -1)
    dims = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}.get(turn, ())
    return x.flip(dims) if dims else x


def turned_back(x: torch.Tensor, turn: int) -> torch.Tensor:
    """Return the inverse of :func:`turned`."""
    return turned(x, {6: 8, 8: 6}.get(turn, turn))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Return x rounded, with the derivative of x."""
    return x + (x.round() - x).detach()


def standard(quality: int) -> JPEG:
    """Return the operator of files that most programs write with that quality, 1 to 95, with 4:2:0. Raise ValueError
    for another quality."""
    if not 1 <= quality <= 95:
        raise ValueError(f"The JPEG quality is {quality}; give 1 to 95.")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    with Image.open(buffer) as opened:
        made = _of(opened)
    made.name = f"JPEG compression of quality {quality}"
    return made


def of_file(path: Path) -> JPEG:
    """Return the operator of a JPEG file: its tables and its subsampling. Raise ValueError with the remedy if the file
    is no JPEG, or one of an unusual kind."""
    with Image.open(path) as opened:
        if not isinstance(opened, JpegImagePlugin.JpegImageFile):
            raise ValueError(
                f"it is a {opened.format} file, which does not say how it was compressed; give the JPEG file itself, "
                "or the quality with which it was saved: --quality 75."
            )
        if opened.mode not in ("RGB", "L"):
            raise ValueError(f"it is a JPEG of {opened.mode} colours, which is not supported; save it as RGB.")
        return _of(opened)


def _of(opened: Image.Image) -> JPEG:
    assert isinstance(opened, JpegImagePlugin.JpegImageFile)
    tables = [np.asarray(opened.quantization[k], dtype=np.float32).reshape(8, 8) for k in sorted(opened.quantization)]
    number = JpegImagePlugin.get_sampling(opened) if opened.mode == "RGB" else 0
    if number not in SUBSAMPLINGS:
        raise ValueError("its colours are subsampled in an unusual way; save it as PNG and give --quality.")
    both = torch.from_numpy(np.stack([tables[0], tables[min(1, len(tables) - 1)]]))
    turn = int(opened.getexif().get(ORIENTATION, 1))
    turn = turn if 1 <= turn <= 8 else 1
    return JPEG(both, SUBSAMPLINGS[number], f"JPEG compression, {quality_of(tables[0])}", turn)


def quality_of(table: np.ndarray) -> str:
    """Return the quality of most programs whose table of brightness is nearest, for messages."""
    errors = {}
    for quality in range(1, 101):
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        errors[quality] = float(np.abs(np.clip((STANDARD * scale + 50) // 100, 1, 255) - table).mean())
    best = min(errors, key=lambda quality: errors[quality])
    return f"{'quality' if errors[best] < 0.01 else 'about quality'} {best}"


STANDARD = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], dtype=np.float64)  # fmt: skip
"""The table of brightness of quality 50 (ITU T.81, Annex K)."""


def read_jpeg(path: Path, operator: JPEG) -> torch.Tensor:
    """Return the measurement of a JPEG file, [1, 3, H, W]: decoded as the operator does, from the stored coefficients.

    Decoders smooth the colours between the pixels that share one; that is undone, and the coefficients rounded."""
    with Image.open(path) as opened:
        opened.draft("YCbCr", opened.size)
        opened.load()
        planes = np.asarray(opened.convert("YCbCr"), dtype=np.float32)
    levels = torch.from_numpy(planes).permute(2, 0, 1)[None] - torch.tensor([128.0, 128, 128]).view(1, 3, 1, 1)
    for dim, k in zip((-2, -1), operator.shared, strict=True):
        if k == 2:
            levels[:, 1:] = _sharp(levels[:, 1:], dim)
    picture = torch.einsum("ij,bjhw->bihw", operator.rgb, levels) / 127.5 + (128 / 127.5 - 1)
    with torch.no_grad():
        return operator(turned(picture, operator.turn))


def _sharp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return x with pairs of entries along a dimension set to the value from which decoders made them by the filter
    (1 3 3 1) / 4."""
    x = x.transpose(dim, -1)
    n = x.shape[-1]
    pairs = F.pad(x.flatten(0, -2), (0, n % 2), mode="replicate").unflatten(-1, (-1, 2)).mean(-1)
    m = pairs.shape[-1]
    system = torch.eye(m, dtype=torch.float64) * 0.75
    for k in range(m):
        for j in (max(k - 1, 0), min(k + 1, m - 1)):
            system[k, j] += 0.125
    solved = torch.linalg.solve(system, pairs.double().T).T.float()
    made = solved.repeat_interleave(2, -1)[..., :n].reshape(x.shape)
    return made.transpose(dim, -1)
