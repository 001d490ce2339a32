"""Solve linear systems of a linear operator A, matrix-free and for each particle separately.

x is real. If y is complex, A stands for the real operator to the real and imaginary parts of y, so A^T u is Re(A^H u),
and the number added to A A^T applies to each part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .base import Operator, observed_count, only_observed

Apply = Callable[[torch.Tensor], torch.Tensor]


def gram(operator: Operator, like: torch.Tensor, *, times: float, plus: float) -> Apply:
    """Return the map u -> times A A^T u + plus u, for u [n, ...] of y's shape. ``like``: images [n, 3, H, W]."""
    return lambda u: times * only_observed(operator, operator(operator.adjoint(u, like))) + plus * u


@torch.no_grad()
def solve_gram(
    operator: Operator, b: torch.Tensor, like: torch.Tensor, *, times: float, plus: float, tolerance: float = 1e-5
) -> torch.Tensor:
    """Solve times A A^T u + plus u = b for u, with b [n, ...] of y's shape, zero where unobserved: a division if A A^T
    is known to be a multiple of the identity (masks, block averages), else conjugate gradients."""
    if operator.gram_scale is not None:
        return b / (times * operator.gram_scale + plus)
    return solve(
        gram(operator, like, times=times, plus=plus), b, tolerance=tolerance,
        precondition=operator.preconditioner(like, plus / times) if times > 0 else None,
    )  # fmt: skip


@torch.no_grad()
def solve(
    apply: Apply, b: torch.Tensor, *, iterations: int = 100, tolerance: float = 1e-5, precondition: Apply | None = None
) -> torch.Tensor:
    """Solve apply(x) = b, b [n, ...], by conjugate gradients (Hestenes & Stiefel 1952) in each row, from 0.

    ``apply``: linear, symmetric and positive definite in each row. ``precondition``: an approximate inverse of it,
    symmetric and positive definite, which saves iterations. A row stops when |b - apply(x)| is below ``tolerance``
    |b|, independently of the others, or after ``iterations``, which regularises a badly conditioned A.
    """
    x, r = torch.zeros_like(b), b
    threshold = tolerance**2 * dot(r, r)
    p = s = r if precondition is None else precondition(r)
    square = dot(r, s)
    for _ in range(iterations):
        active = dot(r, r) > threshold
        if not active.any():
            break
        q = apply(p)
        step = _spread(torch.where(active, square / dot(p, q).clamp_min(1e-30), 0), b)
        x, r = x + step * p, r - step * q
        s = r if precondition is None else precondition(r)
        new = dot(r, s)
        p = s + _spread(new / square.clamp_min(1e-30), b) * p
        square = new
    return x


def nearest(operator: Operator, y: torch.Tensor, d: torch.Tensor, rho: float, tolerance: float = 1e-6) -> torch.Tensor:
    """Return argmin_x 1/2 mean((y - A x)^2) + rho 1/2 mean((x - d)^2), the first mean over observed entries; x [n, 3,
    H, W]."""
    return proximal(operator, y, d, rho * observed_count(operator, y) / d[0].numel(), tolerance)


@torch.no_grad()
def proximal(operator: Operator, y: torch.Tensor, d: torch.Tensor, tau: float, tolerance: float = 1e-6) -> torch.Tensor:
    """Return argmin_x 1/2 |y - A x|^2 + tau/2 |x - d|^2, the first norm over observed entries; x and d [n, 3, H, W].

    x = d + A^T u,  (A A^T + tau) u = y - A d.
    """
    gap = only_observed(operator, y - operator(d))
    return d + operator.adjoint(solve_gram(operator, gap, d, times=1.0, plus=tau, tolerance=tolerance), d)


def check_exact(operator: Operator) -> None:
    """Raise ValueError if :func:`nearest` does not work with the operator."""
    if not operator.linear:
        raise ValueError(
            f"--x-step exact needs a linear operator, but {operator.name} is not (or is not known to be); use adam."
        )


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each row, [n], real."""
    product = a.conj() * b if a.is_complex() else a * b
    return product.real.flatten(1).sum(1) if product.is_complex() else product.flatten(1).sum(1)


def _spread(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x.view(-1, *[1] * (like.ndim - 1))
