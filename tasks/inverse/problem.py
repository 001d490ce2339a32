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
    a prior of size x size px: its mask, box, kernel, factor or function."""
    if options.mask:
        read_mask(options.mask)
        return
    operator = _operator(options, size, None)
    for place in dict.fromkeys(("cpu", str(device))):  # it measures on the CPU and runs on the device
        try:
            with on(place, operator):
                _shape(operator, size, place)
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
        aim = size if options.clean or isinstance(operator, Inpaint) else _picture_size(operator, size)
        picture, note = fit_to(picture, aim, options.fit)
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
    with torch.no_grad():
        return list(operator(torch.zeros(1, 3, size, size, device=device)).shape[1:])


def _picture_size(operator: Operator, size: int) -> int:
    """The size of the square picture that this operator measures."""
    shape = _shape(operator, size)
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(f"{operator.name} measures {shape}, which is no picture; give it as .safetensors.")
    return shape[1]


def _checked(path: Path, y: torch.Tensor, operator: Operator, size: int) -> torch.Tensor:
    expected = _shape(operator, size)
    if list(y.shape[1:]) != expected or len(y) != 1:
        raise ValueError(f"{path} has shape {list(y.shape)}, but {operator.name} at {size} px gives {[1, *expected]}.")
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def head_of(path: Path) -> Head | None:
    """The built-in head that a picture says it shows."""
    from rsd.heads.command import from_json

    text = read_text(path).get("head")
    return from_json(text) if text else None
