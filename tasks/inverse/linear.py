"""Linear systems of a linear operator A, solved matrix-free and for each particle on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .base import Operator

Apply = Callable[[torch.Tensor], torch.Tensor]


def gram(operator: Operator, like: torch.Tensor, *, times: float, plus: float) -> Apply:
    """u -> times A A^T u + plus u, for u [n, ...] of y's shape; ``like``: images [n, 3, H, W]."""
    return lambda u: times * observed(operator, operator(operator.adjoint(u, like))) + plus * u


def observed(operator: Operator, y: torch.Tensor) -> torch.Tensor:
    """y with the entries that are not observed zero."""
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


@torch.no_grad()
def solve(apply: Apply, b: torch.Tensor, *, iterations: int = 100, tolerance: float = 1e-5) -> torch.Tensor:
    """x with apply(x) = b, b [n, ...], by conjugate gradients (Hestenes & Stiefel 1952) in each row, from 0.

    ``apply``: linear, symmetric and positive definite in each row. Stops where every |b - apply(x)| is below
    ``tolerance`` |b|, or after ``iterations``: where A is badly conditioned that regularises.
    """
    x, r = torch.zeros_like(b), b
    p, square = r, _dot(r, r)
    enough = tolerance**2 * square
    for _ in range(iterations):
        if bool((square <= enough).all()):
            break
        q = apply(p)
        step = _spread(square / _dot(p, q).clamp_min(1e-30), b)
        x, r = x + step * p, r - step * q
        new = _dot(r, r)
        p = r + _spread(new / square.clamp_min(1e-30), b) * p
        square = new
    return x


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The inner product of each row, [n], real."""
    product = a.conj() * b if a.is_complex() else a * b
    return product.real.flatten(1).sum(1) if product.is_complex() else product.flatten(1).sum(1)


def _spread(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x.view(-1, *[1] * (like.ndim - 1))
