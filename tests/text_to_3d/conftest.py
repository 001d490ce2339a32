"""`rsd text-to-3d` on a tiny random prior at 16 px, with small scenes."""

from __future__ import annotations

import pytest

from tests.drawing import run


@pytest.fixture
def make(tiny_folder, tmp_path, small_networks):
    def go(*arguments, out="out", steps=3):
        return run("text-to-3d", tiny_folder("epsilon"), tmp_path / out, *arguments, steps=steps), tmp_path / out

    return go
