"""Try a user's operator once, as methods will use it, before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsd.priors.watch import magnitude
from rsd.randomness import noise

from ..methods import METHODS
from ..options import UNBOUNDED
from .base import Operator, only_observed

GREATEST = 20.0
"""The largest value of a measured picture: beyond it is one in grey levels, not one in [-1, 1] with noise."""


def needs_gradient(method: str, x_step: str) -> bool:
    """Return whether a method differentiates the operator; the others use only its adjoint."""
    return METHODS[method].follows and not (METHODS[method].augmented and x_step == "exact")


def try_out(
    operator: Operator, shape: Sequence[int], place: torch.device | str, *, gradient: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Measure two images of ``shape`` [3, H, W] on ``place``, one in [-1, 1] and one from N(0, I), as samples start,
    and take the gradient. ``gradient``: whether the method needs it; otherwise the adjoint is enough.

    Raise ValueError, in one sentence that names the operator and the remedy, if there is no gradient, if it is zero for
    both images (all methods for nonlinear operators follow it, so their samples would ignore the measurement), if a
    number is not finite, if x is changed in place, and for errors in the user's own code.
    """
    drawn = noise(list(shape), seed=0, purpose="trial", particles=[0]).to(place, dtype)
    gradients = []
    for x, what in ((drawn.tanh(), "an image in [-1, 1]"), (drawn, "an image that goes beyond [-1, 1]")):
        y = measured(operator, x)
        if not bool(magnitude(only_observed(operator, y)).isfinite()):
            remedy = "samples do during a run: clamp x first" if x is drawn else "fix it"
            raise ValueError(
                f"{operator.name} returned values that are not finite (NaN or infinite) for {what}; {remedy}."
            )
        gradients.append(has_gradient(operator, x, y, gradient, what))
    if not any(gradients):
        raise ValueError(
            f"{operator.name} has a gradient of zero everywhere (rounding, comparing, counting do that), and no method "
            "can follow the measurement; pass the gradient through, as x + (x.round() - x).detach() does for rounding."
        )


def measured(operator: Operator, x: torch.Tensor) -> torch.Tensor:
    """Return f(x) without gradient. Raise ValueError for errors in the user's own code."""
    try:
        with torch.no_grad():
            y = operator(x.clone())
    except ValueError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        where = f"an image {list(x.shape)}" + (f" on {x.device.type}" if x.device.type != "cpu" else "")
        raise ValueError(f"{operator.name} failed on {where} ({why}); fix it.") from error
    return y


def has_gradient(operator: Operator, x: torch.Tensor, y: torch.Tensor, required: bool, what: str) -> bool:
    """Return whether the gradient at x is nonzero anywhere; ``y``: f(x)."""
    leaf = x.clone().requires_grad_()
    given = leaf * 1  # not a leaf, as in a run
    version = given._version
    error: Exception | None = None
    with torch.enable_grad():
        try:
            fx = operator(given)
        except Exception as found:  # although it works on a plain tensor
            fx, error = y, found
    if error is None and given._version != version:
        raise ValueError(f"{operator.name} changes its argument in place; write x * 2 instead of x.mul_(2).")
    if fx.requires_grad:
        u = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0)).to(y.device)
        (gradient,) = torch.autograd.grad(fx, leaf, u, allow_unused=True)
        if gradient is not None:
            most = magnitude(gradient)
            if not bool(most.isfinite()):
                raise ValueError(f"The gradient of {operator.name} is not finite (NaN or infinite) at {what}; fix it.")
            return bool(most > 0)
    if not required and has_adjoint(operator, x, y):
        return True
    raise ValueError(explain_no_gradient(operator, error))


def has_adjoint(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether A^T y is available without autograd."""
    try:
        return operator.linear and operator.adjoint(y, x).shape == x.shape
    except Exception:
        return False


def explain_no_gradient(operator: Operator, error: Exception | None) -> str:
    """Return the error message for an operator without a gradient."""
    others = [name for name, entry in METHODS.items() if not entry.follows]
    augmented = [name for name, entry in METHODS.items() if entry.augmented]
    takers = [f"{', '.join(augmented)} with the exact x-step", *others]
    remedy = (
        "write it entirely in torch functions of x; or, if it is linear, give an Operator with linear=True and its own "
        f"adjoint (docs/operators.md), which is enough for {', '.join(takers)}."
    )
    if error is not None:
        kind = type(error).__name__
        return (
            f"{operator.name} works on a plain tensor, but fails on one that requires a gradient ({kind}): it "
            f"leaves torch, perhaps for numpy or PIL, and no method can follow the measurement; {remedy}"
        )
    return (
        f"{operator.name} has no gradient: its result is detached from x (by numpy, PIL, detach(), no_grad() or "
        f"integers), and no method can follow the measurement; {remedy}"
    )


def check_measurement(operator: Operator, y: torch.Tensor, made: torch.Tensor, name: str) -> None:
    """Raise ValueError if ``y``, called ``name`` in the message, cannot be a measurement by the operator; ``made``: a
    measurement of an image."""
    if y.shape != made.shape:
        raise ValueError(
            f"{name} is {list(y.shape)}, but {operator.name} makes {list(made.shape)}; check task and size."
        )
    if y.is_complex() and not made.is_complex():
        raise ValueError(f"{name} is complex, but {operator.name} makes real numbers; give the real measurement.")
    if not (y.is_floating_point() or y.is_complex()):
        raise ValueError(f"{name} is of type {y.dtype}; give floating-point numbers, a picture as x / 127.5 - 1.")
    most = float(magnitude(only_observed(operator, y)))
    if not math.isfinite(most):
        raise ValueError(f"{name} has values that are not finite (NaN or infinite); repair it.")
    if most > GREATEST and operator.task not in UNBOUNDED:
        raise ValueError(f"{name} reaches {most:g}, but pictures are in [-1, 1]; give x / 127.5 - 1.")
