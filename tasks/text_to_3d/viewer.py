"""A page that shows a GLB: one HTML file with the mesh inside, which needs no network."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from rsd.runs.folder import write_bytes

TEMPLATE = Path(__file__).parent / "templates" / "viewer.html"


def write_viewer(path: Path, glb: Path, *, title: str) -> None:
    """Write the page of a GLB that :func:`.scene.mesh.write_mesh` wrote."""
    page = TEMPLATE.read_text(encoding="utf-8")
    data = base64.b64encode(glb.read_bytes()).decode()
    write_bytes(path, page.replace("{{title}}", html.escape(title)).replace("{{glb}}", data).encode())
