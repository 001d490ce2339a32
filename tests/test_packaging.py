"""What is installed is what is there: packages, configurations and weights."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import rsd
from rsd.tasks.inverse.command import read_yaml, tokens

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(Path(str(files("rsd.configs") / "inverse")).glob("*.yaml"))


def test_every_package_is_listed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = {"rsd": "rsd", **setup["package-dir"]}
    found = {
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in names.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(setup["packages"]) == found


def test_configurations_are_found_and_cite_their_source():
    assert len(CONFIGS) >= 12
    for path in CONFIGS:
        assert path.read_text().startswith("# "), path.name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_valid_options(path: Path):
    import tyro

    from rsd.tasks.inverse.options import Restore

    options = tyro.cli(Restore, args=[*tokens(read_yaml(path)), str(path)])
    name = f"{options.task}_{'heads' if options.prior == 'heads' else 'sd'}"
    assert path.stem.startswith("ablation") or path.stem.replace("_nonaug", "") == name


def test_the_paper_s_rows():
    """A row's numbers, from the paper's tables; lambda and lr_z differ most, so a slip of the row shows."""
    rows = {
        "inpaint_half_face_sd": (0.14, 0.075, 0.8, 1000, 50),
        "sr8_sd": (0.2, 0.05, 0.6, 1000, 0),
        "deblur_motion_sd": (0.007, 0.01, 0.3, 500, 0),
        "inpaint_random_sd": (0.009, 0.08, 0.8, 1000, 0),
        "inpaint_freeform_sd": (0.15, 0.15, 0.8, 500, 0),
        "hdr_sd": (0.008, 0.2, 0.2, 1000, 0),
        "ablation_gamma_sd": (0.15, 0.1, 1.0, 200, 100),
        "ablation_window_sd": (0.15, 0.1, 1.0, 200, 150),
        "ablation_interacting_sd": (0.15, 0.15, 0.8, 200, 150),
        "ablation_coupling_sd": (0.14, 0.07, 0.8, 1000, 0),
        "phase_retrieval_nonaug_sd": (0.02, None, 0.6, 1000, 30),
    }
    found = {path.stem: read_yaml(path) for path in CONFIGS}
    for name, row in rows.items():
        assert tuple(found[name].get(key) for key in ("lambda", "rho", "lr_z", "steps", "gamma")) == row, name


def test_versions_agree():
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and "+" not in pinned[1]
    assert f"version: {rsd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
