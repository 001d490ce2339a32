"""Inverse problems: restore an image from a measurement by RLSD, its variants and the baselines."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Load ``restore`` and its classes, and torch with them, on first access."""
    if name in ("restore", "Run", "Settings", "Restoration", "Decoded"):
        from importlib import import_module

        return getattr(import_module(".run", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
