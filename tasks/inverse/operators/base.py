"""What every forward operator f has in common, and the measurement y = f(x) + sigma_v v that it makes."""

from __future__ import annotations

import math

import torch
from torch import nn

from rsd.randomness import noise


class Operator(nn.Module):
    """A differentiable forward operator: images [B, 3, H, W] in [-1, 1] to measurements [B, ...].

    ``name``: for people. ``linear``: whether f(ax + by) = a f(x) + b f(y). ``observed``: None (every entry of y is
    measured) or a bool tensor broadcastable to y, True where it is; data terms and residuals use those entries alone.
    """

    observed: torch.Tensor | None
    task = "operator"
    """What :func:`rsd.tasks.inverse.operators.make_operator` was asked for: settings are packaged by it."""
    gram_scale: float | None = None
    """c where A A^T = c on the observed entries; None: not known."""

    def __init__(self, name: str, *, linear: bool, observed: torch.Tensor | None = None):
        super().__init__()
        self.name, self.linear = name, linear
        self.counts: dict[tuple[int, ...], int] = {}
        self.register_buffer("observed", observed, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f(x) without noise."""
        raise NotImplementedError

    def adjoint(self, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """J^T y, J the Jacobian of f at ``like`` [B, 3, H, W]; for a linear operator that is A^T y, wherever.
        Differentiable in y."""
        x = like.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self(x), x, y, create_graph=y.requires_grad)[0]

    def picture(self, y: torch.Tensor) -> torch.Tensor:
        """y as an image to look at, [B, 3, H', W'] in [-1, 1], unobserved entries 0; if no image, a grey square."""
        y = _only_observed(self, y.detach())
        y = y.abs() if y.is_complex() else y.float()
        if y.ndim == 3:  # grey, and no dimension of colours
            y = y[:, None] if float(y.abs().max()) <= 1.5 else stretch(y)[:, None]
        if y.ndim == 4 and y.shape[1] in (1, 3):
            return y.clamp(-1, 1).expand(-1, 3, -1, -1)
        flat = y.flatten(1)
        side = math.ceil(math.sqrt(flat.shape[1]))
        square = nn.functional.pad(flat, (0, side**2 - flat.shape[1])).reshape(-1, 1, side, side)
        return stretch(square).expand(-1, 3, -1, -1)


def stretch(y: torch.Tensor) -> torch.Tensor:
    """y [B, ...] with each row's least and greatest entry brought to -1 and 1 (a constant row to -1)."""
    low, high = y.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (y.ndim - 1))
    return 2 * (y - low.view(shape)) / (high - low).clamp_min(1e-12).view(shape) - 1


def measure(operator: Operator, x: torch.Tensor, sigma_v: float, seed: int, image: str = "") -> torch.Tensor:
    """The measurement y = f(x) + sigma_v v [1, ...] of one clean image x [1, 3, H, W], v ~ N(0, I).

    One y for all particles, on x's device. sigma_v is in units of y. Entries that are not observed are zero. v depends
    on (seed, image) alone; a complex y gets circular noise of that standard deviation.
    Raises ValueError for a negative or infinite sigma_v.
    """
    if not (math.isfinite(sigma_v) and sigma_v >= 0):
        raise ValueError(f"sigma_v is {sigma_v}; give a finite number, 0 or more.")
    assert len(x) == 1, "one image has one measurement"
    with torch.no_grad():
        y = operator(x)
    parts = torch.view_as_real(y) if y.is_complex() else y
    v = noise(parts.shape[1:], seed=seed, purpose="measurement", image=image, particles=[0]).to(parts)
    y = y + sigma_v * (torch.view_as_complex(v) / math.sqrt(2) if y.is_complex() else v)
    return _only_observed(operator, y)


def variance(y: torch.Tensor, sigma: float) -> float:
    """That of the noise in each real number of y: sigma^2, and half of it in the real and the imaginary part of a
    complex y, whose noise is circular."""
    return sigma**2 / 2 if y.is_complex() else sigma**2


def observed_count(operator: Operator, y: torch.Tensor) -> int:
    """m, how many entries of one measurement in y [B, ...] are observed."""
    if operator.observed is None:
        return y[0].numel()
    shape = tuple(y.shape[1:])
    if shape not in operator.counts:  # kept: to count waits for a CUDA device
        operator.counts[shape] = int(operator.observed.expand(1, *shape).sum())
    return operator.counts[shape]


def data_residual(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(y - f(x) [B, ...] with the unobserved entries zero, m); y [1, ...] or [B, ...].

    Raises ValueError if y has not the shape of f(x).
    """
    fx = operator(x)
    if y.shape[1:] != fx.shape[1:]:
        expected, given = list(fx.shape[1:]), list(y.shape[1:])
        raise ValueError(f"The measurement is {given}, but {operator.name} makes {expected}; check task and size.")
    return _only_observed(operator, y - fx), observed_count(operator, fx)


def _only_observed(operator: Operator, y: torch.Tensor) -> torch.Tensor:
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)
