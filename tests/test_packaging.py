"""The installed packages and versions. (tests/inverse/test_configs.py reads the settings.)"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
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
    """Code that two heads need is in rsd/. Only tasks/reproduce and tasks/ui import them all, tasks/calibrate imports
    inverse."""
    heads = {init.parent.name for init in (ROOT / "tasks").glob("*/__init__.py")} - {"reproduce", "ui", "calibrate"}
    assert len(heads) == 4
    found = set()
    for head in heads:
        for file in (ROOT / "tasks" / head).rglob("*.py"):
            depth = len(file.relative_to(ROOT / "tasks").parts)  # so many dots lead to tasks/
            up = rf"^ *(?:from|import) +(?:\.{{{depth}}}|rsd\.tasks\.)(\w+)"
            found |= {(head, other) for other in re.findall(up, file.read_text(), re.MULTILINE)}
    assert {pair for pair in found if pair[0] != pair[1]} == set()


def imports() -> dict[str, set[str]]:
    """Return the package's modules that each module imports, including imports in functions and for type checkers."""
    files = [file for top in ("rsd", "tasks") for file in (ROOT / top).rglob("*.py")]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    modules = {name.replace("tasks", "rsd.tasks", 1) if name.startswith("tasks") else name for name in names.values()}
    found: dict[str, set[str]] = {module: set() for module in modules}
    for file, name in names.items():
        module = name.replace("tasks", "rsd.tasks", 1) if name.startswith("tasks") else name
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for statement in statements(ast.parse(file.read_text(encoding="utf-8"))):
            above = package.rsplit(".", statement.level - 1)[0] if statement.level > 1 else package
            base = f"{above}.{statement.module or ''}".rstrip(".") if statement.level else statement.module or ""
            for target in (base, *(f"{base}.{alias.name}" for alias in statement.names)):
                if target in modules and not f"{module}.".startswith(f"{target}."):
                    found[module].add(target)
    return found


def statements(node: ast.AST) -> Iterator[ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            yield child
        yield from statements(child)


def test_no_module_imports_itself_in_a_circle():
    left = imports()
    assert (
        "rsd.engine" in left["rsd.tasks.inverse.run"] and "rsd.tasks.inverse.head" in left["rsd.tasks.inverse.command"]
    )
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in free}
    # What is left imports, or is imported on the way to, a circle: those that nothing left imports are no part of it.
    while free := left.keys() - set().union(*left.values()):
        left = {module: targets for module, targets in left.items() if module not in free}
    assert left == {}


def test_no_folder_is_a_drawer():
    counts = Counter(file.parent for top in ("rsd", "tasks") for file in (ROOT / top).rglob("*.py"))
    assert max(counts.values()) <= 15, counts.most_common(3)


def test_scripts_use_the_checkout_however_rsd_is_installed():
    """``python -m scripts.X`` finds the checkout in the working folder; ``python scripts/X.py`` puts it on the path."""
    for file in sorted((ROOT / "scripts").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "python scripts/" in text:
            assert 0 < text.index("sys.path.insert(0, str(Path(__file__)") < text.index("\nfrom rsd"), file
        else:
            assert f"python -m scripts.{file.stem}" in text or file.stem == "__init__", file


def test_versions_agree():
    """The pinned torch names no build, since a "+cpu" exists only on one index."""
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and "+" not in pinned[1]
    assert f"torch=={pinned[1]} " in (ROOT / "Makefile").read_text()
    assert f"version: {rsd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
