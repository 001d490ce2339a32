"""What is installed is what is there: packages and versions. (tests/inverse/test_configs.py reads the settings.)"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import rsd

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed():
    """setuptools cannot search folders that are imported under another name, so pyproject.toml lists the packages."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = {"rsd": "rsd", **setup["package-dir"]}
    found = {
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in names.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(setup["packages"]) == found


def test_heads_share_nothing_with_one_another():
    """What two of them need lies in rsd/; tasks/reproduce stands above all."""
    heads = {init.parent.name for init in (ROOT / "tasks").glob("*/__init__.py")} - {"reproduce"}
    assert len(heads) == 4
    found = set()
    for head in heads:
        for file in (ROOT / "tasks" / head).rglob("*.py"):
            depth = len(file.relative_to(ROOT / "tasks").parts)  # so many dots lead to tasks/
            up = rf"^ *(?:from|import) +(?:\.{{{depth}}}|rsd\.tasks\.)(\w+)"
            found |= {(head, other) for other in re.findall(up, file.read_text(), re.MULTILINE)}
    assert {pair for pair in found if pair[0] != pair[1]} == set()


def test_versions_agree():
    """The pinned torch names no build: a "+cpu" exists on one index only."""
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and "+" not in pinned[1]
    assert f"torch=={pinned[1]} " in (ROOT / "Makefile").read_text()
    assert f"version: {rsd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
