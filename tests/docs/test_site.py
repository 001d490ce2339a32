"""The documentation builds as a site in strict mode, without network, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
ROOT = Path(__file__).parents[2]


def listed(nav):
    """Return the pages in mkdocs' nav, including those in sections."""
    for entry in nav:
        for page in entry.values():
            yield from [page] if isinstance(page, str) else listed(page)


def test_the_site(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    output = set(listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert output == {page.name for page in (ROOT / "docs").glob("*.md")}, "list every page under nav in mkdocs.yml"
    pages = list((tmp_path / "site").glob("*.html"))
    least = {"index", "method", "extend", "reproduction", "outputs", "architecture"}
    assert least <= {page.stem for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="((?:https?:)?//[^"]*)"', text)
        assert not fetched, page.name
