"""Blur kernels [height, width]: float32, odd sides, sum 1."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from rsd.formats import PICTURES
from rsd.randomness import generator

PRESET_SIZE, PRESET_WIDTH, PRESET_SIGMA, PRESET_INTENSITY = 512, 61, 3.0, 0.3**2
"""The paper's kernels: 61 x 61 at 512 px; the Gaussian's standard deviation in px; the motion's intensity."""


def scaled_width(size: int) -> int:
    """Return the kernel width: 61 px at 512 px, and the nearest odd number to that share of another size (at least
    3)."""
    return max(3, 2 * math.floor(PRESET_WIDTH * size / PRESET_SIZE / 2) + 1)


def gaussian_kernel(size: int) -> torch.Tensor:
    """Return a Gaussian kernel: standard deviation 3 px in a 61 x 61 window at 512 px; both scale with the image
    size."""
    width, sigma = scaled_width(size), PRESET_SIGMA * size / PRESET_SIZE
    offsets = torch.arange(width, dtype=torch.float64) - width // 2
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return normalised(torch.outer(line, line), "Gaussian kernel")


def gaussian_of(sigma: float) -> torch.Tensor:
    """Return a Gaussian kernel of that standard deviation in px, 4 of them to each side. Raise ValueError if it is not
    from 0.2 to 20."""
    if not 0.2 <= sigma <= 20:
        raise ValueError(f"The standard deviation of the blur is {sigma:g} px; give 0.2 to 20.")
    half = math.ceil(4 * sigma)
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return normalised(torch.outer(line, line), "Gaussian kernel")


def motion_kernel(size: int, *, seed: int, intensity: float = PRESET_INTENSITY) -> torch.Tensor:
    """Return the trace of a point that moves at constant speed along a random path, 61 x 61 at 512 px.

    ``intensity`` 0 gives a straight line, 1 a very crooked one. The path has 50 to 90% of the window's length and is
    drawn independently of scale, so a seed gives the same path at every size. The centre of its bounding box is the
    kernel's centre.
    """
    if not 0 <= intensity <= 1:
        raise ValueError(f"The intensity of the motion blur is {intensity}; give 0 (straight) to 1 (very crooked).")
    width = scaled_width(size)
    rng = np.random.default_rng(generator(seed=seed, purpose="motion kernel").initial_seed())
    path = _path(rng, intensity) * (width - 1) + (width - 1) / 2
    kernel = np.zeros((width + 1, width + 1))
    corner = np.floor(path).astype(int)
    rest = path - corner
    for row in (0, 1):  # spread each point over its four neighbours
        for column in (0, 1):
            share = np.abs(1 - row - rest[:, 0]) * np.abs(1 - column - rest[:, 1])
            np.add.at(kernel, (corner[:, 0] + row, corner[:, 1] + column), share)
    return normalised(torch.from_numpy(kernel[:width, :width]), "motion kernel")


def _path(rng: np.random.Generator, intensity: float, points: int = 2000) -> np.ndarray:
    """Return points [points, 2] of a centred path of length 0.5 to 0.9, whose heading wanders and occasionally
    jumps."""
    start, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.9)
    wander = rng.normal(0, 10 * intensity / math.sqrt(points), points)
    jumps = (rng.random(points) < 5 * intensity / points) * rng.uniform(-math.pi, math.pi, points)
    heading = start + np.cumsum(wander + jumps)
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0) * length / points
    return path - (path.max(0) + path.min(0)) / 2


def given_kernel(kernel: str | Path | torch.Tensor) -> torch.Tensor:
    """Return the user's kernel, divided by its sum: a tensor [height, width], or a file: .npy, .safetensors (one
    tensor), or an image whose brightness is the weight. Nothing is unpickled.

    Raise ValueError for another kind of file, a kernel that is not two-dimensional with odd sides, values that are not
    finite, or a sum that is not positive; FileNotFoundError and OSError for a file that cannot be read.
    """
    if isinstance(kernel, torch.Tensor):
        return normalised(kernel, "kernel")
    return normalised(_read(Path(kernel)), f"kernel {kernel}")


def _read(path: Path) -> torch.Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"The kernel {path} does not exist; check the path.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
        except (ValueError, EOFError, TypeError) as error:
            raise ValueError(f"The kernel {path} is not an array of numbers saved by numpy ({error}).") from error
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"The kernel {path} is not a readable safetensors file ({error}).") from error
        if len(tensors) != 1:
            raise ValueError(f"The kernel {path} holds {len(tensors)} tensors; give a file with one.")
        return next(iter(tensors.values()))
    if suffix in PICTURES:
        from rsd.media import read_image

        return (read_image(path)[0].double().mean(0) + 1) / 2
    raise ValueError(f"The kernel {path} is not an image, .npy or .safetensors file; save it as one of these.")


def normalised(kernel: torch.Tensor, what: str) -> torch.Tensor:
    """Return ``kernel`` divided by its sum, in float32, after the checks of :func:`given_kernel`."""
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"The {what} has shape {list(kernel.shape)}; give [height, width], both odd.")
    if kernel.is_complex() or not torch.isfinite(kernel).all() or kernel.double().sum() <= 0:
        raise ValueError(f"The {what} must have finite real values with a positive sum.")
    return (kernel.double() / kernel.double().sum()).float()
