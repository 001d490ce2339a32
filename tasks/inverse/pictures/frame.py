"""The geometry of a restoration: which parts of a picture the network sees, at what size, and how they go back.

A frame lists regions. Each is a box of the picture, brought to a size in pixels; the regions of a picture stand one
above the other in a sheet, which a run restores as one picture, though the prior sees each region by itself
(:mod:`rsd.priors.windows`). The whole picture, its central square (--fit crop), the picture stretched to a square
(--fit resize) and the surroundings of holes are all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from rsd.priors.windows import Tile, mirrored

CONTEXT = 64
"""Pixels around a hole that a prior which takes any size sees."""
CELL = 8
"""Holes are found on a grid of cells of so many pixels, which merges what is close."""
MOST = 0.6
"""The largest share of a picture that its holes' surroundings may have; else the whole picture is restored."""
FEATHER = 3.0
"""Standard deviation, in pixels, of the transition at the border of a hole that was restored at another size."""

Sides = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """The ``box`` of a picture (rows, then columns; it may reach beyond the lower and the right edge, where the picture
    is mirrored), its ``size`` in the sheet, and ``own``: the part of the picture that goes back (default: the box)."""

    box: Tile
    size: Sides
    own: Tile | None = None

    @property
    def sides(self) -> Sides:
        """Height and width of the box."""
        return self.box[1] - self.box[0], self.box[3] - self.box[2]


@dataclass(frozen=True)
class Frame:
    """``sides``: of the picture; ``regions``, of equal width in the sheet. ``returns``: whether answers go back into
    the picture; else they are what the network sees (--fit crop, resize)."""

    sides: Sides
    regions: tuple[Region, ...]
    returns: bool = True

    @property
    def shape(self) -> Sides:
        """Height and width of the sheet."""
        return sum(one.size[0] for one in self.regions), self.regions[0].size[1]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Where the regions are in the sheet."""
        found, top = [], 0
        for one in self.regions:
            found.append((top, top + one.size[0], 0, one.size[1]))
            top += one.size[0]
        return tuple(found)

    @property
    def is_whole(self) -> bool:
        """Whether the sheet is the picture itself."""
        one = self.regions[0]
        return len(self.regions) == 1 and one.box == (0, self.sides[0], 0, self.sides[1]) and one.size == self.sides

    def view(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sheet [B, C, h, w] of pictures [B, C, H, W] in [-1, 1]. Resizing is bicubic and antialiased."""
        if self.is_whole:
            return x
        parts = []
        for one in self.regions:
            part = self._cut(x, one)
            if one.size != one.sides:
                part = F.interpolate(part, size=one.size, mode="bicubic", antialias=True).clamp(-1, 1)
            parts.append(part)
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def view_known(self, known: torch.Tensor) -> torch.Tensor:
        """Return the known pixels of the sheet, bool [1, 1, h, w], of those of the picture. A pixel is known if all
        source pixels under it are, and if known pixels have more than 99% of the weight in the resizing filter."""
        if self.is_whole:
            return known
        parts = []
        for one in self.regions:
            part = self._cut(known, one)
            if one.size != one.sides:
                values = part.float().expand(-1, 3, -1, -1)
                mixed = F.interpolate(values, size=one.size, mode="bicubic", antialias=True).clamp(-1, 1)
                covered = -F.adaptive_max_pool2d(-values, one.size)  # the minimum over the source pixels under each
                part = (mixed.mean(1, keepdim=True) > 0.99) & (covered.mean(1, keepdim=True) == 1)
            parts.append(part)
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def back(self, images: torch.Tensor, picture: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Return pictures [N, 3, H, W] with the regions of sheets [N, 3, h, w] in place.

        ``picture`` [1, 3, H, W]: what is around them. ``known`` [1, 1, H, W]: pixels that the picture keeps; a region
        that was resized passes into them smoothly (:func:`feathered`)."""
        if self.is_whole or not self.returns:
            return images
        found = picture.expand(len(images), -1, -1, -1).clone()
        for one, (top, bottom, _, _) in zip(self.regions, self.tiles, strict=True):
            part = images[..., top:bottom, :]
            height, width = (min(a, b) for a, b in zip(one.sides, (self.sides[0] - one.box[0],
                             self.sides[1] - one.box[2]), strict=True))  # fmt: skip
            resized = one.size != one.sides
            if resized:
                part = F.interpolate(part, size=one.sides, mode="bicubic", antialias=True).clamp(-1, 1)
            part = part[..., :height, :width]
            there = (..., slice(one.box[0], one.box[0] + height), slice(one.box[2], one.box[2] + width))
            if resized and known is not None:
                part = feathered(part, picture[there], known[there])
            a, b, c, d = one.own or (one.box[0], one.box[0] + height, one.box[2], one.box[2] + width)
            found[..., a:b, c:d] = part[..., a - one.box[0] : b - one.box[0], c - one.box[2] : d - one.box[2]]
        return found if known is None else torch.where(known, picture, found)

    def scale(self) -> float:
        """Return the smallest ratio of a region's size in the sheet to that in the picture."""
        return min(size / side for one in self.regions for size, side in zip(one.size, one.sides, strict=True))

    def _cut(self, x: torch.Tensor, one: Region) -> torch.Tensor:
        top, bottom, left, right = one.box
        return mirrored(x[..., top:bottom, left:right], bottom - top, right - left)


def whole(sides: Sides) -> Frame:
    """Return the frame of a picture at its own size."""
    return Frame(sides, (Region((0, sides[0], 0, sides[1]), sides),))


def fitted(sides: Sides, size: int, how: str) -> tuple[Frame, str | None]:
    """Return the frame of a picture that is brought to size x size px, and a description, or None if nothing changes.
    ``how``: crop, resize or refuse, as in :func:`rsd.media.fit_to`, which raises the errors."""
    height, width = sides
    if height == width == size:
        return whole(sides), None
    if how == "refuse":
        raise ValueError(
            f"The image is {width} x {height} px, but {size} x {size} are required; use --fit crop or --fit resize."
        )
    done, box = [], (0, height, 0, width)
    if how == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        box = (top, top + side, left, left + side)
        done.append(f"cropped from {width} x {height} px to its central {side} x {side}")
    if (box[1] - box[0], box[3] - box[2]) != (size, size):
        done.append(f"resized from {box[3] - box[2]} x {box[1] - box[0]} px to {size} x {size}")
    return Frame(sides, (Region(box, (size, size)),), returns=False), " and ".join(done)


def local(known: torch.Tensor, size: int | None) -> Frame:
    """Return the frame of the surroundings of a picture's holes, or of the whole picture if they are most of it.

    ``known``: bool [1, 1, H, W]. ``size``: the side of a prior's pictures, if it takes no others; holes that do not fit
    into it with some surroundings are restored smaller."""
    height, width = sides = (known.shape[-2], known.shape[-1])
    boxes = holes(~known[0, 0].numpy())
    if not boxes:
        return whole(sides)
    regions = _free(boxes, sides) if size is None else _squares(boxes, sides, size)
    found = Frame(sides, tuple(regions))
    area = sum(one.sides[0] * one.sides[1] for one in regions)
    if size is None:
        return found if area < MOST * height * width else whole(sides)
    if len(regions) > 1 and area > height * width:
        return whole(sides)
    return found


def holes(hidden: np.ndarray) -> list[Tile]:
    """Return the boxes of the holes in ``hidden`` [H, W], those of touching cells merged, and no two of them
    overlapping."""
    from skimage.measure import label, regionprops

    height, width = hidden.shape
    grid = np.zeros((-(-height // CELL) * CELL, -(-width // CELL) * CELL), dtype=bool)
    grid[:height, :width] = hidden
    cells = grid.reshape(grid.shape[0] // CELL, CELL, -1, CELL).any((1, 3))
    found = []
    for one in regionprops(label(cells, connectivity=2)):
        a, b, c, d = (edge * CELL for edge in one.bbox)
        rows, columns = (np.flatnonzero(hidden[a:c, b:d].any(axis)) for axis in (1, 0))
        found.append((a + int(rows[0]), a + int(rows[-1]) + 1, b + int(columns[0]), b + int(columns[-1]) + 1))
    return merged(found, lambda one, other: _overlap(one, other))


def merged(boxes: Sequence[Tile], together: object) -> list[Tile]:
    """Merge boxes until no two of them are to be ``together``."""
    found: list[Tile] = []
    for box in boxes:
        while (other := next((one for one in found if together(one, box)), None)) is not None:  # type: ignore[operator]
            found.remove(other)
            box = _union(box, other)
        found.append(box)
    return found


def _union(a: Tile, b: Tile) -> Tile:
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


def _overlap(a: Tile, b: Tile) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _free(boxes: list[Tile], sides: Sides) -> list[Region]:
    """Return regions of any size: each hole with its surroundings, all as wide as the widest."""
    around = [_grown(box, sides) for box in boxes]
    near = merged(around, lambda one, other: _overlap(one, other))
    width = min(max(-(-(box[3] - box[2]) // CELL) * CELL for box in near), sides[1])
    found = []
    for own in near:
        top, bottom, left, right = own
        left = min(max(left - (width - (right - left)) // 2, 0), sides[1] - width)
        found.append(Region((top, bottom, left, left + width), (bottom - top, width), own))
    return found


def _grown(box: Tile, sides: Sides) -> Tile:
    top, bottom, left, right = box
    return (max(top - CONTEXT, 0), min(bottom + CONTEXT, sides[0]), max(left - CONTEXT, 0),
            min(right + CONTEXT, sides[1]))  # fmt: skip


def _squares(boxes: list[Tile], sides: Sides, size: int) -> list[Region]:
    """Return square regions for a prior of ``size`` px: holes that fit into one together share it."""
    context = size // 8

    def share(one: Tile, other: Tile) -> bool:
        both = _union(one, other)
        return (
            size >= max(sides)
            or _overlap(one, other)
            or max(both[1] - both[0], both[3] - both[2]) + 2 * context <= size
        )

    found: dict[Tile, Region] = {}
    for own in merged(boxes, share):
        top, bottom, left, right = own
        extent = max(bottom - top, right - left)
        least = extent + 2 * context if extent + 2 * context <= size else extent + extent // 2
        side = min(max(size, least), max(sides))
        box_top = min(max((top + bottom - side) // 2, 0), max(sides[0] - side, 0))
        box_left = min(max((left + right - side) // 2, 0), max(sides[1] - side, 0))
        box = (box_top, box_top + side, box_left, box_left + side)
        own = _union(own, before) if box in found and (before := found[box].own) else own
        found[box] = Region(box, (size, size), own)
    return list(found.values())


def feathered(x: torch.Tensor, picture: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return x [N, 3, h, w] shifted near known pixels by their difference to ``picture`` [1, 3, h, w], so that no step
    is seen at the border of a hole; the known pixels themselves are not changed here."""
    radius = int(3 * FEATHER)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / FEATHER) ** 2)
    line /= line.sum()

    def smooth(values: torch.Tensor) -> torch.Tensor:
        padded = F.pad(values, (radius, radius, radius, radius), mode="replicate")
        channels = values.shape[1]
        rows = F.conv2d(padded, line.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
        return F.conv2d(rows, line.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)

    seen = known.float()
    return x + smooth(seen * (picture - x)) / (smooth(seen) + 0.1)
