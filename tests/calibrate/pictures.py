"""Pictures of heads, each rendered once: an enumeration renders the same fifty alternatives of a head every time."""

from __future__ import annotations

import functools

import torch

from rsd.heads.agreement import picture
from rsd.heads.attributes import Camera, Head


@functools.cache
def _shown(values: tuple[tuple[str, str], ...], camera: Camera, light: tuple[float, float], size: int) -> torch.Tensor:
    return picture(Head(dict(values), camera, light), size)


def remembered(head: Head, size: int = 64) -> torch.Tensor:
    """Return :func:`rsd.heads.agreement.picture`. Do not change it in place."""
    return _shown(tuple(head.values.items()), head.camera, head.light, size)
