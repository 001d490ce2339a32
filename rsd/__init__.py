"""Repulsive score distillation: an ensemble of particles that denoise, repel each other and fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = ["restore", "text_to_3d", "text_to_image"]

# tasks/ and configs/ are beside rsd/ in a checkout and inside it when installed; import both as rsd.tasks, rsd.configs.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks" / "inverse").is_dir():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    """Import the heads' functions on first use, so that importing rsd is fast."""
    if name == "restore":
        from rsd.tasks.inverse import restore

        return restore
    if name == "text_to_image":
        from rsd.tasks.text_to_image.api import text_to_image

        return text_to_image
    if name == "text_to_3d":
        from rsd.tasks.text_to_3d.api import text_to_3d

        return text_to_3d
    raise AttributeError(f"module 'rsd' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List also the functions that are not imported yet."""
    return sorted({*globals(), *__all__})
