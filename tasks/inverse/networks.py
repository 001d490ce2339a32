"""The feature map of a restoration's repulsion, and which metrics its pictures can have."""

from __future__ import annotations

from . import given
from .options import Restore
from .run import Settings

SMALLEST = 32
"""Pixels that LPIPS needs: AlexNet pools what is smaller away."""


def features_name(options: Restore) -> str:
    """The repulsion's feature map, "auto" resolved."""
    if options.features != "auto":
        return options.features
    return given.features_name(options.prior)


def interacts(options: Restore) -> bool:
    """Whether any particle ever feels another, so that the repulsion's feature map is needed."""
    return Settings.of(options).interaction.acts(options.particles)


def check_metrics(options: Restore, size: int) -> None:
    """Raise ValueError for a metric that pictures of size x size px cannot have. Loads nothing."""
    if "lpips" in options.metrics and options.clean and size < SMALLEST:
        raise ValueError(
            f"LPIPS needs {SMALLEST} px or more, {options.prior} makes {size} px; leave it out of --metrics."
        )
