"""What keeps a scene from cheating, as in DreamFusion and its successors: means over the rays of a view."""

from __future__ import annotations

import torch

from .render import Rendering
from .settings import RegulariserSettings as RegulariserSettings


def regularisers(rendering: Rendering, settings: RegulariserSettings, *, progress: float) -> dict[str, torch.Tensor]:
    """Each term that has a weight, weighted, for views [V, R]: a mean over views. ``progress``: 0 to 1, of the run."""
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
    """mean sqrt(o^2 + 0.01)."""
    return (opacity**2 + 0.01).sqrt().mean()


def entropy(opacity: torch.Tensor) -> torch.Tensor:
    """mean -o log o - (1 - o) log(1 - o); 0.69 where half is there."""
    o = opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def thickness(z_variance: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """Mean variance of depth over the rays whose opacity is above a half; 0 if there are none. The count is per view,
    so that views may be taken one at a time."""
    solid = (opacity > 0.5).to(z_variance)
    return ((z_variance * solid).sum(-1) / solid.sum(-1).clamp(min=1)).mean()
