"""Load a user's file as a measurement, with what is known of it and how it was fitted to the prior."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from rsd.heads.attributes import Head
from rsd.media import fit_to, read_alpha, read_image, read_measurement, read_text, transparent
from rsd.priors import over_heads

from .inputs import MEASUREMENT
from .operators import HDR, Inpaint, Operator, PhaseRetrieval, best_rotation, make_operator, measure
from .operators.masks import box_mask, given_mask, grey_share, known_of, read_levels, read_mask
from .operators.trial import check_measurement, needs_gradient, try_out
from .options import ALPHA, Restore

GREY = 0.05
"""The largest deviation of a grey image's channels from their mean, in [-1, 1]: JPEG tints grey a little."""
MOSTLY = 0.9
"""The hidden share above which a mask may be inverted."""


@dataclass(frozen=True)
class Problem:
    """One image to restore. ``y`` [1, ...]; ``clean`` [1, 3, H, W] if known; ``head``: the built-in head that it shows,
    if any; ``foreign``: it is not a head, but the prior was trained on heads only; ``notes``: sentences about how the
    file was changed."""

    operator: Operator
    y: torch.Tensor
    clean: torch.Tensor | None = None
    head: Head | None = None
    foreign: bool = False
    notes: tuple[str, ...] = ()

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
    if options.mask or options.box:  # each image has its own, of its size
        return
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
    """Return a file as a problem for a prior of size x size px; ``image`` identifies it in the random numbers.

    Raise ValueError or OSError, in one sentence that names the file.
    """
    if path.suffix.lower() == MEASUREMENT:
        if options.clean:
            raise ValueError(f"{path} is a measurement, but --clean takes images; leave --clean out.")
        if options.mask == ALPHA:
            raise ValueError(f"{path} is a measurement, which has no transparent pixels; give a --mask that is a file.")
        known, notes = _known_pixels(path, options, (size, size))
        operator = _operator(options, size, known)
        return Problem(
            operator, _read_checked(path, read_measurement(path), operator, size),
            notes=(*notes, *_describe_hidden(path, operator, options)),
        )  # fmt: skip
    if options.task == "phase_retrieval" and not options.clean:
        raise ValueError(
            f"{path}: a phase measurement is not an image; give it as .safetensors, or a clean image with --clean."
        )
    given = read_image(path)
    try:
        known, notes = _known_pixels(path, options, (given.shape[-2], given.shape[-1]))
        fitted, lost = (None, ()) if known is None else _fit_mask(known, options, size)
        operator = _operator(options, size, fitted)
        if options.clean or isinstance(operator, Inpaint):
            picture, note = fit_to(given, size, options.fit)
        else:
            picture, note = to_measurement(given, operator, size, options.fit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    clear = options.mask != ALPHA and transparent(path)
    notes = (
        *([f"{path.name}: {note}"] if note else []),
        *([f"note: {path.name} has transparent pixels, shown on white; --mask alpha fills them in"] if clear else []),
        *notes,
        *lost,
        *_describe_hidden(path, operator, options),
    )
    foreign = over_heads(options.prior) and not _shows_head(path, picture, operator, resized=note is not None)
    if not options.clean:
        y = operator(picture) if isinstance(operator, Inpaint) else picture
        return Problem(operator, y, foreign=foreign, notes=notes)
    y = measure(operator, picture, options.sigma_v, options.seed, image)
    return Problem(operator, y, picture, None if note else head_of(path), foreign, notes)


def _check_enlarges(picture: torch.Tensor, aim: int, size: int, operator: Operator) -> None:
    """Raise ValueError for a measured image that is not smaller than the prior's images."""
    height, width = picture.shape[-2:]
    if max(height, width) >= size:
        raise ValueError(
            f"{operator.name} with this prior makes {size} x {size} px out of {aim} x {aim}; the image is {width} x "
            f"{height} px, so the result would be no larger. Crop it to less than {size} px, use a --prior with "
            "larger images, or give --clean, which downsamples a clean image, restores and scores it."
        )


def _known_pixels(path: Path, options: Restore, shape: tuple[int, int]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Return the known pixels under --mask or --box for an image of ``shape`` (height, width), bool [1, 1, *shape], and
    notes; None for tasks with a mask of their own. Raise ValueError or OSError for an invalid mask or box."""
    height, width = shape
    notes: tuple[str, ...] = ()
    if options.box:
        return box_mask(options.box, height, width), notes
    if not options.mask:
        return None, notes
    if options.mask == ALPHA:
        levels = read_alpha(path)
        known, name = levels == 1, "its own transparency"
        if not known.any():
            raise ValueError("every pixel is transparent; some must be opaque, that is known.")
        if half := grey_share(levels):
            notes = (f"note: {_percent(half)} of {path.name} is partly transparent, and filled in too",)
        nothing = "it has no transparent pixels: give a mask file, black where pixels are to be filled in"
    else:
        levels = read_levels(options.mask)
        known, name = known_of(levels, options.mask, options.mask_hole), f"the mask {options.mask}"
        if half := grey_share(levels):
            brighter = "known" if options.mask_hole == "black" else "filled in"
            notes = (
                f"note: {_percent(half)} of {name} is grey, neither black nor white; it is thresholded at mid-grey, "
                f"and brighter pixels are {brighter}",
            )
        nothing = f"{name} hides nothing: {options.mask_hole} pixels are filled in"
    if known.shape[-2:] != shape:
        sizes = [f"{x[1]} x {x[0]}" for x in (known.shape[-2:], shape)]
        raise ValueError(f"{name} is {sizes[0]} px, the image {sizes[1]} px; they must be equal.")
    if known.all():
        if not options.clean:
            raise ValueError(f"{nothing} (--mask-hole inverts that)." if options.mask != ALPHA else f"{nothing}.")
        notes = (*notes, f"note: {nothing}")
    return known, notes


def _fit_mask(known: torch.Tensor, options: Restore, size: int) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the known pixels after fitting the image to the prior, and notes. A pixel is known if all source pixels
    under it are, and if known pixels have more than 99% of the weight in the resizing filter.

    Raise ValueError if the crop removes the whole hole.
    """
    values = known.float().expand(-1, 3, -1, -1)
    mixed, _ = fit_to(values, size, options.fit)
    side = min(known.shape[-2:])
    square = fit_to(values, side, "crop")[0] if options.fit == "crop" else values
    hidden, left = (int((x[:, :1] == 0).sum()) for x in (values, square))
    notes: tuple[str, ...] = ()
    if hidden and left < hidden:
        lost = f"outside the central {side} x {side} px that --fit crop keeps"
        remedy = "give --fit resize, or crop the image around the hole yourself"
        if not left:
            raise ValueError(
                f"the hole ({_percent(hidden / known.numel())} of the image) lies {lost}, so nothing would be filled "
                f"in; {remedy} (and its mask)."
            )
        notes = (f"note: {_percent(1 - left / hidden)} of the hole lies {lost}; {remedy}",)
    coverage_of = -F.adaptive_max_pool2d(-square, size)  # the minimum over the source pixels under each
    return (mixed.mean(1) > 0.99) & (coverage_of.mean(1) == 1), notes


def _describe_hidden(path: Path, operator: Operator, options: Restore) -> tuple[str, ...]:
    """Return the hidden share of an inpainting task, with a hint if it is nearly all."""
    if not isinstance(operator, Inpaint) or operator.observed is None:
        return ()
    share = 1 - float(operator.observed.double().mean())
    text = f"{path.name}: {_percent(share)} of the pixels are hidden and will be filled in"
    if share <= MOSTLY or not options.mask:
        return (text,)
    if options.mask == ALPHA:
        return (f"{text}; note: transparent pixels are filled in",)
    hole = options.mask_hole
    known = "white" if hole == "black" else "black"
    return (
        f"{text}; note: in the mask {known} is known and {hole} is filled in; if yours is inverted, give "
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
    return _operator(options, size, torch.ones(size, size) if options.mask or options.box else None)


def _operator(options: Restore, size: int, mask: torch.Tensor | None) -> Operator:
    if options.box and mask is not None:
        return Inpaint(given_mask(mask, size), "box inpainting")
    return make_operator(
        options.task, size=size, seed=options.seed, box=options.box, mask=mask, downsample=options.downsample,
        kernel=options.kernel, operator=options.operator,
    )  # fmt: skip


def _shape(operator: Operator, size: int, device: torch.device | str = "cpu") -> list[int]:
    return list(_zero_measurement(operator, size, device).shape[1:])


@torch.no_grad()
def _zero_measurement(operator: Operator, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    return operator(torch.zeros(1, 3, size, size, device=device))


def to_measurement(picture: torch.Tensor, operator: Operator, size: int, fit: str) -> tuple[torch.Tensor, str | None]:
    """Return an image [1, 3, H, W] as a measurement of images of size x size px, in colour [1, 3, h, w] or grey [1, 1,
    h, w] or [1, h, w], and how it was changed, if at all, as in fit_to.

    Raise ValueError if the operator's measurements are not images, or if the image does not match their kind or shape.
    """
    made = _zero_measurement(operator, size)
    shape = list(made.shape[1:])
    if made.is_complex() or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        kind = f"complex {shape}" if made.is_complex() else f"{shape}"
        raise ValueError(
            f"{operator.name} measures {kind}, which is not an image; give it as .safetensors (see rsd measure)."
        )
    height, width = shape[-2:]
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
    if shape[0] == 3 and len(shape) == 3:
        return picture, note
    if float((picture - picture.mean(1, keepdim=True)).abs().max()) > GREY:
        raise ValueError(f"The image has colours, but {operator.name} measures grey; save it as grey.")
    return picture.mean(1).reshape(made.shape), note


def _read_checked(path: Path, y: torch.Tensor, operator: Operator, size: int) -> torch.Tensor:
    made = _zero_measurement(operator, size)
    if y.shape != made.shape:
        expected = list(made.shape)
        raise ValueError(f"{path} has shape {list(y.shape)}, but {operator.name} at {size} px gives {expected}.")
    check_measurement(operator, y, made, str(path))
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def head_of(path: Path) -> Head | None:
    """Return the built-in head in an image's metadata."""
    from rsd.heads.command import from_json

    text = read_text(path).get("head")
    return from_json(text) if text else None
