"""Many heads in one batch."""

from __future__ import annotations

import pytest

from scripts.batch import Batch, solve

FLAGS = ["--task", "inpaint_half_face", "--steps", "2", "-n", "2", "--gamma", "20"]


@pytest.mark.slow
def test_a_head_s_particles_repel_one_another_alone():
    alone, two = (solve(Batch(heads=heads), FLAGS) for heads in (1, 2))
    assert alone["psnr"][0] == pytest.approx(two["psnr"][0], abs=1e-3)
    assert alone["div"][0] == pytest.approx(two["div"][0], abs=1e-4)
    free = solve(Batch(heads=1), [*FLAGS, "--gamma", "0"])
    assert free["psnr"][0] != pytest.approx(alone["psnr"][0], abs=1e-3)
