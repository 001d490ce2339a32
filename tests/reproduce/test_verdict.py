"""Whether claims held, and how surely."""

from __future__ import annotations

import math

import pytest

from rsd.tasks.reproduce.entry import Claim
from rsd.tasks.reproduce.measure import Measured
from rsd.tasks.reproduce.verdict import student, verdict

ROWS = {
    "a": Measured({"x": {"psnr": 20.0, "div": 0.1}, "y": {"psnr": 22.0, "div": None}}),
    "b": Measured({"x": {"psnr": 21.0, "div": 0.2}, "y": {"psnr": 26.0, "div": 0.4}}, {"fid": 3.0}),
}


def test_a_claim_that_holds_says_by_how_much():
    found = verdict(Claim("more", "psnr", ("a", "b")), ROWS, {}, usual=True)
    assert found["held"] is True and found["reason"] is None
    assert found["measured"]["values"] == {"a": 21.0, "b": 23.5}
    (difference,) = found["measured"]["differences"]
    # +1 and +4: mean 2.5, deviation 2.1213, half-width 12.706 x 2.1213 / sqrt 2
    assert difference["mean"] == 2.5 and difference["number"] == 2
    assert difference["half"] == pytest.approx(12.706 * math.sqrt(4.5) / math.sqrt(2))
    assert found["clear"] is False  # two pictures prove little


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
    found = verdict(Claim("", "psnr", rising, by=by, unmet="looked at"), ROWS, {}, usual=True)
    assert found["held"] is held
    assert found["reason"] == (None if held else "looked at")


def test_what_was_not_measured_is_told():
    found = verdict(Claim("", "fid", ("a", "b")), ROWS, {}, usual=True)
    assert found["held"] is None and "a has no fid" in found["reason"]
    found = verdict(Claim("", "psnr", ("a", "c")), ROWS, {"c": "c needs something"}, usual=True)
    assert found["held"] is None and found["reason"] == "c needs something"
    assert found["measured"]["values"] == {"a": 21.0}


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (3, 3.1824), (10, 2.2281), (31, 2.0395), (99, 1.9842)])
def test_student(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, abs=5e-4)


def of(**figures):
    return {label: Measured({str(k): {"div": x} for k, x in enumerate(values)}) for label, values in figures.items()}


@pytest.mark.parametrize(
    ("second", "by", "held", "clear"),
    [
        ([2.0, 3.1, 4.0, 5.1], 0, True, True),  # differences of 1.0, 1.1, 1.0, 1.1: 1.05 +- 0.092
        ([2.0, 3.1, 4.0, 5.1], 1, True, False),
        ([2.0, 3.1, 4.0, 5.1], 1.1, False, False),
        ([2.0, 3.1, 4.0, 5.1], 1.2, False, True),
    ],
)
def test_what_is_within_noise_is_not_clear(second, by, held, clear):
    found = verdict(Claim("", "div", ("a", "b"), by=by), of(a=[1.0, 2.0, 3.0, 4.0], b=second), {}, usual=True)
    assert (found["held"], found["clear"]) == (held, clear)


def test_one_clear_fall_is_enough_against_a_claim():
    rows = of(a=[1.0, 2.0], b=[1.5, 3.5], c=[0.4, 2.4])
    found = verdict(Claim("", "div", ("a", "b", "c")), rows, {}, usual=True)
    assert (found["held"], found["clear"]) == (False, True)


def test_a_number_is_compared_with_each_picture():
    found = verdict(Claim("", "div", ("a", 0.95)), of(a=[0.5, 0.7, 0.6]), {}, usual=True)
    (difference,) = found["measured"]["differences"]
    assert (difference["from"], difference["to"], difference["number"]) == ("a", 0.95, 3)
    assert difference["mean"] == pytest.approx(0.35)
    assert difference["half"] == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert found["clear"] is True
    assert verdict(Claim("", "div", ("a", 0.95)), of(a=[0.5]), {}, usual=True)["clear"] is None


def test_reasons_are_of_the_usual_run_alone():
    claim = Claim("", "psnr", ("b", "a"), unmet="looked at")
    assert verdict(claim, ROWS, {}, usual=True)["reason"] == "looked at"
    assert verdict(claim, ROWS, {}, usual=False)["reason"] is None
