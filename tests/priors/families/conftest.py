"""The tiny pipelines of the families, saved once in a session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.priors.families.tiny import build


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``saved("flux")``: the folder of the family's tiny pipeline. Read it only."""

    @functools.cache
    def folder(family: str) -> Path:
        root = tmp_path_factory.mktemp(family)
        build(family, root / "words").save_pretrained(root / "model", safe_serialization=True)
        return root / "model"

    return folder
