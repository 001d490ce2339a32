"""Load a user's file as a measurement, with what is known of it and the frame in which it is restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rsd.heads.attributes import Head
from rsd.media import fit_to, read_about, read_alpha, read_image, read_measurement, read_text, transparent
from rsd.priors import image_size, over_heads, takes_any_size

from . import damage
from .inputs import MEASUREMENT
from .names import hides, sr_factor
from .operators import HDR, Inpaint, Operator, PhaseRetrieval, best_rotation, make_operator, measure
from .operators.masks import Size, box_mask, given_mask, grey_share, known_of, read_levels, read_mask, sides_of
from .operators.trial import check_measurement, needs_gradient, try_out
from .options import ALPHA, Restore
from .pictures import frame as framing
from .pictures.frame import Frame, Sides
from .pictures.measured import settled
from .pictures.source import Source, read_source

GREY = 0.05
"""The largest deviation of a grey image's channels from their mean, in [-1, 1]: JPEG tints grey a little."""
MOSTLY = 0.9
"""The hidden share above which a mask may be inverted."""
NEARLY = 8.5 / 255
"""Levels of a mask so near to black or white are taken for that, since JPEG changes them a little."""


@dataclass(frozen=True)
class Hole:
    """What --mask or --box hides in a picture. ``known``: bool [1, 1, H, W]; ``share`` [H, W]: how much of the answer
    each pixel takes, between 0 and 1 at the border of a feathered mask; ``notes``: about the mask."""

    known: torch.Tensor
    share: torch.Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """A picture that an answer goes back into: its file, its pixels [1, 3, H, W] in [-1, 1], what is hidden of it, None
    if all of it is restored, and whether it keeps its known pixels (else only those that no region of the frame
    restores)."""

    path: Path
    picture: torch.Tensor
    hole: Hole | None = None
    keeps: bool = True

    def source(self) -> Source:
        """Return the file."""
        return read_source(self.path)


@dataclass(frozen=True)
class Problem:
    """One image to restore. ``y`` [1, ...]; ``clean`` [1, 3, H, W] if known; ``head``: the built-in head that it shows,
    if any; ``foreign``: it is not a head, but the prior was trained on heads only; ``notes``: sentences about how the
    file was changed; ``frame``: which parts of the picture are restored, at what size (None: all, at the prior's size;
    y and ``clean`` are as the frame shows them); ``given``: the picture that the answers go back into, None if they
    stay as the frame shows them."""

    operator: Operator
    y: torch.Tensor
    clean: torch.Tensor | None = None
    head: Head | None = None
    foreign: bool = False
    notes: tuple[str, ...] = ()
    frame: Frame | None = None
    given: Given | None = None

    @property
    def grey(self) -> bool:
        """Whether a grey picture is the measurement of one with colours."""
        return self.y.ndim == 4 and self.y.shape[1] == 1

    def back(self, images: torch.Tensor) -> torch.Tensor:
        """Return samples [N, 3, h, w] in the whole picture, [N, 3, H, W]."""
        if self.given is None or self.frame is None:
            return images
        hole = self.given.hole if self.given.keeps else None
        return self.frame.back(images, self.given.picture, None if hole is None else hole.known)

    def aligned(self, images: torch.Tensor) -> torch.Tensor:
        """Return samples [N, 3, H, W] as they are written and scored. Phase retrieval is ambiguous up to a rotation by
        180 degrees, so each sample is rotated towards the clean image, or towards the first sample if there is none."""
        if not isinstance(self.operator, PhaseRetrieval):
            return images
        return best_rotation(images, images[:1] if self.clean is None else self.clean)


@contextmanager
def on(device: torch.device | str, operator: Operator) -> Iterator[Operator]:
    """Yield the operator on ``device`` and move it back to the CPU afterwards: a user's operator is one object for all
    images."""
    try:
        yield operator.to(device)
    finally:
        operator.cpu()


def check_task(options: Restore, size: int, device: torch.device | str = "cpu") -> None:
    """Raise ValueError, OSError or ImportError, in one sentence, for a mask, box, kernel, factor or function that fails
    for every file on ``device`` with a prior of size x size px. A user's own operator is tried once as the method will
    use it."""
    if options.mask and options.mask != ALPHA:
        read_mask(options.mask, options.mask_hole)
    if _has_own_hole(options):  # each image has its own, of its size
        return
    if takes_any_size(options.prior):
        size -= size % (sr_factor(options.task) or 1)
    operator, follows = _operator(options, size, None), needs_gradient(options.method, options.x_step)
    for place in dict.fromkeys(("cpu", str(device))):  # it measures on the CPU and samples on the device
        try:
            with on(place, operator):
                _shape(operator, size, place)
                if options.task == "operator":
                    try_out(operator, (3, size, size), place, gradient=follows)
        except ValueError:
            raise
        except Exception as error:  # from the user's own code
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            what = f"an image [1, 3, {size}, {size}]" + (f" on {place}" if place != "cpu" else "")
            raise ValueError(f"{operator.name} failed on {what} ({why}); fix it.") from error


def load(path: Path, options: Restore, size: int, image: str) -> Problem:
    """Return a file as a problem for a prior of size x size px, or one that takes any size; ``image`` identifies it in
    the random numbers.

    Raise ValueError or OSError, in one sentence that names the file.
    """
    if path.suffix.lower() == MEASUREMENT:
        return _load_measurement(path, options, size)
    if options.task == "phase_retrieval" and not options.clean:
        raise ValueError(
            f"{path}: a phase measurement is not an image; give it as .safetensors, or a clean image with --clean."
        )
    given = read_image(path)
    try:
        sides = (given.shape[-2], given.shape[-1])
        hole = _scratches(given) if options.task == "scratches" else _hole(path, options, sides)
        frame, changes = _frame(options, sides, size, hole)
        lost = _lost(options, hole, frame)
        operator = _operator(options, frame.shape, None if hole is None else frame.view_known(hole.known))
        if _is_viewed(options):
            picture = frame.view(given)
        elif options.fitted == "whole":
            picture = as_measured(given, operator, frame.shape)
        else:
            picture, note = to_measurement(given, operator, size, options.fitted)
            changes = (note,) if note else ()
        if not options.clean:
            operator, picture, said = damage.seen(path, picture, operator, options, whole=frame.shape == sides)
            changes = (*changes, *said)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    clear = options.mask != ALPHA and transparent(path)
    notes = (
        *(f"{path.name}: {change}" for change in changes),
        *([f"note: {path.name} has transparent pixels, shown on white; --mask alpha fills them in"] if clear else []),
        *(() if hole is None else hole.notes),
        *lost,
        *_describe_hidden(path, operator, options, hole if frame.returns else None),
    )
    foreign = over_heads(options.prior) and not _shows_head(path, picture, operator, resized=bool(changes))
    if not options.clean:
        y = operator(picture) if isinstance(operator, Inpaint) else picture
        kept = Given(path, given, hole, options.keeps_known) if frame.returns else None
        return Problem(operator, y, foreign=foreign, notes=notes, frame=frame, given=kept)
    y = measure(operator, picture, options.sigma_v, options.seed, image)
    return Problem(operator, y, picture, None if changes else head_of(path), foreign, notes, frame)


def truth(path: Path, options: Restore, image: str) -> torch.Tensor:
    """Return a clean image [1, 3, H, W] as its restorations with ``--clean`` show it: cropped and resized as they are.
    Raise what :func:`load` raises."""
    clean = load(path, options, image_size(options.prior, options.revision), image).clean
    assert clean is not None, "only clean images have one"
    return clean


def _load_measurement(path: Path, options: Restore, size: int) -> Problem:
    if options.clean:
        raise ValueError(f"{path} is a measurement, but --clean takes images; leave --clean out.")
    if options.mask == ALPHA:
        raise ValueError(f"{path} is a measurement, which has no transparent pixels; give a --mask that is a file.")
    y = read_measurement(path)
    options = settled(path, read_about(path), options)
    sides = (size, size)
    if takes_any_size(options.prior) and y.ndim in (2, 3, 4) and not y.is_complex():
        factor = sr_factor(options.task) or 1
        sides = (y.shape[-2] * factor, y.shape[-1] * factor)
    hole = _hole(path, options, sides)
    operator = _operator(options, sides, None if hole is None else hole.known)
    y = _read_checked(path, y, operator, sides)
    try:
        operator, y, said = damage.seen(path, y, operator, options, whole=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    notes = (*(f"{path.name}: {line}" for line in said), *(() if hole is None else hole.notes))
    notes = (*notes, *_describe_hidden(path, operator, options, hole))
    return Problem(operator, y, notes=notes, frame=framing.whole(sides))


def _frame(options: Restore, sides: Sides, size: int, hole: Hole | None) -> tuple[Frame, tuple[str, ...]]:
    """Return which parts of a picture are restored, at what size, and how it was changed."""
    how, free = options.fitted, takes_any_size(options.prior)
    if how != "whole" and not _is_viewed(options):
        return replace(framing.whole((size, size)), returns=False), ()
    if how != "whole":
        frame, change = framing.fitted(sides, size, how)
        return frame, (change,) if change else ()
    if hole is not None and not options.clean:
        frame = framing.local(hole.known, None if free else size)
        return frame, () if frame.is_whole else (_describe_local(frame),)
    factor = sr_factor(options.task) or 1
    if not options.clean:
        return framing.whole(_answer_sides(options, sides, None if free else size)), ()
    height, width = (side - side % factor for side in sides)
    if (height, width) == sides:
        return framing.whole(sides), ()
    if not height or not width:
        raise ValueError(f"The image is {sides[1]} x {sides[0]} px, which cannot be made {factor} times smaller.")
    change = f"cropped from {sides[1]} x {sides[0]} px to {width} x {height}, which {factor} divides"
    return Frame(sides, (framing.Region((0, height, 0, width), (height, width)),), returns=False), (change,)


def _answer_sides(options: Restore, sides: Sides, size: int | None) -> Sides:
    """Return the size of the picture that an image of ``sides`` measures: ``size``, the prior's own, if that fits, else
    as many times larger as the operator makes pictures smaller."""
    if size is not None:
        try:
            if tuple(_shape(_operator(options, size, None), size)[-2:]) == sides:
                return size, size
        except ValueError:  # the task needs another size
            pass
    if factor := sr_factor(options.task):
        return sides[0] * factor, sides[1] * factor
    if options.task != "operator":
        return sides
    made = _shape(_operator(options, sides, None), sides)
    factors = {side / small for side, small in zip(sides, made[-2:], strict=False) if small}
    times = factors.pop() if len(made) > 1 and len(factors) == 1 else 1.0
    return (sides[0] * int(times), sides[1] * int(times)) if times.is_integer() else sides


def _is_viewed(options: Restore) -> bool:
    """Return whether the image has the size of its restorations: a clean one, or one with holes."""
    return options.clean or hides(options.task)


def _has_own_hole(options: Restore) -> bool:
    return bool(options.mask or options.box or options.task == "scratches")


def _scratches(picture: torch.Tensor) -> Hole:
    """Return what the detector takes for scratches."""
    known, note = damage.scratched(picture)
    return Hole(known, (~known[0, 0]).float(), (note,))


def _describe_local(frame: Frame) -> str:
    number, (height, width), scale = len(frame.regions), frame.shape, frame.scale()
    what = "the surroundings of the hole are" if number == 1 else f"the surroundings of the holes, {number} parts, are"
    text = f"{what} restored, {width} x {height} px of {frame.sides[1]} x {frame.sides[0]}"
    return text + (f", at {scale:.2g} of their size" if scale != 1 else "")


def _check_enlarges(picture: torch.Tensor, aim: int, size: int, operator: Operator) -> None:
    """Raise ValueError for a measured image that is not smaller than the prior's images."""
    height, width = picture.shape[-2:]
    if max(height, width) >= size:
        raise ValueError(
            f"{operator.name} with this prior makes {size} x {size} px out of {aim} x {aim}; the image is {width} x "
            f"{height} px, so the result would be no larger. Crop it to less than {size} px, use a --prior with "
            "larger images, or give --clean, which downsamples a clean image, restores and scores it."
        )


def _hole(path: Path, options: Restore, shape: Sides) -> Hole | None:
    """Return what --mask or --box hides in an image of ``shape`` (height, width); None for tasks with a mask of their
    own. Raise ValueError or OSError for an invalid mask or box."""
    height, width = shape
    if options.box:
        known = box_mask(options.box, height, width)
        return Hole(known, (~known[0, 0]).float())
    if not options.mask:
        return None
    notes: tuple[str, ...] = ()
    if options.mask == ALPHA:
        levels = read_alpha(path)
        known, name = levels == 1, "its own transparency"
        share = (~known).float()
        if not known.any():
            raise ValueError("every pixel is transparent; some must be opaque, that is known.")
        if half := grey_share(levels):
            notes = (f"note: {_percent(half)} of {path.name} is partly transparent, and filled in too",)
        nothing = "it has no transparent pixels: give a mask file, black where pixels are to be filled in"
    else:
        levels, name = read_levels(options.mask), f"the mask {options.mask}"
        if levels.shape[-2:] != shape:
            sizes = [f"{x[1]} x {x[0]}" for x in (levels.shape[-2:], shape)]
            raise ValueError(f"{name} is {sizes[0]} px, the image {sizes[1]} px; they must be equal.")
        known = known_of(levels, options.mask, options.mask_hole)
        share = (~known).float()
        if half := grey_share(levels):
            if options.fitted == "whole" and not options.clean:
                share = 1 - levels if options.mask_hole == "black" else levels
                share = torch.where(share < NEARLY, 0, torch.where(share > 1 - NEARLY, 1, share))
                known = share == 0
                if not known.any():
                    raise ValueError(f"{name} hides every pixel, some of them partly; leave some known.")
                what = "between black and white: there the answer is blended with the image"
            else:
                brighter = "known" if options.mask_hole == "black" else "filled in"
                what = f"neither black nor white; it is thresholded at mid-grey, and brighter pixels are {brighter}"
            notes = (f"note: {_percent(half)} of {name} is grey, {what}",)
        nothing = f"{name} hides nothing: {options.mask_hole} pixels are filled in"
    if known.all():
        other = "white" if options.mask_hole == "black" else "black"
        if not options.clean:
            raise ValueError(
                f"{nothing} (--mask-hole {other} inverts that)." if options.mask != ALPHA else f"{nothing}."
            )
        notes = (*notes, f"note: {nothing}")
    return Hole(known, share.reshape(shape), notes)


def _lost(options: Restore, hole: Hole | None, frame: Frame) -> tuple[str, ...]:
    """Return a note if a crop removes a part of the hole. Raise ValueError if it removes all of it."""
    if hole is None or options.fitted != "crop" or frame.is_whole:
        return ()
    top, bottom, left, right = frame.regions[0].box
    hidden, kept = (int((~x).sum()) for x in (hole.known, hole.known[..., top:bottom, left:right]))
    if kept == hidden:
        return ()
    lost = f"outside the central {right - left} x {bottom - top} px that --fit crop keeps"
    remedy = "give --fit whole, or crop the image around the hole yourself"
    if not kept:
        raise ValueError(
            f"the hole ({_percent(hidden / hole.known.numel())} of the image) lies {lost}, so nothing would be filled "
            f"in; {remedy} (and its mask)."
        )
    return (f"note: {_percent(1 - kept / hidden)} of the hole lies {lost}; {remedy}",)


def _describe_hidden(path: Path, operator: Operator, options: Restore, hole: Hole | None) -> tuple[str, ...]:
    """Return the hidden share of an inpainting task, with a hint if it is nearly all. ``hole``: what is hidden of the
    picture itself, if the operator has another size."""
    if not isinstance(operator, Inpaint) or operator.observed is None:
        return ()
    share = 1 - float((operator.observed if hole is None else hole.known).double().mean())
    text = f"{path.name}: {_percent(share)} of the pixels are hidden and will be filled in"
    if share <= MOSTLY or not options.mask:
        return (text,)
    if options.mask == ALPHA:
        return (f"{text}; note: transparent pixels are filled in",)
    hidden = options.mask_hole
    known = "white" if hidden == "black" else "black"
    return (
        f"{text}; note: in the mask {known} is known and {hidden} is filled in; if yours is inverted, give "
        f"--mask-hole {known}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _shows_head(path: Path, picture: torch.Tensor, operator: Operator, *, resized: bool) -> bool:
    """Return whether a fitted image may be a built-in head: its metadata says so, or it has their size and, where
    observed, their plain background along the top and the upper sides."""
    from rsd.heads.render import BACKGROUND

    if "head" in read_text(path):
        return True
    if resized:
        return False
    colors = 2 * torch.tensor([*BACKGROUND.values()]) - 1
    if isinstance(operator, HDR):
        colors = torch.cat([colors, (2 * colors).clamp(-1, 1)])
    seen = torch.ones(1, 1, *picture.shape[-2:], dtype=torch.bool) if operator.observed is None else operator.observed
    half = picture.shape[-2] // 2
    rim = [torch.cat([x[0, :, 0], x[0, :, :half, 0], x[0, :, :half, -1]], 1) for x in (picture, seen)]
    pixels = rim[0].T[rim[1][0]]
    near = (pixels[:, None] - colors).abs().amax(2).amin(1) < 0.1
    return len(pixels) == 0 or float(near.float().mean()) > 0.2


def make(options: Restore, size: int) -> Operator:
    """Return the operator of all images, or an example if each image has its own mask."""
    if takes_any_size(options.prior):
        size -= size % (sr_factor(options.task) or 1)
    return _operator(options, size, torch.ones(size, size) if _has_own_hole(options) else None)


def _operator(options: Restore, size: Size, mask: torch.Tensor | None) -> Operator:
    if options.box and mask is not None:
        return Inpaint(given_mask(mask, size), "box inpainting")
    return make_operator(
        options.task, size=size, seed=options.seed, box=options.box, mask=mask, downsample=options.downsample,
        kernel=options.kernel, operator=options.operator, blur=options.blur, quality=options.quality, peak=options.peak,
    )  # fmt: skip


def _shape(operator: Operator, size: Size, device: torch.device | str = "cpu") -> list[int]:
    return list(_zero_measurement(operator, size, device).shape[1:])


@torch.no_grad()
def _zero_measurement(operator: Operator, size: Size, device: torch.device | str = "cpu") -> torch.Tensor:
    return operator(torch.zeros(1, 3, *sides_of(size), device=device))


def to_measurement(picture: torch.Tensor, operator: Operator, size: int, fit: str) -> tuple[torch.Tensor, str | None]:
    """Return an image [1, 3, H, W] as a measurement of images of size x size px, in colour [1, 3, h, w] or grey [1, 1,
    h, w] or [1, h, w], and how it was changed, if at all, as in fit_to.

    Raise ValueError if the operator's measurements are not images, or if the image does not match their kind or shape.
    """
    made = _zero_measurement(operator, size)
    height, width = _picture_sides(made, operator)
    note: str | None = None
    if height == width:
        if height < size:
            _check_enlarges(picture, height, size, operator)
        picture, note = fit_to(picture, height, fit)
    elif picture.shape[-2:] != (height, width):
        raise ValueError(
            f"The image is {picture.shape[-1]} x {picture.shape[-2]} px, but {operator.name} measures {width} x "
            f"{height} px; resize it."
        )
    return _in_channels(picture, made, operator), note


def as_measured(picture: torch.Tensor, operator: Operator, sides: Sides) -> torch.Tensor:
    """Return an image [1, 3, H, W] as the measurement of a picture of ``sides``. Raise ValueError as
    :func:`to_measurement`."""
    made = _zero_measurement(operator, sides)
    height, width = _picture_sides(made, operator)
    if picture.shape[-2:] != (height, width):
        raise ValueError(
            f"The image is {picture.shape[-1]} x {picture.shape[-2]} px, but {operator.name} measures {width} x "
            f"{height} px of a picture of {sides[1]} x {sides[0]}; resize it, or give its measurement as .safetensors."
        )
    return _in_channels(picture, made, operator)


def _picture_sides(made: torch.Tensor, operator: Operator) -> Sides:
    """Return height and width of the measurements of an operator. Raise ValueError if they are not images."""
    shape = list(made.shape[1:])
    if made.is_complex() or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        kind = f"complex {shape}" if made.is_complex() else f"{shape}"
        raise ValueError(
            f"{operator.name} measures {kind}, which is not an image; give it as .safetensors (see rsd measure)."
        )
    return shape[-2], shape[-1]


def _in_channels(picture: torch.Tensor, made: torch.Tensor, operator: Operator) -> torch.Tensor:
    """Return an image [1, 3, H, W] in colour or grey, as the operator's measurement ``made``."""
    if made.ndim == 4 and made.shape[1] == 3:
        return picture
    if float((picture - picture.mean(1, keepdim=True)).abs().max()) > GREY:
        raise ValueError(f"The image has colours, but {operator.name} measures grey; save it as grey.")
    return picture.mean(1).reshape(made.shape)


def _read_checked(path: Path, y: torch.Tensor, operator: Operator, size: Size) -> torch.Tensor:
    made = _zero_measurement(operator, size)
    y = _as_shaped(y, made, operator)
    if y.shape != made.shape:
        expected, (height, width) = list(made.shape), sides_of(size)
        at = f"{height} px" if height == width else f"{width} x {height} px"
        raise ValueError(f"{path} has shape {list(y.shape)}, but {operator.name} at {at} gives {expected}.")
    check_measurement(operator, y, made, str(path))
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def _as_shaped(y: torch.Tensor, made: torch.Tensor, operator: Operator) -> torch.Tensor:
    """Return a measurement that is a picture, but has other dimensions or channels, in the shape of ``made``: [H, W],
    [C, H, W] or [1, C, H, W], C = 1 or 3; others unchanged."""
    is_picture = made.ndim == 4 and made.shape[1] in (1, 3) and not made.is_complex() and not y.is_complex()
    if y.shape == made.shape or not is_picture or y.ndim not in (2, 3, 4) or y.shape[-2:] != made.shape[-2:]:
        return y
    picture = y.reshape(-1, *y.shape[-2:])
    if len(picture) not in (1, 3):
        return y
    return _in_channels(picture[None].expand(1, 3, -1, -1), made, operator).clone()


def head_of(path: Path) -> Head | None:
    """Return the built-in head in an image's metadata."""
    from rsd.heads.command import from_json

    text = read_text(path).get("head")
    return from_json(text) if text else None
