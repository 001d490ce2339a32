"""From a user's file to a measurement: what is degraded, what is known, and how the picture was fitted to the prior."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from rsd.heads.attributes import Head
from rsd.media import fit_to, read_image, read_measurement, read_text

from .jobs import MEASUREMENT
from .masks import read_mask
from .operators import Inpaint, Operator, PhaseRetrieval, best_rotation, make_operator, measure
from .options import Restore
from .trial import check_measurement, follows_gradient, try_out

GREY = 0.05
"""How far from their mean the colours of a grey picture may be, in [-1, 1]: JPEG stains grey a little."""


@dataclass(frozen=True)
class Problem:
    """One image to restore. ``y`` [1, ...]; ``clean`` [1, 3, H, W] if known; ``head``: what it shows, if a built-in
    head; ``notes``: sentences about what was done to the file."""

    operator: Operator
    y: torch.Tensor
    clean: torch.Tensor | None = None
    head: Head | None = None
    notes: tuple[str, ...] = ()

    def aligned(self, images: torch.Tensor) -> torch.Tensor:
        """Answers [N, 3, H, W] as they are shown and compared: phases leave a rotation by 180 degrees open, so each is
        turned as is nearer to the truth, or to the first answer where no truth is known."""
        if not isinstance(self.operator, PhaseRetrieval):
            return images
        return best_rotation(images, images[:1] if self.clean is None else self.clean)


@contextmanager
def on(device: torch.device | str, operator: Operator) -> Iterator[Operator]:
    """The operator on a device, and back on the CPU afterwards, come what may: a user's own is one object for all
    images."""
    try:
        yield operator.to(device)
    finally:
        operator.cpu()


def check_task(options: Restore, size: int, device: torch.device | str = "cpu") -> None:
    """Raise ValueError, OSError or ImportError, in one sentence, for a task that no file could have on ``device`` with
    a prior of size x size px: its mask, box, kernel, factor or function. An operator of the user's own is tried out as
    the method will use it."""
    if options.mask:
        read_mask(options.mask)
        return
    operator, follows = _operator(options, size, None), follows_gradient(options.method, options.x_step)
    for place in dict.fromkeys(("cpu", str(device))):  # it measures on the CPU and runs on the device
        try:
            with on(place, operator):
                _shape(operator, size, place)
                if options.task == "operator":
                    try_out(operator, (3, size, size), place, gradient=follows)
        except ValueError:
            raise
        except Exception as error:  # the user's own code runs here
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            what = f"an image [1, 3, {size}, {size}]" + (f" on {place}" if place != "cpu" else "")
            raise ValueError(f"{operator.name} failed on {what} ({why}); mend it.") from error


def load(path: Path, options: Restore, size: int, image: str) -> Problem:
    """The problem that a file poses to a prior of size x size px; ``image`` names it in the random numbers.

    Raises ValueError or OSError, in one sentence that names the file.
    """
    if path.suffix == MEASUREMENT:
        if options.clean:
            raise ValueError(f"{path} is a measurement; --clean takes images, leave it out.")
        operator = _operator(options, size, options.mask)
        return Problem(
            operator, _checked(path, read_measurement(path), operator, size), notes=_hidden(operator, options)
        )
    if options.task == "phase_retrieval" and not options.clean:
        raise ValueError(
            f"{path}: a phase measurement is no picture; give it as .safetensors, or a clean image with --clean."
        )
    picture = read_image(path)
    try:
        operator = _operator(options, size, _fitted_mask(options, picture, size))
        if options.clean or isinstance(operator, Inpaint):
            picture, note = fit_to(picture, size, options.fit)
        else:
            picture, note = as_measurement(picture, operator, size, options.fit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    notes = (*([f"{path.name}: {note}"] if note else []), *_hidden(operator, options))
    if not options.clean:
        y = operator(picture) if isinstance(operator, Inpaint) else picture
        return Problem(operator, y, notes=notes)
    y = measure(operator, picture, options.sigma_v, options.seed, image)
    return Problem(operator, y, picture, None if note else head_of(path), notes)


def _fitted_mask(options: Restore, picture: torch.Tensor, size: int) -> torch.Tensor | None:
    """The mask of a picture, fitted as it is: a pixel is known if all those are that it covers, and if those around
    it that the picture's filter mixes in are but for 1% of its weight."""
    if not options.mask:
        return None
    white = read_mask(options.mask)
    if white.shape[-2:] != picture.shape[-2:]:
        sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (white, picture)]
        raise ValueError(f"the mask {options.mask} is {sizes[0]} px, the image {sizes[1]} px; make them equal.")
    values = white.float().expand(-1, 3, -1, -1)
    mixed, _ = fit_to(values, size, options.fit)
    square = fit_to(values, min(white.shape[-2:]), "crop")[0] if options.fit == "crop" else values
    covered = -F.adaptive_max_pool2d(-square, size)  # the least of all source pixels under each
    return (mixed.mean(1) > 0.99) & (covered.mean(1) == 1)


def _hidden(operator: Operator, options: Restore) -> tuple[str, ...]:
    """A note about a mask that hides nothing."""
    if options.mask and operator.observed is not None and operator.observed.all():
        return (f"note: the mask {options.mask} hides nothing: black is what is to be filled in",)
    return ()


def make(options: Restore, size: int) -> Operator:
    """The operator that every picture has, or one of its kind where each has a mask of its own."""
    return _operator(options, size, torch.ones(size, size) if options.mask else None)


def _operator(options: Restore, size: int, mask: Path | torch.Tensor | None) -> Operator:
    return make_operator(
        options.task, size=size, seed=options.seed, box=options.box, mask=mask, downsample=options.downsample,
        kernel=options.kernel, operator=options.operator,
    )  # fmt: skip


def _shape(operator: Operator, size: int, device: torch.device | str = "cpu") -> list[int]:
    return list(_made(operator, size, device).shape[1:])


@torch.no_grad()
def _made(operator: Operator, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    return operator(torch.zeros(1, 3, size, size, device=device))


def as_measurement(picture: torch.Tensor, operator: Operator, size: int, fit: str) -> tuple[torch.Tensor, str | None]:
    """A picture [1, 3, H, W] as the measurement that an operator makes of images of size x size px: in colour
    [1, 3, h, w] or grey [1, 1, h, w] or [1, h, w]; and what was done to it, if anything, as fit_to says it.

    Raises ValueError if the operator makes no pictures, or the picture is not of its kind or shape.
    """
    made = _made(operator, size)
    shape = list(made.shape[1:])
    if made.is_complex() or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        kind = f"complex {shape}" if made.is_complex() else f"{shape}"
        raise ValueError(
            f"{operator.name} measures {kind}, which is no picture; give it as .safetensors (rsd measure writes them)."
        )
    height, width = shape[-2:]
    note: str | None = None
    if height == width:
        picture, note = fit_to(picture, height, fit)
    elif picture.shape[-2:] != (height, width):
        raise ValueError(
            f"The image is {picture.shape[-1]} x {picture.shape[-2]} px, but {operator.name} measures {width} x "
            f"{height} px; make it of that size."
        )
    if shape[0] == 3 and len(shape) == 3:
        return picture, note
    if float((picture - picture.mean(1, keepdim=True)).abs().max()) > GREY:
        raise ValueError(f"The image has colours, but {operator.name} measures grey; save it as grey.")
    return picture.mean(1).reshape(made.shape), note


def _checked(path: Path, y: torch.Tensor, operator: Operator, size: int) -> torch.Tensor:
    made = _made(operator, size)
    if y.shape != made.shape:
        expected = list(made.shape)
        raise ValueError(f"{path} has shape {list(y.shape)}, but {operator.name} at {size} px gives {expected}.")
    check_measurement(operator, y, made, str(path))
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def head_of(path: Path) -> Head | None:
    """The built-in head that a picture says it shows."""
    from rsd.heads.command import from_json

    text = read_text(path).get("head")
    return from_json(text) if text else None
