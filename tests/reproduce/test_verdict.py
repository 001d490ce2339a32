"""Verdicts on claims, from differences with intervals."""

from __future__ import annotations

import math

import pytest

from rsd.tasks.reproduce.experiments.entry import Claim
from rsd.tasks.reproduce.measure import Measured
from rsd.tasks.reproduce.outcome import counts, headline
from rsd.tasks.reproduce.verdict import NO_INTERVAL, state_of, student, verdict, with_state

ROWS = {
    "a": Measured({"x": {"psnr": 20.0, "div": 0.1}, "y": {"psnr": 22.0, "div": None}}),
    "b": Measured({"x": {"psnr": 21.0, "div": 0.2}, "y": {"psnr": 26.0, "div": 0.4}}, {"fid": 3.0}),
}


def test_a_claim_may_require_a_margin():
    found = verdict(Claim("more", "psnr", ("a", "b")), ROWS, {}, usual=True)
    assert found["measured"]["values"] == {"a": 21.0, "b": 23.5}
    (difference,) = found["measured"]["differences"]
    # +1 and +4: mean 2.5, deviation 2.1213, half-width 12.706 x 2.1213 / sqrt 2
    assert difference["mean"] == 2.5 and difference["number"] == 2
    assert difference["half"] == pytest.approx(12.706 * math.sqrt(4.5) / math.sqrt(2))
    # two pictures prove little: the means rise, and that is all
    assert (found["state"], found["held"], found["clear"], found["means"]) == ("undecided", None, False, True)
    assert found["reason"] == "within noise"


@pytest.mark.parametrize(
    ("rising", "by", "means"),
    [
        (("b", "a"), 0, False),
        (("b", "a"), -3, True),
        (("a", "b"), 3, False),
        (("a", "b"), 2, True),
        ((20.0, "a", "b", 24.0), 0, True),
        (("a", 20.0), 0, False),
    ],
)
def test_means_decide_nothing_within_noise(rising, by, means):
    found = verdict(Claim("", "psnr", rising, by=by, unmet="looked at"), ROWS, {}, usual=True)
    assert (found["state"], found["held"], found["means"]) == ("undecided", None, means)
    assert found["reason"] == ("within noise" if means else "within noise. looked at")


def test_equal_values_do_not_rise():
    found = verdict(Claim("", "psnr", ("a", "a"), unmet="looked at"), ROWS, {}, usual=True)
    assert (found["state"], found["held"], found["reason"]) == ("not held", False, "looked at")


@pytest.mark.parametrize(
    ("between", "by", "expected"),
    [
        ([(1.0, 0.9)], 0, ("held", True)),
        ([(1.0, 1.0)], 0, ("undecided", False)),
        ([(1.0, 1.1)], 0, ("undecided", False)),
        ([(-1.0, 1.1)], 0, ("undecided", False)),
        ([(-1.0, 1.0)], 0, ("not held", True)),
        ([(-1.0, 0.9)], -2, ("held", True)),
        ([(1.0, 0.5), (1.0, 2.0)], 0, ("undecided", False)),
        ([(1.0, 0.5), (-1.0, 0.5)], 0, ("not held", True)),
        ([(-1.0, 0.5), None], 0, ("not held", True)),
        ([(1.0, 0.5), None], 0, ("undecided", None)),
        ([None], 0, ("undecided", None)),
    ],
)
def test_intervals_decide(between, by, expected):
    known = [{"mean": one[0], "half": one[1]} for one in between if one]
    assert state_of(by, len(between), known) == expected


def test_without_an_interval_nothing_is_decided():
    found = verdict(Claim("", "fid", ("b", 9.0)), {**ROWS, "b": Measured({}, {"fid": 3.0})}, {}, usual=True)
    assert (found["state"], found["clear"], found["means"]) == ("undecided", None, True)
    assert found["reason"] == NO_INTERVAL


@pytest.mark.parametrize(
    ("held", "clear", "expected"),
    [
        (True, True, ("held", True, True, None)),
        (False, True, ("not held", False, False, "why")),
        (True, False, ("undecided", None, True, "within noise")),
        (False, False, ("undecided", None, False, "within noise. why")),
        (True, None, ("undecided", None, True, NO_INTERVAL)),
        (None, None, ("not measured", None, None, "why")),
    ],
)
def test_a_claim_of_an_older_version_gets_a_state(held, clear, expected):
    old = {"claim": "a", "held": held, "clear": clear, "measured": {}, "reason": None if held else "why"}
    found = with_state(old)
    assert tuple(found[name] for name in ("state", "held", "means", "reason")) == expected
    assert found["clear"] is clear and found["claim"] == "a" and with_state(found) == found


def claims(**states):
    """The number of claims in each state; ``clear`` distinguishes within noise from no interval."""
    output = {"held": True, "not_held": True, "noisy": False, "open": None, "missing": None}
    held = {"held": True, "not_held": False, "noisy": True, "open": False}
    return [
        with_state({"claim": "", "held": held.get(name), "clear": output[name], "measured": {}})
        for name, number in states.items()
        for _ in range(number)
    ]


def test_counts_and_headline():
    found = counts(claims(held=3, not_held=2, noisy=4, open=1, missing=5))
    assert found == {
        "held": 3, "not_held": 2, "undecided": 5, "not_measured": 5, "held_within_noise": 0, "not_held_within_noise": 0,
    }  # fmt: skip
    assert headline(claims(held=3, not_held=2, noisy=4, open=1)) == (
        "3 claims held, 2 did not, 5 undecided (4 within noise), 0 not measured"
    )
    assert headline(claims(held=1, noisy=7)) == "1 claim held, 0 did not, 7 undecided (within noise), 0 not measured"
    assert headline(claims(open=1)) == "0 claims held, 0 did not, 1 undecided, 0 not measured"


def test_a_missing_measurement_is_the_reason():
    found = verdict(Claim("", "fid", ("a", "b")), ROWS, {}, usual=True)
    assert found["held"] is None and "a has no fid" in found["reason"]
    found = verdict(Claim("", "psnr", ("a", "c")), ROWS, {"c": "c needs something"}, usual=True)
    assert found["held"] is None and found["reason"] == "c needs something" and found["state"] == "not measured"
    assert found["measured"]["values"] == {"a": 21.0}


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (3, 3.1824), (10, 2.2281), (31, 2.0395), (99, 1.9842)])
def test_student(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, abs=5e-4)


def of(**figures):
    return {label: Measured({str(k): {"div": x} for k, x in enumerate(values)}) for label, values in figures.items()}


@pytest.mark.parametrize(
    ("second", "by", "held", "clear", "means"),
    [
        ([2.0, 3.1, 4.0, 5.1], 0, True, True, True),  # differences of 1.0, 1.1, 1.0, 1.1: 1.05 +- 0.092
        ([2.0, 3.1, 4.0, 5.1], 1, None, False, True),
        ([2.0, 3.1, 4.0, 5.1], 1.1, None, False, False),
        ([2.0, 3.1, 4.0, 5.1], 1.2, False, True, False),
    ],
)
def test_a_difference_within_noise_is_not_clear(second, by, held, clear, means):
    found = verdict(Claim("", "div", ("a", "b"), by=by), of(a=[1.0, 2.0, 3.0, 4.0], b=second), {}, usual=True)
    assert (found["held"], found["clear"], found["means"]) == (held, clear, means)


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


def test_reasons_are_given_for_the_usual_run_only():
    claim, rows = Claim("", "div", ("b", "a"), unmet="looked at"), of(a=[1.0, 2.0, 3.0], b=[2.0, 3.1, 4.0])
    assert verdict(claim, rows, {}, usual=True)["reason"] == "looked at"
    assert verdict(claim, rows, {}, usual=False)["reason"] is None
