"""Forward operators for images [B, 3, H, W] in [-1, 1], and :func:`make_operator`, which makes one from a task's name.

Presets are the paper's, at 512 px; :mod:`.masks` and :mod:`.kernels` scale them to other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from rsd.runs.words import unknown_name

from ..names import is_task, sr_factor, unknown_task
from . import jpeg, kernels, masks
from .base import Operator, data_residual, measure, observed_count, stretch
from .blind import BlindBlur
from .blur import Blur, at_least_float32
from .deepinv import Physics, deepinv_physics
from .filling import filled
from .grain import Colorize, Denoise, PoissonDenoise
from .own import Function, load_operator

__all__ = [
    "BicubicDownsample", "BlindBlur", "BlockAverage", "Blur", "Colorize", "Denoise", "Function", "HDR", "Inpaint",
    "Operator", "PhaseRetrieval", "Physics", "PoissonDenoise",
    "best_rotation", "data_residual", "deepinv_physics", "load_operator", "make_operator", "measure", "observed_count",
]  # fmt: skip


class Inpaint(Operator):
    """y = x where the mask is True, 0 (mid-grey) elsewhere; range [-1, 1], no padding.

    ``mask``: bool [1, 1, H, W], True where a pixel is known; those entries alone are observed.
    """

    gram_scale = 1.0

    def __init__(self, mask: torch.Tensor, name: str = "inpainting"):
        super().__init__(name, linear=True, observed=mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], hidden entries zero."""
        assert self.observed is not None
        return x.masked_fill(~self.observed, 0)

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y with the hidden pixels filled in smoothly: a pyramid of means of the known pixels, then some steps
        towards Laplace's equation at each of its sizes."""
        assert self.observed is not None
        return filled(y, self.observed.expand(1, 1, *y.shape[-2:]))


class BlockAverage(Operator):
    """y = the means of x over factor x factor blocks (the authors' super-resolution); range [-1, 1], no padding."""

    def __init__(self, factor: int):
        super().__init__(f"super-resolution x{factor}, block average", linear=True)
        self.factor, self.gram_scale = factor, 1 / factor**2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H/factor, W/factor]."""
        return F.avg_pool2d(x, self.factor)

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y enlarged by cubic interpolation."""
        return F.interpolate(at_least_float32(y), scale_factor=self.factor, mode="bicubic").to(y.dtype)


class BicubicDownsample(Operator):
    """y = x downsampled by an antialiased cubic filter (a = -1/2, stretched by the factor, weights of sum 1).

    It equals the resizer of DPS: x is padded by 2 factor reflected pixels on each side, including the edge, so the
    filter sees no border. Range: slightly beyond [-1, 1] at edges, since a cubic filter overshoots. Half precision is
    computed in float32.
    """

    def __init__(self, factor: int):
        super().__init__(f"super-resolution x{factor}, bicubic", linear=True)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H/factor, W/factor]."""
        height, width = x.shape[-2] // self.factor, x.shape[-1] // self.factor
        wide = mirror(mirror(at_least_float32(x), 2 * self.factor, -2), 2 * self.factor, -1)
        y = F.interpolate(wide, size=(height + 4, width + 4), mode="bicubic", antialias=True, align_corners=False)
        return y[..., 2:-2, 2:-2].to(x.dtype)

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y enlarged by cubic interpolation."""
        return F.interpolate(at_least_float32(y), scale_factor=self.factor, mode="bicubic").to(y.dtype)


def mirror(x: torch.Tensor, margin: int, dim: int) -> torch.Tensor:
    """Return x with ``margin`` more entries at both ends of ``dim``: reflections that repeat the edge (numpy:
    "symmetric")."""
    length = x.shape[dim]
    position = torch.arange(-margin, length + margin, device=x.device) % (2 * length)
    return x.index_select(dim, torch.minimum(position, 2 * length - 1 - position))


class PhaseRetrieval(Operator):
    """y = |FFT of x|: x is mapped to [0, 1], padded with zeros by a quarter of its size on each side, and transformed
    by a centred orthonormal 2-D FFT, so the sum of y^2 is the [0, 1] image's sum of squares. Range: 0 to size / 1.5.
    Half precision is raised to float32, in y too.

    y is the same for an image rotated by 180 degrees: score with :func:`best_rotation`.
    """

    def __init__(self) -> None:
        super().__init__("phase retrieval", linear=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 1.5 H, 1.5 W]."""
        rows, columns = x.shape[-2] // 4, x.shape[-1] // 4
        padded = F.pad((at_least_float32(x) + 1) / 2, (columns, columns, rows, rows))
        spectrum = torch.fft.fft2(torch.fft.ifftshift(padded, dim=(-2, -1)), norm="ortho")
        return torch.fft.fftshift(spectrum, dim=(-2, -1)).abs()

    def proximal(self, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
        """Return the image whose magnitudes are (y + 4 tau |u|) / (1 + 4 tau), u the transform of d, with d's phases:
        the proximal map of the padded image, of which the middle is kept. The 4 is since |x - d| is twice what it is in
        [0, 1]."""
        rows, columns = d.shape[-2] // 4, d.shape[-1] // 4
        u = torch.fft.fft2(F.pad((at_least_float32(d) + 1) / 2, (columns, columns, rows, rows)), norm="ortho")
        wanted = torch.fft.ifftshift(y, dim=(-2, -1))
        change = (wanted - u.abs()) / (1 + 4 * tau) * torch.polar(torch.ones_like(u.real), u.angle())
        back = torch.fft.ifft2(change, norm="ortho").real[
            ..., rows : rows + d.shape[-2], columns : columns + d.shape[-1]
        ]
        return (d + 2 * back).to(d.dtype)

    def picture(self, y: torch.Tensor) -> torch.Tensor:
        """Return log(1 + |y|) of each measurement, from black to white."""
        return stretch(y.detach().float().abs().log1p())


def best_rotation(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return each image of x [B, 3, H, W] or its 180-degree rotation, whichever has the smaller mean squared error to
    ``truth`` [1 or B, 3, H, W]: a phase measurement does not distinguish them."""
    turned = x.flip(-2, -1)
    better = ((turned - truth) ** 2).flatten(1).mean(1) < ((x - truth) ** 2).flatten(1).mean(1)
    return torch.where(better[:, None, None, None], turned, x)


class HDR(Operator):
    """y = clip(2x, -1, 1): contrast doubled and clipped; range [-1, 1], no padding."""

    def __init__(self) -> None:
        super().__init__("high dynamic range", linear=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W]."""
        return (2 * x).clamp(-1, 1)

    def proximal(self, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
        """Return for each pixel the best of three: below, within and above the range that is not cut."""
        y = y.expand_as(d)
        within = ((2 * y + tau * d) / (4 + tau)).clamp(-0.5, 0.5)
        choices = torch.stack([within, d.clamp(max=-0.5), d.clamp(min=0.5)])
        cost = (y - self(choices)) ** 2 + tau * (choices - d) ** 2
        return choices.gather(0, cost.argmin(0, keepdim=True))[0]


def make_operator(
    task: str,
    *,
    size: masks.Size,
    seed: int = 0,
    box: masks.Box | None = None,
    mask: str | Path | torch.Tensor | None = None,
    mask_hole: str = "black",
    downsample: str = "block",
    kernel: str | Path | torch.Tensor | None = None,
    operator: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
    hidden: float = 0.8,
    intensity: float = kernels.PRESET_INTENSITY,
    blur: float | None = None,
    quality: int | None = None,
    peak: float | None = None,
) -> Operator:
    """Make the operator of ``task`` (one of TASKS, or srK) for images of ``size`` px, a side or (height, width).

    ``seed``: of the random mask, the free-form strokes and the motion kernel. ``box``, ``mask``, ``kernel``,
    ``operator``: see masks.box_mask, masks.given_mask, kernels.given_kernel, own.load_operator; each with its own tasks
    only. ``mask_hole``: the colour of hidden pixels in a mask image, "black" or "white". ``downsample``: "block" or
    "bicubic". ``hidden``: the hidden share of inpaint_random. ``intensity``: of deblur_motion.
    ``blur``: standard deviation of deblur_gaussian in px. ``quality``: of jpeg (75). ``peak``: of denoise_poisson
    (100).
    Raise ValueError for an unknown task, a missing or unused option, or an invalid value.
    """
    if not is_task(task):
        raise unknown_task(task)
    _check_options(task, box=box, mask=mask, kernel=kernel, operator=operator, blur=blur, quality=quality, peak=peak)
    if task in PHOTO_TASKS or blur is not None:
        made = _of_photographs(task, blur, kernel, quality, peak)
        made.task = task
        return made
    made = _make(task, size, seed, box, mask, mask_hole, downsample, kernel, operator, hidden, intensity)
    made.task = task
    return made


def _make(
    task: str, size: masks.Size, seed: int, box: masks.Box | None, mask: str | Path | torch.Tensor | None,
    mask_hole: str, downsample: str, kernel: str | Path | torch.Tensor | None,
    operator: str | Callable[[torch.Tensor], torch.Tensor] | None, hidden: float, intensity: float,
) -> Operator:  # fmt: skip
    sides = masks.sides_of(size)
    match task:
        case "inpaint_half_face":
            return Inpaint(masks.box_mask(masks.scaled_box(masks.HALF_FACE, sides), *sides), "half-face inpainting")
        case "inpaint_full_face":
            return Inpaint(masks.box_mask(masks.scaled_box(masks.FULL_FACE, sides), *sides), "full-face inpainting")
        case "inpaint_box" if box is not None:
            return Inpaint(masks.box_mask(box, *sides), "box inpainting")
        case "inpaint_random":
            return Inpaint(masks.random_mask(size, seed=seed, hidden=hidden), f"random inpainting, {hidden:.0%}")
        case "inpaint_freeform":
            return Inpaint(masks.freeform_mask(size, seed=seed), "free-form inpainting")
        case "inpaint_mask" | "scratches" if mask is not None:
            return Inpaint(masks.given_mask(mask, size, mask_hole), "inpainting with a given mask")
        case "deblur_motion" | "deblur_gaussian":
            return _blur(task, size, seed, kernel, intensity)
        case "phase_retrieval":
            return PhaseRetrieval()
        case "hdr":
            return HDR()
        case "operator" if operator is not None:
            return load_operator(operator)
    factor = sr_factor(task)
    assert factor, f"no operator for task {task}"
    return _downsample(factor, size, downsample)


PHOTO_TASKS = ("denoise", "denoise_poisson", "jpeg", "colorize", "deblur_blind")


def _of_photographs(
    task: str, blur: float | None, kernel: object | None, quality: int | None, peak: float | None
) -> Operator:
    match task:
        case "denoise":
            return Denoise()
        case "denoise_poisson":
            return PoissonDenoise(100.0 if peak is None else peak)
        case "jpeg":
            return jpeg.standard(75 if quality is None else quality)
        case "colorize":
            return Colorize()
        case "deblur_blind":
            return BlindBlur()
    assert blur is not None
    if kernel is not None:
        raise ValueError("blur and kernel both describe the blur; give one of them.")
    return Blur(kernels.gaussian_of(blur), f"Gaussian blur of {blur:g} px")


def _check_options(task: str, **options: object) -> None:
    """Raise ValueError if the task's option is missing or another task's is given."""
    owners = {"box": ["inpaint_box"], "mask": ["inpaint_mask", "scratches"], "operator": ["operator"]}
    optional = {
        "kernel": ["deblur_motion", "deblur_gaussian"], "blur": ["deblur_gaussian"], "quality": ["jpeg"],
        "peak": ["denoise_poisson"],
    }  # fmt: skip
    owners |= optional
    for name, tasks in owners.items():
        given = options[name] is not None
        if given and task not in tasks:
            raise ValueError(f"{name} goes with {' and '.join(tasks)}, but the task is {task}; change one of them.")
        if not given and task in tasks and name not in optional:
            raise ValueError(f"Task {task} needs {name}.")


def _downsample(factor: int, size: masks.Size, how: str) -> Operator:
    height, width = masks.sides_of(size)
    if height % factor or width % factor:
        others = ", ".join(f"sr{k}" for k in range(2, 17) if height % k == width % k == 0)
        remedy = f"; use one of {others}" if others else ""
        shown = f"{height} px" if height == width else f"{width} x {height} px"
        raise ValueError(f"Task sr{factor} needs a size that {factor} divides, but the image is {shown}{remedy}.")
    if how not in ("block", "bicubic"):
        raise unknown_name("downsample", how, ("block", "bicubic"))
    return BlockAverage(factor) if how == "block" else BicubicDownsample(factor)


def _blur(
    task: str, sides: masks.Size, seed: int, given: str | Path | torch.Tensor | None, intensity: float
) -> Operator:
    size = min(masks.sides_of(sides))
    if given is not None:
        kernel = kernels.given_kernel(given)
        if max(kernel.shape) // 2 >= size:
            raise ValueError(f"The kernel {list(kernel.shape)} is too large for an image of {size} px; crop it.")
        return Blur(kernel, f"{task.removeprefix('deblur_')} blur with a given kernel")
    if task == "deblur_gaussian":
        return Blur(kernels.gaussian_kernel(size), "Gaussian blur")
    return Blur(kernels.motion_kernel(size, seed=seed, intensity=intensity), "motion blur")
