"""Figures of calibration on distributions with a known answer."""

import math

import numpy as np
import pytest

from rsd.tasks.calibrate.figures import (
    LEVELS,
    attribute_figures,
    calibration_error,
    credible_mass,
    crps,
    energy_score,
    interval_coverage,
    rank_histogram,
    tarp_shares,
    total_variation,
    uniform_gap,
)
from rsd.tasks.calibrate.posterior import Posterior

POSTERIOR = Posterior(("left_ear",), (("plain",), ("ring",)), np.array([0.75, 0.25]), ())


def test_samples_with_the_posteriors_frequencies_have_no_error():
    found = attribute_figures([("plain",)] * 3 + [("ring",)], POSTERIOR)
    assert found["tv"] == found["tv_joint"] == found["invented"] == found["missed"] == 0
    assert found["credible"] == pytest.approx(LEVELS)
    assert calibration_error([found]) == 0


def test_samples_of_one_value_only():
    found = attribute_figures([("plain",)] * 4 + [None], POSTERIOR)
    assert found["read"] == 0.8
    assert found["tv"] == found["missed"] == 0.25
    assert found["missed_exact"] == pytest.approx(0.75 * 0.25**4 + 0.25 * 0.75**4)
    assert found["repeats"] == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert calibration_error([found]) == 0.25


def test_repeats_are_unbiased():
    rng = np.random.default_rng(0)
    draws = [[POSTERIOR.values[k] for k in POSTERIOR.draw(6, rng)] for _ in range(3000)]
    values = [attribute_figures(rows, POSTERIOR)["repeats"] for rows in draws]
    assert np.mean(values) == pytest.approx(1, abs=0.03)


def test_invented_values_and_weights():
    found = attribute_figures([("plain",), ("other",)], POSTERIOR, np.array([0.9, 0.1]))
    assert found["invented"] == pytest.approx(0.1)
    assert found["tv"] == pytest.approx(0.25)  # |0.9 - 0.75| / 2 + 0.25 / 2 + 0.1 / 2


def test_nothing_readable():
    found = attribute_figures([None, None], POSTERIOR)
    assert found["read"] == 0 and found["tv"] is None
    assert calibration_error([found]) is None


def test_errors_of_opposite_heads_cancel_in_the_pooled_error_only():
    low, high = ([("plain",)] * n + [("ring",)] * (4 - n) for n in (2, 4))
    heads = [attribute_figures(rows, POSTERIOR) for rows in (low, high)]
    assert calibration_error(heads) == 0
    assert [head["tv"] for head in heads] == [0.25, 0.25]


def test_the_credible_set_of_overconfident_samples_has_too_little_mass():
    assert credible_mass({("a",): 1.0}, {("a",): 0.4, ("b",): 0.6}, 0.9) == pytest.approx(0.9 * 0.4)
    assert total_variation({"a": 1.0}, {"a": 0.4, "b": 0.6}) == pytest.approx(0.6)


def test_the_energy_score_is_the_crps_in_one_dimension_and_proper_in_more():
    rng = np.random.default_rng(3)
    x, truth, w = rng.normal(size=(6, 1)), np.array([0.3]), np.array([0.3, 0.1, 0.1, 0.2, 0.2, 0.1])
    assert energy_score(x, truth) == pytest.approx(crps(x, truth))
    assert energy_score(x, truth, w) == pytest.approx(crps(x, truth, w))
    pairs = rng.normal(size=(400, 12, 2))
    pairs[..., 1] = 0.9 * pairs[..., 0] + (1 - 0.81) ** 0.5 * pairs[..., 1]
    apart = pairs.copy()  # the same values, but independent of each other: every entry's CRPS is the same
    apart[:, 1:, 1] = np.roll(apart[:, 1:, 1], 1, axis=1)
    scores = [np.mean([energy_score(one[1:], one[0]) for one in many]) for many in (pairs, apart)]
    assert scores[0] < scores[1] - 0.01


def test_crps_is_unbiased_and_has_the_gaussians_closed_form():
    rng = np.random.default_rng(0)
    truth = 0.7
    z = rng.normal(size=(8, 20000))
    phi, Phi = math.exp(-(truth**2) / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(truth / math.sqrt(2)))
    closed = truth * (2 * Phi - 1) + 2 * phi - 1 / math.sqrt(math.pi)
    assert crps(z, np.full(20000, truth)) == pytest.approx(closed, abs=0.01)
    equal = crps(z, np.full(20000, truth), np.full(8, 1 / 8))
    assert equal == pytest.approx(crps(z, np.full(20000, truth)), abs=1e-12)


@pytest.mark.parametrize("n", [3, 32])
def test_exchangeable_truth_lies_in_every_interval_as_often_as_it_should(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n + 1, 40000)).round(1)  # with ties
    assert interval_coverage(x[1:], x[0]) == pytest.approx(LEVELS, abs=0.01)
    assert rank_histogram(x[1:], x[0]) == pytest.approx(np.full(11, 1 / 11), abs=0.01)
    narrow = interval_coverage(0.5 * x[1:], x[0])
    assert narrow[0] < 0.35  # too sure


def test_random_points_find_shifted_samples():
    rng = np.random.default_rng(0)
    gaps = []
    for shift in (0.0, 2.0):
        shares = []
        for _ in range(200):
            x = rng.normal(size=(33, 3))
            shares.append(tarp_shares(x[1:] + shift, x[0], 3 * rng.normal(size=(1, 3))))
        gaps.append(uniform_gap(np.concatenate(shares)))
    assert gaps[0] < 0.1 < 0.15 < gaps[1]


def test_the_uniform_gap():
    assert uniform_gap(np.array([0.5])) == 0.5
    assert uniform_gap((np.arange(100) + 0.5) / 100) == pytest.approx(0.005)
