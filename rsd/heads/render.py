"""Ray-trace a head: an analytic scene of ellipsoids with clip planes and Lambert light, in plain numpy.

World units: the head is about 2 high, its face looks along +z, its left is +x, up is +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsd.heads.attributes import Camera, Head

SKIN = {"pale": (0.97, 0.80, 0.70), "tan": (0.80, 0.56, 0.38), "brown": (0.45, 0.28, 0.19), "green": (0.45, 0.76, 0.38)}
HAIR = {
    "black": (0.09, 0.09, 0.11), "brown": (0.38, 0.21, 0.10), "blond": (0.93, 0.78, 0.33),
    "red": (0.80, 0.27, 0.08), "pink": (0.96, 0.45, 0.68), "blue": (0.20, 0.33, 0.90),
}  # fmt: skip
SHIRT = {
    "red": (0.82, 0.12, 0.14), "green": (0.13, 0.60, 0.26), "blue": (0.14, 0.27, 0.78),
    "yellow": (0.95, 0.80, 0.18), "white": (0.94, 0.94, 0.94),
}  # fmt: skip
BACKGROUND = {
    "white": (0.95, 0.95, 0.95),
    "gray": (0.55, 0.55, 0.58),
    "blue": (0.55, 0.75, 0.95),
    "peach": (0.98, 0.82, 0.70),
}
CHEEK = {"red": (0.90, 0.12, 0.20), "blue": (0.15, 0.35, 0.95)}
LIPS = {"man": (0.62, 0.25, 0.30), "woman": (0.95, 0.05, 0.28)}
BLACK, WHITE, GOLD, DARK = (0.05, 0.05, 0.06), (0.97, 0.97, 0.97), (1.0, 0.78, 0.05), (0.20, 0.04, 0.05)


@dataclass
class Ellipsoid:
    """An axis-aligned ellipsoid. ``keep``: clip planes (n, d) that keep n·p <= d; ``hole``: radii of a hole along z."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    color: tuple[float, float, float]
    keep: Sequence[tuple[tuple[float, float, float], float]] = ()
    hole: tuple[float, float] | None = None


def _hair(head: Head) -> list[Ellipsoid]:
    style, color = head["hair"], HAIR[head["hair_color"]]
    if style == "bald":
        return []
    if style == "mohawk":
        return [Ellipsoid((0, 0.72, -0.1), (0.17, 0.80, 0.86), color)]
    if style == "afro":
        curls = [Ellipsoid((0, 0.45, -0.2), (1.12, 1.02, 0.95), color, [((0, -0.5, 1), 0.15)])]
        return [*curls, Ellipsoid((0, 0.72, 0.1), (0.95, 0.66, 0.82), color, [((0, -1, 0), -0.52)])]
    shell = ((0, 0.16, -0.05), (0.88, 1.06, 0.93), color)
    parts = [
        Ellipsoid(*shell, keep=[((0, -1, 0.25), -0.36)]),
        Ellipsoid(*shell, keep=[((0, 0, 1), -0.12), ((0, -1, 0), 0.4)]),
    ]
    if style == "long":
        parts.append(Ellipsoid((0, -0.25, -0.30), (1.08, 1.35, 0.72), color, [((0, 0, 1), -0.12)]))
    if style == "bun":
        parts.append(Ellipsoid((0, 1.30, -0.15), (0.36, 0.34, 0.36), color))
    return parts


def _glasses(kind: str) -> list[Ellipsoid]:
    if kind == "none":
        return []
    parts = [Ellipsoid((0, 0.16, 0.95), (0.12, 0.05, 0.05), BLACK)]
    for s in (-1, 1):
        hole = (0.235, 0.215) if kind == "round" else None
        parts.append(Ellipsoid((s * 0.36, 0.12, 0.92), (0.33, 0.31, 0.08), BLACK, hole=hole))
        parts.append(Ellipsoid((s * 0.76, 0.16, 0.42), (0.06, 0.06, 0.52), BLACK))
    return parts


def _eye(side: int, state: str) -> list[Ellipsoid]:
    x = side * 0.35
    if state == "open":
        return [
            Ellipsoid((x, 0.12, 0.72), (0.22, 0.19, 0.13), WHITE),
            Ellipsoid((x, 0.12, 0.82), (0.11, 0.12, 0.08), BLACK),
        ]
    strap = [((0.5 * side, 1, 0), 0.385), ((-0.5 * side, -1, 0), -0.295), ((0, 0, -1), -0.05)]
    return [
        Ellipsoid((x, 0.12, 0.76), (0.27, 0.25, 0.12), BLACK),
        Ellipsoid((0, 0.08, 0), (0.83, 1.03, 0.89), BLACK, strap),
    ]


def _mouth(kind: str, lips: tuple[float, float, float]) -> list[Ellipsoid]:
    if kind == "straight":
        return [Ellipsoid((0, -0.58, 0.74), (0.27, 0.085, 0.10), lips)]
    if kind == "open":
        return [
            Ellipsoid((0, -0.60, 0.72), (0.20, 0.23, 0.12), lips),
            Ellipsoid((0, -0.60, 0.78), (0.12, 0.15, 0.09), DARK),
        ]
    top = [((0.0, 1.0, 0.0), -0.48)]
    return [
        Ellipsoid((0, -0.46, 0.70), (0.38, 0.31, 0.16), lips, top),
        Ellipsoid((0, -0.46, 0.76), (0.29, 0.20, 0.13), WHITE, top),
    ]


def _sides(head: Head, side: int, name: str) -> list[Ellipsoid]:
    skin = SKIN[head["skin"]]
    parts = [Ellipsoid((side * 0.82, 0.0, 0.0), (0.16, 0.25, 0.16), skin)]
    parts += _eye(side, "open" if head["glasses"] == "sun" else head[f"{name}_eye"])
    if head[f"{name}_ear"] == "ring":
        parts.append(Ellipsoid((side * 0.90, -0.36, 0.03), (0.15, 0.17, 0.15), GOLD))
    if head[f"{name}_cheek"] != "plain":
        parts.append(Ellipsoid((side * 0.46, -0.29, 0.56), (0.165, 0.155, 0.16), CHEEK[head[f"{name}_cheek"]]))
    return parts


def scene(head: Head) -> list[Ellipsoid]:
    """Return the ellipsoids of a head, its neck and its shirt."""
    skin = SKIN[head["skin"]]
    parts = [
        Ellipsoid((0, 0.08, 0), (0.81, 1.0, 0.86), skin),
        Ellipsoid((0, -0.35, 0.10), (0.62, 0.65, 0.66), skin),
        Ellipsoid((0, -0.14, 0.86), (0.12, 0.19, 0.18), skin),
        Ellipsoid((0, -1.0, -0.1), (0.36, 0.60, 0.36), skin),
        Ellipsoid((0, -1.78, -0.1), (1.35, 0.74, 0.75), SHIRT[head["shirt"]]),
        *_sides(head, 1, "left"),
        *_sides(head, -1, "right"),
        *_hair(head),
        *_glasses(head["glasses"]),
        *_mouth(head["mouth"], LIPS[head["person"]]),
    ]
    if head["beard"] == "full":
        beard = [((0.0, 1.0, 0.25), -0.20)]
        parts.append(Ellipsoid((0, -0.44, 0.10), (0.72, 0.70, 0.69), HAIR[head["hair_color"]], beard))
    return parts


def _rays(camera: Camera, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return origin [3], unit directions [n, n, 3] and camera axes (right, up, back) [3, 3]; image row 0 is the top."""
    back = camera.direction
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back])
    distance, half = 8.0, 1.6 / camera.zoom
    target = np.array([0.0, 0.08, 0.0])
    u = ((np.arange(n) + 0.5) / n * 2 - 1) * half
    directions = u[None, :, None] * axes[0] - u[:, None, None] * axes[1] - distance * axes[2]
    directions = np.broadcast_to(directions, (n, n, 3))
    return target + distance * back, directions / np.linalg.norm(directions, axis=-1, keepdims=True), axes


def _window(part: Ellipsoid, origin: np.ndarray, axes: np.ndarray, zoom: float, n: int) -> tuple[slice, slice]:
    """Return the pixels of the projected bounding box of an ellipsoid."""
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T * part.radii + part.center - origin
    x, y, z = axes @ corners.T
    scale = 8.0 / -z / (1.6 / zoom)
    col, row = (x * scale + 1) / 2 * n, (1 - y * scale) / 2 * n
    bound = lambda v: slice(max(int(v.min()), 0), min(int(v.max()) + 2, n))  # noqa: E731
    return bound(row), bound(col)


def _hit(part: Ellipsoid, origin: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the first kept surface point along each ray (inf: none), and that point."""
    r = np.array(part.radii, dtype=np.float32)
    o, q = ((origin - part.center) / r).astype(np.float32), d / r
    a, b, c = (q * q).sum(-1), q @ o, o @ o - 1
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    best = np.full(d.shape[:2], np.inf, dtype=np.float32)
    for t in ((-b + root) / a, (-b - root) / a):
        p = origin.astype(np.float32) + t[..., None] * d
        ok = disc > 0
        for normal, limit in part.keep:
            ok &= p @ np.array(normal, dtype=np.float32) <= limit
        if part.hole:
            off = (p[..., :2] - np.array(part.center[:2])) / part.hole
            ok &= (off**2).sum(-1) > 1
        best = np.where(ok, t, best)
    return best, origin.astype(np.float32) + np.where(np.isfinite(best), best, 0)[..., None] * d


def render(head: Head, size: int = 64, supersample: int = 3) -> np.ndarray:
    """Render a head, uint8 [size, size, 3]."""
    n = size * supersample
    origin, directions, axes = _rays(head.camera, n)
    directions = directions.astype(np.float32)
    light = np.array([head.light[0], head.light[1], 1.0]) @ axes  # the light moves with the camera
    light = (light / np.linalg.norm(light)).astype(np.float32)
    image = np.broadcast_to(np.array(BACKGROUND[head["background"]], dtype=np.float32), (n, n, 3)).copy()
    depth = np.full((n, n), np.inf, dtype=np.float32)
    for part in scene(head):
        rows, cols = _window(part, origin, axes, head.camera.zoom, n)
        if rows.start >= rows.stop or cols.start >= cols.stop:
            continue
        t, p = _hit(part, origin, directions[rows, cols])
        normal = (p - np.array(part.center, dtype=np.float32)) / np.array(part.radii, dtype=np.float32) ** 2
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        # Flip the normals of inner walls of clipped shells towards the camera.
        facing = np.sign(-(normal * directions[rows, cols]).sum(-1))
        shade = 0.52 + 0.50 * np.maximum((normal @ light) * facing, 0)
        nearer = t < depth[rows, cols]
        depth[rows, cols][nearer] = t[nearer]
        image[rows, cols][nearer] = (shade[..., None] * np.array(part.color, dtype=np.float32))[nearer]
    image = image.reshape(size, supersample, size, supersample, 3).mean((1, 3))
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
