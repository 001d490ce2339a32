"""A user's operator tried out once, as methods will use it, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsd.priors.watch import magnitude
from rsd.randomness import noise

from ..methods import METHODS
from .base import Operator

EXACT = ("rlsd", "nonrepuls", "hybrid")
"""Methods that take no gradient of the operator's where their x-step is exact."""


def needs_gradient(method: str, x_step: str) -> bool:
    """Whether a method differentiates the operator; the others ask for its adjoint alone."""
    return METHODS[method].follows and not (method in EXACT and x_step == "exact")


def try_out(
    operator: Operator, shape: Sequence[int], place: torch.device | str, *, gradient: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Measure two pictures of ``shape`` [3, H, W] on ``place``, one in [-1, 1] and one from N(0, I), with which samples
    begin, and take the gradient. ``gradient``: whether the method needs it; one that does not needs the adjoint.

    Raises ValueError, in one sentence that names the operator and the remedy, if there is no gradient, if it is zero
    for both (all methods that take an operator which is not linear follow it: their answers would not know of the
    measurement), if a number is not finite, or if x is changed in place; and for what fails in the user's own code.
    """
    drawn = noise(list(shape), seed=0, purpose="trial", particles=[0]).to(place, dtype)
    pulled = []
    for x, what in ((drawn.tanh(), "an image in [-1, 1]"), (drawn, "an image that goes beyond [-1, 1]")):
        y = measured(operator, x)
        if not bool(magnitude(observed(operator, y)).isfinite()):
            remedy = "samples on their way do: clamp x first" if x is drawn else "mend it"
            raise ValueError(f"{operator.name} made values that are not finite (NaN or infinite) of {what}; {remedy}.")
        pulled.append(has_gradient(operator, x, y, gradient, what))
    if not any(pulled):
        raise ValueError(
            f"{operator.name} has a gradient of zero everywhere (rounding, comparing, counting do that), and no method "
            "could follow the measurement; let the gradient pass, as x + (x.round() - x).detach() does for rounding."
        )


def measured(operator: Operator, x: torch.Tensor) -> torch.Tensor:
    """f(x) without gradient. Raises ValueError for what fails in the user's own code."""
    try:
        with torch.no_grad():
            y = operator(x.clone())
    except ValueError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        where = f"an image {list(x.shape)}" + (f" on {x.device.type}" if x.device.type != "cpu" else "")
        raise ValueError(f"{operator.name} failed on {where} ({why}); mend it.") from error
    return y


def has_gradient(operator: Operator, x: torch.Tensor, y: torch.Tensor, needed: bool, what: str) -> bool:
    """Whether the gradient at x is anywhere above zero; ``y``: f(x)."""
    leaf = x.clone().requires_grad_()
    given = leaf * 1  # no leaf, as in a run
    version = given._version
    error: Exception | None = None
    with torch.enable_grad():
        try:
            fx = operator(given)
        except Exception as found:  # it did work on a plain tensor
            fx, error = y, found
    if error is None and given._version != version:
        raise ValueError(f"{operator.name} changes its argument in place; write x * 2 where it says x.mul_(2).")
    if fx.requires_grad:
        u = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0)).to(y.device)
        (pulled,) = torch.autograd.grad(fx, leaf, u, allow_unused=True)
        if pulled is not None:
            most = magnitude(pulled)
            if not bool(most.isfinite()):
                raise ValueError(f"The gradient of {operator.name} is not finite (NaN or infinite) at {what}; mend it.")
            return bool(most > 0)
    if not needed and has_adjoint(operator, x, y):
        return True
    raise ValueError(explain_no_gradient(operator, error))


def has_adjoint(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether A^T y is there without autograd."""
    try:
        return operator.linear and operator.adjoint(y, x).shape == x.shape
    except Exception:
        return False


def explain_no_gradient(operator: Operator, error: Exception | None) -> str:
    """What to do about an operator that leaves torch."""
    others = [name for name, entry in METHODS.items() if not entry.follows]
    takers = [f"{', '.join(EXACT)} with the exact x-step", *others]
    remedy = (
        "write it in torch functions of x from end to end; or, if it is linear, give an Operator that says so and has "
        f"its own adjoint (docs/operators.md): {', '.join(takers)} need no more."
    )
    if error is not None:
        kind = type(error).__name__
        return (
            f"{operator.name} measures a plain tensor, but fails on one whose gradient is asked for ({kind}): it "
            f"leaves torch on the way, for numpy or PIL perhaps, and no method could follow the measurement; {remedy}"
        )
    return (
        f"{operator.name} has no gradient: what it returns is cut off from x (by numpy, PIL, detach(), no_grad() or "
        f"whole numbers), and no method could follow the measurement; {remedy}"
    )


def observed(operator: Operator, y: torch.Tensor) -> torch.Tensor:
    """y, zero where it is not observed."""
    return y if operator.observed is None else y.masked_fill(~operator.observed, 0)


def check_measurement(operator: Operator, y: torch.Tensor, made: torch.Tensor, name: str) -> None:
    """Raise ValueError if ``y``, called ``name``, cannot be what the operator measured; ``made``: what it makes of an
    image."""
    if y.shape != made.shape:
        raise ValueError(
            f"{name} is {list(y.shape)}, but {operator.name} makes {list(made.shape)}; check task and size."
        )
    if y.is_complex() and not made.is_complex():
        raise ValueError(f"{name} is complex, but {operator.name} makes real numbers; give the real measurement.")
    if not bool(magnitude(observed(operator, y)).isfinite()):
        raise ValueError(f"{name} has values that are not finite (NaN or infinite); repair it.")
