"""Repulsive score distillation: an ensemble of particles that denoise, repel one another and fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = ["restore", "text_to_3d", "text_to_image"]

# A checkout has tasks/ and configs/ beside rsd/, an installation inside it: both are rsd.tasks and rsd.configs.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks" / "inverse").is_dir():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    """The heads' functions are loaded when first asked for: importing rsd costs nothing."""
    if name == "restore":
        from rsd.tasks.inverse import restore

        return restore
    if name == "text_to_image":
        from rsd.tasks.text_to_image.head import text_to_image

        return text_to_image
    if name == "text_to_3d":
        from rsd.tasks.text_to_3d.head import text_to_3d

        return text_to_3d
    raise AttributeError(f"module 'rsd' has no attribute {name!r}")
