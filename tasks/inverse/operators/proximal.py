"""Proximal maps: the image nearest to d that fits the measurement, argmin_x 1/2 |y - f(x)|^2 + tau/2 |x - d|^2.

Linear operators solve their normal equations (:mod:`.linear`). HDR and phase retrieval have closed forms. Other
differentiable operators take a few damped Gauss-Newton steps.
"""

from __future__ import annotations

import torch

from . import linear
from .base import Operator, data_residual, only_observed

TOLERANCE = 1e-3
"""The residual of the normal equations relative to the gap y - A d, far below what the noise leaves open."""


def proximal(operator: Operator, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
    """Return argmin_x 1/2 |y - f(x)|^2 + tau/2 |x - d|^2 over observed entries, x and d [n, 3, H, W], y [1, ...].

    For operators that are not linear and have no closed form it is the result of :func:`gauss_newton`."""
    if operator.linear:
        return linear.proximal(operator, y, d, tau, TOLERANCE)
    closed = operator.proximal(y, d, tau)
    return gauss_newton(operator, y, d, tau) if closed is None else closed


def gauss_newton(
    operator: Operator, y: torch.Tensor, d: torch.Tensor, tau: float, *, steps: int = 4, iterations: int = 10
) -> torch.Tensor:
    """Return x [n, 3, H, W] after ``steps`` Gauss-Newton steps from d, each by so many conjugate gradient iterations:

        (J^T J + tau) u = J^T (y - f(x)) - tau (x - d),     x <- x + s u,     s in 1, 1/2, 1/4, 1/8, 0

    J is the Jacobian of f at x. Each row takes the first s that lowers its objective, so that none gets worse."""
    x, best = d, objective(operator, y, d, d, tau)
    for _ in range(steps):
        gap = data_residual(operator, x, y)[0].detach()
        u = linear.solve(
            lambda v, x=x: operator.adjoint(pushforward(operator, x, v), x) + tau * v,  # type: ignore[misc]
            operator.adjoint(gap, x) - tau * (x - d), iterations=iterations, tolerance=1e-3,
        )  # fmt: skip
        moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for s in (1.0, 0.5, 0.25, 0.125):
            tried = x + s * u
            value = objective(operator, y, tried, d, tau)
            take = ~moved & (value < best)
            x = torch.where(take.view(-1, 1, 1, 1), tried, x)
            best, moved = torch.where(take, value, best), moved | take
            if moved.all():
                break
        if not moved.any():
            break
    return x


@torch.no_grad()
def objective(operator: Operator, y: torch.Tensor, x: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
    """Return 1/2 |y - f(x)|^2 + tau/2 |x - d|^2 of each row, [n]."""
    gap = data_residual(operator, x, y)[0]
    return 0.5 * (linear.dot(gap, gap) + tau * linear.dot(x - d, x - d))


def pushforward(operator: Operator, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return J v, J the Jacobian of f at x, zero where y is not observed; by two backward passes, since some functions
    have no forward derivative."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = operator(x)
        w = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, w, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, w, v)
    return only_observed(operator, pushed)
