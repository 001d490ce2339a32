"""Figures of finished runs, and what is made of them."""

from __future__ import annotations

import math

import pytest
import torch

from rsd.tasks.reproduce.entry import Claim
from rsd.tasks.reproduce.measure import Measured, at_size, sharpness, verdict

ROWS = {
    "a": Measured({"x": {"psnr": 20.0, "div": 0.1}, "y": {"psnr": 22.0, "div": None}}),
    "b": Measured({"x": {"psnr": 21.0, "div": 0.2}, "y": {"psnr": 26.0, "div": 0.4}}, {"fid": 3.0}),
}


def test_means_are_over_what_is_known():
    assert ROWS["a"].mean("psnr") == 21 and ROWS["a"].mean("div") == 0.1
    assert ROWS["b"].mean("fid") == 3 and ROWS["a"].mean("fid") is None


def test_a_claim_that_holds_says_by_how_much():
    found = verdict(Claim("more", "psnr", ("a", "b")), ROWS, {})
    assert found["held"] is True and found["reason"] is None
    assert found["measured"]["values"] == {"a": 21.0, "b": 23.5}
    (difference,) = found["measured"]["differences"]
    # +1 and +4: mean 2.5, deviation 2.1213, half-width 1.96 x 2.1213 / sqrt 2
    assert difference["mean"] == 2.5 and difference["number"] == 2
    assert difference["half"] == pytest.approx(1.96 * math.sqrt(4.5) / math.sqrt(2))


@pytest.mark.parametrize(
    ("rising", "by", "held"),
    [
        (("b", "a"), 0, False),
        (("b", "a"), -3, True),
        (("a", "b"), 3, False),
        (("a", "b"), 2, True),
        ((20.0, "a", "b", 24.0), 0, True),
        (("a", 20.0), 0, False),
        (("a", "a"), 0, False),
    ],
)
def test_held(rising, by, held):
    found = verdict(Claim("", "psnr", rising, by=by, unmet="looked at"), ROWS, {})
    assert found["held"] is held
    assert found["reason"] == (None if held else "looked at")


def test_what_was_not_measured_is_told():
    found = verdict(Claim("", "fid", ("a", "b")), ROWS, {})
    assert found["held"] is None and "a has no fid" in found["reason"]
    found = verdict(Claim("", "psnr", ("a", "c")), ROWS, {"c": "c needs something"})
    assert found["held"] is None and found["reason"] == "c needs something"
    assert found["measured"]["values"] == {"a": 21.0}


def test_pictures_are_averaged_to_a_size():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert at_size(x, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert at_size(x, 8) is x
    with pytest.raises(ValueError, match="4 px cannot be averaged to 3 px"):
        at_size(x, 3)


def test_sharpness_is_the_gradient_in_units_of_the_truth_s():
    truth = torch.zeros(1, 3, 8, 8)
    truth[..., 4:] = 0.5
    assert sharpness(truth.expand(2, -1, -1, -1), truth, None) == pytest.approx(1)
    assert sharpness(0.5 * truth, truth, None) == pytest.approx(0.5)
    smooth = truth.clone()
    smooth[:, :, 4:] = 0.25
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 5:, :] = True
    assert sharpness(smooth, truth, hidden) == pytest.approx(0)
