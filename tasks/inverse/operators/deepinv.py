"""deepinv (https://deepinv.github.io): its physics as operators, and our priors as its denoisers. deepinv is an
extra."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from rsd.priors.base import Prior
from rsd.runs.words import with_article

from .base import Operator


class Physics(Operator):
    """A deepinv physics, or any object with ``A(x)``; range, padding and normalisation are the physics' own.

    Only A is used, never the physics' noise model. Images are passed as they are, in [-1, 1]: wrap a physics made for
    [0, 1]. A LinearPhysics is linear, and its ``A_adjoint`` is the adjoint (that of other physics may not be one).
    Parameters are frozen.
    """

    def __init__(self, physics: Any):
        if not callable(getattr(physics, "A", None)):
            raise ValueError(f"{type(physics).__name__} has no method A(x); give a deepinv physics or a function.")
        linear = any(kind.__name__ == "LinearPhysics" for kind in type(physics).__mro__)  # without importing deepinv
        super().__init__(type(physics).__name__, linear=linear)
        self.physics = physics  # registered as a submodule if it is one, and moved with the operator
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return physics.A(x). Raise ValueError if that is not a tensor."""
        y = self.physics.A(x)
        if not isinstance(y, torch.Tensor):
            raise ValueError(f"{self.name}.A returned {with_article(type(y).__name__)}; y must be one tensor.")
        return y

    def adjoint(self, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return A^T y by the physics' A_adjoint, or J^T y at ``like`` by autograd."""
        return self.physics.A_adjoint(y) if self.linear else super().adjoint(y, like)


def deepinv_physics(name: str, **options: Any) -> Physics:
    """Return ``deepinv.physics.<name>(**options)`` as an operator, e.g. ``deepinv_physics("Demosaicing")``.

    Raise ImportError if deepinv cannot be imported, ValueError if it has no such physics.
    """
    try:
        module = importlib.import_module("deepinv.physics")
    except ImportError as error:
        raise ImportError(missing(error)) from error
    if not hasattr(module, name):
        raise ValueError(f'deepinv.physics has no "{name}"; see the list in its documentation.')
    return Physics(getattr(module, name)(**options))


def missing(error: ImportError) -> str:
    """Return the error message if deepinv cannot be imported."""
    return (
        f"deepinv cannot be imported ({error}); install it with pip install 'rsd[deepinv]', in a separate "
        "environment, because it changes the torch build and needs the torchvision that matches it."
    )


class PriorDenoiser(torch.nn.Module):
    """E[x | x + sigma n] by a prior in pixel space, with deepinv's interface, so its DPS, DiffPIR and DDRM run on our
    model: images [B, 3, H, W] in [0, 1] and sigma.

    The timestep is the one with sigma_t / alpha_t nearest to 2 sigma, since our images are in [-1, 1]. Differentiable
    in x. Does not import deepinv. Raise ValueError for a prior in latent space, which deepinv's samplers do not
    support.
    """

    def __init__(self, prior: Prior):
        super().__init__()
        if prior.image_size == 0 or prior.latent_shape[-1] != prior.image_size:
            raise ValueError(
                f"{prior.name} is not a prior in pixel space, but deepinv denoises images; use heads-pixels."
            )
        self.prior = prior

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the timestep with sigma_t / alpha_t nearest to 2 sigma, by ratio; int64 of sigma's shape."""
        return self.prior.schedule.nearest(2 * sigma)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the denoised images [B, 3, H, W]. ``sigma``: a number, or one per image, of any shape with B
        entries."""
        t = self.timestep(torch.as_tensor(sigma).detach().flatten()).expand(len(x))
        alpha, sigma = self.prior.schedule.coefficients(t, x)
        z = 2 * x - 1
        eps = self.prior.epsilon(alpha * z, t)
        return (z - sigma / alpha * eps + 1) / 2
