"""Whether pictures of heads show what a prompt says, and which attributes a measurement hides.

The classifier predicts every attribute of every picture, even the mouth of a back or the glasses of a blob. A reading
counts only if the classifier is confident (:data:`~rsd.metrics.CONFIDENT`) and, for attributes on the face, if a face
is visible (:class:`~rsd.heads.classifier.FaceReader`). Of 160 held-out heads from the front and the back 97% of the
visible attributes count, and 99.8% of these are right (98.7% of all); at 32 px 97% and 99.7%, at 18 px 82% and 94% (88%
of all). A black bar in a scene prompted with round glasses is read as round with 0.6 to 0.7, which does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from rsd.heads.attributes import ATTRIBUTES, ON_FACE, Camera, Head, visible
from rsd.heads.render import render
from rsd.metrics import CONFIDENT

LEAST = 0.5
"""The share of pictures in which a visible attribute must be readable; otherwise it is ignored."""


@dataclass(frozen=True)
class Readings:
    """Readings of the prompted attributes [A] in pictures [...], bool [..., A] on the CPU. ``right``: matches the
    prompt; ``faced``: the attribute is not on the face, or a face is visible; ``sure``: the classifier is confident."""

    names: Sequence[str]
    right: torch.Tensor
    faced: torch.Tensor
    sure: torch.Tensor

    @property
    def read(self) -> torch.Tensor:
        """Which readings count, [..., A]."""
        return self.faced & self.sure

    def unflatten(self, shape: tuple[int, ...]) -> Readings:
        """Return the readings for pictures [*shape]."""
        return Readings(self.names, *(x.unflatten(0, shape) for x in (self.right, self.faced, self.sure)))

    def __getitem__(self, at: Any) -> Readings:
        """Return the readings of some pictures."""
        return Readings(self.names, self.right[at], self.faced[at], self.sure[at])


@dataclass(frozen=True)
class Agreement:
    """``value``: the share of counted readings that match the prompt; None if nothing could be read. ``attributes``:
    the share of each attribute, None if it could not be read; ``read``: the share of pictures in which it could;
    ``unread``: why not, in words; ``counted``: which readings are averaged, [..., A]."""

    value: float | None
    attributes: dict[str, float | None]
    read: dict[str, float]
    unread: dict[str, str]
    counted: torch.Tensor

    @property
    def reason(self) -> str:
        """What is not averaged, with the reason."""
        return "; ".join(f"{plain(a)}: {why}" for a, why in self.unread.items())

    def describe(self) -> str:
        """Format the value with what is averaged: "0.75 of hair, skin (not glasses: unsure)"."""
        if self.value is None:
            return f"none ({self.reason})"
        known = ", ".join(plain(a) for a, value in self.attributes.items() if value is not None)
        return f"{self.value:.2f} of {known}" + (f" (not {self.reason})" if self.unread else "")


def readings(
    probabilities: Mapping[str, torch.Tensor], prompted: Mapping[str, str], faces: torch.Tensor | None
) -> Readings:
    """Read the ``prompted`` attributes from pictures. ``probabilities``: for each attribute [B, K]; ``faces``: whether
    a face is visible, bool [B], None if unknown. Values that are not finite count as wrong."""
    right, faced, sure = [], [], []
    for attribute, value in prompted.items():
        confidence, found = probabilities[attribute].cpu().max(1)
        finite = confidence.isfinite()
        right.append((found == ATTRIBUTES[attribute].index(value)) & finite)
        needs = faces is not None and attribute in ON_FACE
        faced.append(faces.cpu() | ~finite if needs and faces is not None else torch.ones_like(finite))
        sure.append((confidence >= CONFIDENT) | ~finite)
    return Readings(list(prompted), torch.stack(right, -1), torch.stack(faced, -1), torch.stack(sure, -1))


def agreement(found: Readings, shown: torch.Tensor | None = None) -> Agreement:
    """Average readings over ``shown``, where an attribute is in view, bool [..., A] (None: everywhere). An attribute
    that is readable in less than :data:`LEAST` of these pictures is left out."""
    shown = torch.ones_like(found.read) if shown is None else shown.expand_as(found.read)
    counted = found.read & shown
    attributes: dict[str, float | None] = {}
    read, unread = {}, {}
    for a, name in enumerate(found.names):
        number = int(shown[..., a].sum())
        if not number:
            continue
        read[name] = int(counted[..., a].sum()) / number
        attributes[name] = None
        if read[name] >= LEAST:
            attributes[name] = float(found.right[..., a][counted[..., a]].double().mean())
            continue
        counted[..., a] = False
        faced = int((found.faced & shown)[..., a].sum()) / number
        unread[name] = "no face is seen" if faced < LEAST else "the classifier is not sure"
    value = float(found.right[counted].double().mean()) if counted.any() else None
    return Agreement(value, attributes, read, unread, counted)


def plain(attribute: str) -> str:
    """Return an attribute's name with spaces."""
    return attribute.replace("_", " ")


LEAST_ENERGY = 0.2  # sum of squared changes in [-1, 1]: about three pixels that change by 0.15 in each colour


@lru_cache(maxsize=1024)
def _rendered(values: tuple[tuple[str, str], ...], camera: Camera, light: tuple[float, float], size: int) -> np.ndarray:
    """Render a head, uint8 [size, size, 3]; the last heads are kept, since the runs of a comparison all ask for the
    alternatives of the same few. Do not change it in place."""
    return render(Head(dict(values), camera, light), size)


def picture(head: Head, size: int = 64) -> torch.Tensor:
    """Render a head, [1, 3, size, size] in [-1, 1]."""
    pixels = _rendered(tuple(head.values.items()), head.camera, tuple(head.light), size)
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


def open_values(head: Head, measure: Callable[[torch.Tensor], torch.Tensor], size: int = 64) -> dict[str, set[str]]:
    """Return, for each attribute visible in the clean picture, the values that the measurement cannot distinguish from
    the true one (which is included). More than one value means that the attribute is hidden.

    Renders every alternative and compares the measurements. ``measure``: maps [1, 3, size, size] to y, without noise,
    zero at unobserved entries.
    """
    seen = visible(head.values, head.camera)
    truth = measure(picture(head, size))
    left_open: dict[str, set[str]] = {}
    for attribute, options in ATTRIBUTES.items():
        if not seen[attribute]:
            continue
        values = {head[attribute]}
        for option in options:
            if option in values:
                continue
            other = replace(head, values={**head.values, attribute: option})
            energy = (measure(picture(other, size)) - truth).abs().square().sum()
            if float(energy) < LEAST_ENERGY:
                values.add(option)
        left_open[attribute] = values
    return left_open
