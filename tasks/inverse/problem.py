"""From a user's file to a measurement: what is degraded, what is known, and how the picture was fitted to the prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from rsd.heads.attributes import Head
from rsd.media import fit_to, read_image, read_measurement, read_text

from .operators import Inpaint, Operator, make_operator, measure
from .options import Restore

MEASUREMENT = ".safetensors"


@dataclass(frozen=True)
class Problem:
    """One image to restore. ``y`` [1, ...]; ``clean`` [1, 3, H, W] if known; ``head``: what it shows, if a built-in
    head; ``notes``: sentences about what was done to the file."""

    name: str
    operator: Operator
    y: torch.Tensor
    clean: torch.Tensor | None = None
    head: Head | None = None
    notes: tuple[str, ...] = ()


def check(path: Path, options: Restore) -> None:
    """Raise ValueError or OSError for a file that cannot be restored with these options, before any model is loaded."""
    if path.suffix == MEASUREMENT:
        if options.clean:
            raise ValueError(f"{path} is a measurement; --clean takes images, leave it out.")
        read_measurement(path)
        return
    if options.task == "phase_retrieval" and not options.clean:
        raise ValueError(
            f"{path}: a phase measurement is no picture; give it as .safetensors, or a clean image with --clean."
        )
    image = read_image(path)
    if options.mask:
        _read_mask(options.mask, image, path)


def _read_mask(mask: Path, image: torch.Tensor, path: Path) -> torch.Tensor:
    """The mask [1, 3, H, W] of an image [1, 3, H, W], +1 where known."""
    known = read_image(mask)
    if known.shape != image.shape:
        sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (known, image)]
        raise ValueError(f"The mask {mask} is {sizes[0]} px, the image {path} {sizes[1]} px; make them equal.")
    if not (known.mean(1) > 0).any():
        raise ValueError(f"The mask {mask} hides every pixel; white is known, black is hidden.")
    return known


def load(path: Path, options: Restore, size: int, image: str) -> Problem:
    """The problem that a file poses to a prior of size x size px; ``image`` names it in the random numbers.

    Raises ValueError or OSError, in one sentence that names the file.
    """
    if path.suffix == MEASUREMENT:
        operator = _operator(options, size, options.mask)
        return Problem(image, operator, _checked(path, read_measurement(path), operator, size))
    picture, mask, notes = read_image(path), options.mask, []
    known: torch.Tensor | None = None
    if mask:
        white = _read_mask(mask, picture, path).mean(1, keepdim=True) > 0
        fitted, _ = fit_to(white.float().expand(-1, 3, -1, -1), size, options.fit)
        known = fitted.mean(1) > 0.99  # of pixels that fitting merged, only those that were known altogether
    operator = _operator(options, size, known)
    aim = size if options.clean or isinstance(operator, Inpaint) else _picture_size(operator, size, path)
    picture, note = fit_to(picture, aim, options.fit)
    if note:
        notes.append(f"{path.name}: {note}")
    if not options.clean:
        y = operator(picture) if isinstance(operator, Inpaint) else picture
        return Problem(image, operator, y, notes=tuple(notes))
    y = measure(operator, picture, options.sigma_v, options.seed, image)
    return Problem(image, operator, y, picture, None if note else _head(path), tuple(notes))


def _operator(options: Restore, size: int, mask: Path | torch.Tensor | None) -> Operator:
    return make_operator(
        options.task, size=size, seed=options.seed, box=options.box, mask=mask, downsample=options.downsample,
        kernel=options.kernel, operator=options.operator,
    )  # fmt: skip


def _shape(operator: Operator, size: int) -> list[int]:
    with torch.no_grad():
        return list(operator(torch.zeros(1, 3, size, size)).shape[1:])


def _picture_size(operator: Operator, size: int, path: Path) -> int:
    """The size of the square picture that this operator measures."""
    shape = _shape(operator, size)
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(f"{path}: {operator.name} measures {shape}, which is no picture; give it as .safetensors.")
    return shape[1]


def _checked(path: Path, y: torch.Tensor, operator: Operator, size: int) -> torch.Tensor:
    expected = _shape(operator, size)
    if list(y.shape[1:]) != expected or len(y) != 1:
        raise ValueError(f"{path} has shape {list(y.shape)}, but {operator.name} at {size} px gives {[1, *expected]}.")
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def _head(path: Path) -> Head | None:
    """The built-in head that a picture says it shows."""
    from rsd.heads.command import from_json

    text = read_text(path).get("head")
    return from_json(text) if text else None
