"""Any physics of deepinv (https://deepinv.github.io) as an operator; deepinv itself is an extra."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from rsd.runs.words import with_article

from .base import Operator


class Physics(Operator):
    """A deepinv physics, or any object with ``A(x)``; range, padding and normalisation are the physics' own.

    Only A is used, never the physics' noise model. Images go in as they are, in [-1, 1]: a physics made for [0, 1]
    must be wrapped by its user. A LinearPhysics is linear, and its ``A_adjoint`` serves as the adjoint (other physics
    may have an ``A_adjoint`` that is none). Parameters are frozen: they are not ours to train.
    """

    def __init__(self, physics: Any):
        if not callable(getattr(physics, "A", None)):
            raise ValueError(f"{type(physics).__name__} has no method A(x); give a deepinv physics or a function.")
        linear = any(kind.__name__ == "LinearPhysics" for kind in type(physics).__mro__)  # without importing deepinv
        super().__init__(type(physics).__name__, linear=linear)
        self.physics = physics  # registered as a submodule if it is one, and moved with the operator
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """physics.A(x); raises ValueError if that is not a tensor."""
        y = self.physics.A(x)
        if not isinstance(y, torch.Tensor):
            raise ValueError(f"{self.name}.A returned {with_article(type(y).__name__)}; y must be one tensor.")
        return y

    def adjoint(self, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A^T y by the physics' own A_adjoint, or J^T y at ``like`` by autograd."""
        return self.physics.A_adjoint(y) if self.linear else super().adjoint(y, like)


def deepinv_physics(name: str, **options: Any) -> Physics:
    """``deepinv.physics.<name>(**options)`` as an operator, e.g. ``deepinv_physics("Demosaicing")``.

    Raises ImportError if deepinv is missing or does not import, ValueError if it has no such physics.
    """
    try:
        module = importlib.import_module("deepinv.physics")
    except ImportError as error:
        raise ImportError(missing(error)) from error
    if not hasattr(module, name):
        raise ValueError(f'deepinv.physics has no "{name}"; see the list in its documentation.')
    return Physics(getattr(module, name)(**options))


def missing(error: ImportError) -> str:
    """What to do when deepinv cannot be imported."""
    return (
        f"deepinv cannot be imported ({error}); install it with pip install 'rsd[deepinv]', in an environment of its "
        "own, because it changes the torch build and needs the torchvision that matches it."
    )
