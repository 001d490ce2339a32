"""Textures of meshes: the surface is cut into charts and unwrapped (xatlas), and the field's colours are baked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .field import Field
from .mesh import Mesh, Textured, colours_at

GUTTER = 4
"""Texels around each chart that repeat its edge, so that filtering and mipmaps see no seam."""


def load_xatlas() -> Any:
    """Import xatlas. Raises ImportError with the remedy."""
    try:
        import xatlas
    except ImportError as error:
        raise ImportError("--texture needs xatlas: pip install '.[mesh]'.") from error
    return xatlas


def bake(field: Field, mesh: Mesh, size: int) -> Textured:
    """Unwrap ``mesh`` and bake the field's colours at its surface into a picture of ``size`` x ``size`` texels. Raises
    ImportError without xatlas."""
    xatlas = load_xatlas()
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.padding, packing.resolution = 2 * GUTTER, size
    atlas.generate(pack_options=packing)
    origin, faces, uv = atlas[0]
    vertices, faces = mesh.vertices[origin], faces.astype(np.int64)
    rows, columns, corners, weights = texels(uv, faces, size)
    at = np.einsum("tk,tkd->td", weights, vertices[corners])
    picture = np.zeros((size, size, 3), np.float32)
    known = np.zeros((size, size), bool)
    picture[rows, columns], known[rows, columns] = colours_at(field, at.astype(np.float32)), True
    picture = spread(picture, known, GUTTER)
    return Textured(vertices, mesh.normals[origin], faces, uv, (picture * 255).round().astype(np.uint8))


def texels(uv: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the texels whose centres lie in a triangle of the unwrapped mesh: their rows (from v = 1 down) and columns
    [M], the triangle's vertices [M, 3], and the centre's barycentric weights [M, 3]."""
    at = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size], 1) - 0.5  # the centre of texel (row, column) is an integer
    a, b, c = (at[faces[:, k]] for k in range(3))
    low = np.minimum(np.minimum(a, b), c).round().astype(np.int64).clip(0, size - 1)
    high = np.maximum(np.maximum(a, b), c).round().astype(np.int64).clip(0, size - 1)
    extent = high - low + 1
    # All texels of all triangles' boxes in one list.
    number = extent.prod(1)
    which = np.repeat(np.arange(len(faces)), number)
    within = np.arange(len(which)) - np.repeat(number.cumsum() - number, number)
    x = low[which, 0] + within % extent[which, 0]
    y = low[which, 1] + within // extent[which, 0]
    # Barycentric coordinates by areas.
    p = np.stack([x, y], 1)
    area = _cross(b - a, c - a)[which]
    safe = np.where(area == 0, 1.0, area)
    u, v = (_cross(one[which] - p, other[which] - p) / safe for one, other in ((b, c), (c, a)))
    weights = np.stack([u, v, 1 - u - v], 1)
    inside = (weights >= -1e-6).all(1) & (area != 0)
    return y[inside], x[inside], faces[which[inside]], weights[inside]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def spread(picture: np.ndarray, known: np.ndarray, steps: int) -> np.ndarray:
    """Fill unknown texels beside known ones with the mean of these, ``steps`` times, and the rest with the mean of all
    known ones. ``picture``: [H, W, 3], ``known``: bool [H, W]."""
    colours, weight = torch.from_numpy(picture).permute(2, 0, 1)[None], torch.from_numpy(known)[None, None].float()
    colours = colours * weight
    rest = colours.sum((2, 3), keepdim=True) / weight.sum().clamp(min=1)
    for _ in range(steps):
        total, count = (9 * torch.nn.functional.avg_pool2d(x, 3, 1, padding=1) for x in (colours, weight))
        new = (weight == 0) & (count > 0.5)
        colours, weight = torch.where(new, total / count.clamp(min=1), colours), torch.where(new, 1.0, weight)
    return torch.where(weight > 0, colours, rest)[0].permute(1, 2, 0).numpy()
