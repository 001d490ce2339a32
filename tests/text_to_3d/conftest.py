"""`rsd text-to-3d` on a tiny random prior at 16 px, with small scenes."""

from __future__ import annotations

import pytest

from rsd.cli import main

SMALL = [
    "--features", "pixels", "--div-features", "pixels", "-n", "2", "--views", "1", "--encoding", "grid", "--bound",
    "1.8", "--distance", "8", "8", "--fov", "22", "23", "--elevation", "-10", "30", "--samples", "6", "--fine", "0",
    "--gamma", "2", "--guidance", "3", "--ambient-until", "0.3", "--size", "16", "--turntable", "3",
    "--mesh-resolution", "12", "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def make(tiny_folder, tmp_path):
    prior = str(tiny_folder("epsilon"))

    def go(*arguments, out="out", steps=3):
        grid = () if "--encoding" in arguments else ("--grid", "3", "6")
        fixed = [*SMALL, *grid, "--prior", prior, "--steps", str(steps), "--out", str(tmp_path / out)]
        return main(["text-to-3d", *fixed, *map(str, arguments)]), tmp_path / out

    return go
