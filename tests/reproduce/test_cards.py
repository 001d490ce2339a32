"""Settings of runs in a line."""

from __future__ import annotations

import pytest

from rsd.tasks.inverse.packaged import parse as restore
from rsd.tasks.inverse.packaged import resolved
from rsd.tasks.reproduce.cards import settings


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--method rlsd", "N = 4, L = 100, gamma 12, window [0.2, 1], lambda 0.05, rho 0.075, lr_z 0.6, x-step exact"),
        (
            "--method nonrepuls --steps 7 --x-step adam",
            "N = 4, L = 7, lambda 0.05, rho 0.075, lr_x 0.4, lr_z 0.6",
        ),
        (
            "--method hybrid --window 0.25 1 --interacting 2",
            "N = 4, L = 100, gamma 12, window [0.25, 1], interacting 2, lambda 0.05, rho 0.075, lr_z 0.6, x-step exact",
        ),
        ("--method psld", "N = 4, L = 100, omega=0.5, gamma=0.1"),
    ],
)
def test_settings_of_a_restoration_are_those_that_its_method_reads(flags, expected, tmp_path):
    options, _ = restore([str(tmp_path), "--task", "inpaint_half_face", *flags.split()])
    assert settings("restore", resolved(options)) == expected


def test_settings_of_the_other_commands():
    drawn = {"particles": 4, "steps": 240, "method": "vsd", "gamma": 20.0, "window": [0.0, 1.0], "features": "pixels"}
    learned = {"guidance": 7.5, "lr": 0.03, "score": "lora", "lr_phi": 1e-4}
    output = "N = 4, L = 240, gamma 20, features pixels, guidance 7.5, lr 0.03, score lora, lr_phi 0.0001"
    assert settings("text-to-image", drawn | learned) == output
    sampled = {**drawn, **learned, "method": "ancestral", "gamma": None, "features": "auto"}
    assert settings("text-to-image", sampled) == "N = 4, L = 240, guidance 7.5"
    toy = {"gamma": [0.3], "steps": 300, "realisations": 200, "lr": 0.1, "collapsed": [1]}
    assert settings("toy", toy) == "L = 300, gamma 0.3, pairs 200, lr 0.1"
