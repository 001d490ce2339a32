"""Repulsive score distillation: an ensemble of particles that denoise, repel one another and fit the data."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["restore"]


def __getattr__(name: str) -> Any:
    """``rsd.restore`` is loaded when first asked for: importing rsd costs nothing."""
    if name == "restore":
        from rsd.tasks.inverse import restore

        return restore
    raise AttributeError(f"module 'rsd' has no attribute {name!r}")
