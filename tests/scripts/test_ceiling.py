"""What exact posterior draws reach."""

from __future__ import annotations

import pytest
import torch

from rsd.heads.agreement import picture
from rsd.heads.data import head_at
from rsd.metrics import psnr
from rsd.tasks.inverse.operators import make_operator
from scripts.ceiling import reached


class Same:
    """An autoencoder that gives back nearly its input, or a grey picture."""

    def __init__(self, keeps: bool):
        self.keeps = keeps

    def encode(self, x):
        return x

    def decode(self, z):
        return 0.999 * z if self.keeps else torch.zeros_like(z)


def test_one_picture_for_all_draws_has_its_psnr():
    operator, truth = make_operator("inpaint_half_face", size=64), picture(head_at("test", 0, "frontal"))
    wanted = float(psnr(operator(truth), truth))
    assert reached("test", 0, Same(False), operator) == pytest.approx((wanted, wanted), abs=1e-3)


def test_the_best_of_four_is_more_often_the_truth_than_a_draw():
    """The draw that is the truth has more than 60 dB, the others far less."""
    mean, best = reached("test", 0, Same(True), make_operator("inpaint_half_face", size=64))
    assert 30 < mean < best - 10 and best < 80
