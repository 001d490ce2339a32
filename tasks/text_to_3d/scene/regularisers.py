"""Regularisers of scenes, as in DreamFusion and its successors: means over the rays of a view."""

from __future__ import annotations

import torch

from .render import Rendering
from .settings import RegulariserSettings


def regularisers(rendering: Rendering, settings: RegulariserSettings, *, progress: float) -> dict[str, torch.Tensor]:
    """Return the weighted terms of views [V, R], averaged over views. ``progress`` of the run: 0 to 1."""
    terms = {}
    if settings.orientation and rendering.orientation is not None:
        weight = settings.orientation * 0.01 ** (1 - progress)
        terms["orientation"] = weight * rendering.orientation.mean()
    if settings.sparsity:
        terms["sparsity"] = settings.sparsity * sparsity(rendering.opacity)
    if settings.opacity:
        terms["opacity"] = settings.opacity * entropy(rendering.opacity)
    if settings.z_variance:
        terms["z_variance"] = settings.z_variance * thickness(rendering.z_variance, rendering.opacity)
    return terms


def sparsity(opacity: torch.Tensor) -> torch.Tensor:
    """Return mean sqrt(o^2 + 0.01)."""
    return (opacity**2 + 0.01).sqrt().mean()


def entropy(opacity: torch.Tensor) -> torch.Tensor:
    """Return mean -o log o - (1 - o) log(1 - o); 0.69 for opacity 1/2."""
    o = opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def thickness(z_variance: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """Return the mean variance of depth over the rays with opacity above a half, 0 if there are none. Rays are counted
    per view, so that views can be processed one at a time."""
    solid = (opacity > 0.5).to(z_variance)
    return ((z_variance * solid).sum(-1) / solid.sum(-1).clamp(min=1)).mean()
