"""Small fields for tests of scenes."""

from __future__ import annotations

from typing import Any

from rsd.tasks.text_to_3d.scene.settings import FieldSizes


def sized(kind: type, **sizes: Any) -> Any:
    """Return settings of class ``kind`` whose fields have other sizes than the defaults, which no option sets."""
    return type(kind.__name__, (kind,), {"sizes": FieldSizes(**sizes)})
