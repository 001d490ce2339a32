"""The base class of forward operators f, and the measurement y = f(x) + sigma_v v."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from rsd.metrics.selection import Fit
from rsd.randomness import noise


class Operator(nn.Module):
    """A differentiable forward operator: images [B, 3, H, W] in [-1, 1] to measurements [B, ...].

    ``name``: for messages. ``linear``: whether f(ax + by) = a f(x) + b f(y). ``observed``: None (every entry of y is
    measured) or a bool tensor broadcastable to y, True for measured entries; data terms and residuals use only those.
    """

    observed: torch.Tensor | None
    task = "operator"
    """The task of :func:`rsd.tasks.inverse.operators.make_operator`, which selects the packaged settings."""
    blind = False
    """Whether a part of it is unknown, which :meth:`refit` estimates."""
    gram_scale: float | None = None
    """c if A A^T = c on the observed entries; None: unknown."""

    def __init__(self, name: str, *, linear: bool, observed: torch.Tensor | None = None):
        super().__init__()
        self.name, self.linear = name, linear
        self.counts: dict[tuple[int, ...], int] = {}
        self.register_buffer("observed", observed, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return f(x) without noise."""
        raise NotImplementedError

    def adjoint(self, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return J^T y with the Jacobian J of f at ``like`` [B, 3, H, W]: A^T y for a linear operator. Differentiable
        in y."""
        x = like.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self(x), x, y, create_graph=y.requires_grad)[0]

    def proximal(self, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor | None:
        """Return argmin_x 1/2 |y - f(x)|^2 + tau/2 |x - d|^2 in closed form, x and d [n, 3, H, W], y [1, ...]; None if
        there is none. Operators that are not linear may define it (:mod:`.proximal`)."""
        return None

    def first(self, y: torch.Tensor) -> torch.Tensor | None:
        """Return a first estimate of x from y [1, ...], [1, 3, H, W], where samplers that start from one begin; None if
        there is none."""
        return None

    def refit(self, y: torch.Tensor, d: torch.Tensor) -> Operator:
        """Return the operator for estimates d [n, 3, H, W]: itself, or where it is partly unknown the one that explains
        y [1, ...] best, for each row."""
        return self

    def noise_level(self, sigma_v: float) -> float:
        """Return the standard deviation of the noise in y; ``sigma_v``: the setting."""
        return sigma_v

    def add_noise(self, y: torch.Tensor, normal: torch.Tensor, sigma_v: float) -> torch.Tensor:
        """Return a measurement of the noiseless y. ``normal``: standard normal numbers like y, circular if it is
        complex."""
        return y + sigma_v * normal

    def preconditioner(self, like: torch.Tensor, plus: float) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return an approximate inverse of A A^T + plus, symmetric and positive definite, a map of y's [n, ...]; None:
        conjugate gradients do without. ``like``: images [n, 3, H, W]."""
        return None

    def picture(self, y: torch.Tensor) -> torch.Tensor:
        """Return y as an image for display, [B, 3, H', W'] in [-1, 1], unobserved entries 0; if y is not an image, a
        grey square."""
        y = only_observed(self, y.detach())
        y = y.abs() if y.is_complex() else y.float()
        if y.ndim == 3:  # grey, without a channel dimension
            y = y[:, None] if float(y.abs().max()) <= 1.5 else stretch(y)[:, None]
        if y.ndim == 4 and y.shape[1] in (1, 3):
            return y.clamp(-1, 1).expand(-1, 3, -1, -1)
        flat = y.flatten(1)
        side = math.ceil(math.sqrt(flat.shape[1]))
        square = nn.functional.pad(flat, (0, side**2 - flat.shape[1])).reshape(-1, 1, side, side)
        return stretch(square).expand(-1, 3, -1, -1)


def stretch(y: torch.Tensor) -> torch.Tensor:
    """Return y [B, ...] with each row's range scaled to [-1, 1] (a constant row to -1)."""
    low, high = y.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (y.ndim - 1))
    return 2 * (y - low.view(shape)) / (high - low).clamp_min(1e-12).view(shape) - 1


def measure(operator: Operator, x: torch.Tensor, sigma_v: float, seed: int, image: str = "") -> torch.Tensor:
    """Return the measurement y = f(x) + sigma_v v [1, ...] of one clean image x [1, 3, H, W], v ~ N(0, I).

    All particles share y, on x's device. sigma_v is in units of y. Unobserved entries are zero. v depends on (seed,
    image) only; a complex y gets circular noise of that standard deviation. Raise ValueError for a negative or infinite
    sigma_v.
    """
    if not (math.isfinite(sigma_v) and sigma_v >= 0):
        raise ValueError(f"sigma_v is {sigma_v}; give a finite number, 0 or more.")
    assert len(x) == 1, "one image has one measurement"
    with torch.no_grad():
        y = operator(x)
    parts = torch.view_as_real(y) if y.is_complex() else y
    v = noise(parts.shape[1:], seed=seed, purpose="measurement", image=image, particles=[0]).to(parts)
    y = operator.add_noise(y, torch.view_as_complex(v) / math.sqrt(2) if y.is_complex() else v, sigma_v)
    return only_observed(operator, y)


def variance(y: torch.Tensor, sigma: float) -> float:
    """Return the noise variance of each real number of y: sigma^2, or half of it for the real and imaginary parts of a
    complex y, whose noise is circular."""
    return sigma**2 / 2 if y.is_complex() else sigma**2


def observed_count(operator: Operator, y: torch.Tensor) -> int:
    """Return m, the number of observed entries of one measurement in y [B, ...]."""
    if operator.observed is None:
        return y[0].numel()
    shape = tuple(y.shape[1:])
    if shape not in operator.counts:  # cached: counting synchronises a CUDA device
        operator.counts[shape] = int(operator.observed.expand(1, *shape).sum())
    return operator.counts[shape]


def data_residual(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return y - f(x) [B, ...] with the unobserved entries zero, and m, their observed number; y [1, ...] or [B, ...].
    f is the operator refitted to x, if a part of it is unknown.

    Raise ValueError if y does not have the shape of f(x).
    """
    fx = operator.refit(y, x)(x)
    if y.shape[1:] != fx.shape[1:]:
        expected, given = list(fx.shape[1:]), list(y.shape[1:])
        raise ValueError(f"The measurement is {given}, but {operator.name} makes {expected}; check task and size.")
    return only_observed(operator, y - fx), observed_count(operator, fx)


def only_observed(operator: Operator, y: torch.Tensor) -> torch.Tensor:
    """Return y with unobserved entries zero."""
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


GREY = 2 / 255 / math.sqrt(12)
"""The rounding of 8-bit pictures in [-1, 1], the noise level if sigma_v is 0."""


@torch.no_grad()
def measurement_fit(operator: Operator, images: torch.Tensor, y: torch.Tensor, sigma_v: float) -> Fit:
    """Return the residual |y - f(x)| / sqrt(m) of images [M, 3, H, W], in units of sigma_v (in those of y if sigma_v is
    0). The score is 1 / residual; residuals below the noise are equal, since they say nothing more about x."""
    difference, count = data_residual(operator, images, y)
    each = difference.abs().square().flatten(1).sum(1).double().cpu().sqrt() / math.sqrt(count)
    return Fit("residual", each / (sigma_v or 1.0), 1 / each.clamp(min=sigma_v or GREY))
