"""A user's own forward operator: a function x -> y, named ``module:function`` or given as an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rsd.hub import find_object
from rsd.runs.words import with_article

from ..names import is_task
from .base import Operator
from .deepinv import Physics, missing


class Function(Operator):
    """y = function(x), x [B, 3, H, W] in [-1, 1], y [B, ...], differentiable by autograd; range and padding are the
    function's own. It is treated as nonlinear. A module's parameters are frozen."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], name: str = "operator"):
        super().__init__(name, linear=False)
        self.function = function  # registered as a submodule if it is one, and moved with the operator
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return function(x). Raise ValueError if that is not one measurement [...] for each image of the batch."""
        y = self.function(x)
        if not isinstance(y, torch.Tensor) or y.ndim < 2 or len(y) != len(x):
            found = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"{self.name} returned {found} for {len(x)} images; return a tensor [{len(x)}, ...].")
        return y


def load_operator(operator: str | Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    """Return an :class:`Operator` from ``module:function`` (a module of the current folder or an installed one), a
    function, a physics of deepinv, or an Operator.

    A name runs that module's code, so use it only at a user's explicit request. Raise ValueError for a malformed name
    or an unsupported object, ImportError for a module that does not import.
    """
    if isinstance(operator, str) and is_task(operator):
        raise ValueError(
            f'"{operator}" is a task, not an operator; make its operator with make_operator("{operator}", size=...).'
        )
    name, found = (operator, _imported(operator)) if isinstance(operator, str) else (_name(operator), operator)
    if isinstance(found, Operator):
        return found
    if isinstance(found, type):
        raise ValueError(
            f'The operator "{name}" is a class; give an object of it, for example {found.__name__}(), or a function.'
        )
    if callable(getattr(found, "A", None)):
        return Physics(found)
    if not callable(found):
        kind = with_article(type(found).__name__)
        raise ValueError(f'The operator "{name}" is {kind}; give a function x -> y or a physics.')
    return Function(found, name)


def _name(operator: Any) -> str:
    """Return the name of an object in messages: a function's name, if it has one."""
    name = str(getattr(operator, "__name__", "<lambda>"))
    return "operator" if name == "<lambda>" else name


def _imported(spec: str) -> Any:
    try:
        return find_object(spec, what="operator", example="my_operators:blur")
    except ImportError as error:
        cause = error.__cause__
        if isinstance(cause, ImportError) and (cause.name or "").startswith("deepinv"):
            raise ImportError(missing(cause)) from error
        raise
