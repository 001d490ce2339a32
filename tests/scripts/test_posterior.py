"""The figures of scripts/posterior.py: figures per direction show what those per coordinate hide."""

from __future__ import annotations

import pytest
import torch

from rsd.tasks.inverse.samplers.exact import blind, gaussian
from scripts.posterior import Row, directions, figure, flow_schedule, moments, samples


@pytest.fixture
def known():
    return gaussian(sigma_v=0.02)


def draws(known, number=4000):
    """Samples from the posterior itself."""
    root = torch.linalg.cholesky(known.covariance)
    random = torch.Generator().manual_seed(0)
    return known.mean + torch.randn(number, 4, generator=random, dtype=torch.float64) @ root.T


def test_draws_from_the_posterior_have_no_bias_and_its_variance(known):
    assert directions(draws(known), known) == pytest.approx([0, 1, 0, 1], abs=0.06)


def test_a_fault_in_the_measured_directions_is_seen_by_direction_alone(known):
    """Samples with 20 times the variance and an error of 3 deviations in the measured directions."""
    x = draws(known)
    variance, axes = torch.linalg.eigh(known.covariance)
    measured = axes[:, :2]
    assert variance.tolist() == pytest.approx([*variance[:2].tolist(), 1, 1]) and variance[1] < 0.01
    off = (x - known.mean) @ measured * (20**0.5 - 1) + 3 * variance[:2].sqrt()
    wrong = x + off @ measured.T
    assert directions(wrong, known) == pytest.approx([3, 20, 0, 1], rel=0.06, abs=0.06)
    bias, ratio = moments(wrong, known.mean, known.covariance.diagonal())
    assert bias < 0.2 and ratio == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("method", "hyper", "steps", "measured", "tolerance"),
    [("latino", ("ode=10",), 20, 0.02, 0.02), ("dps", ("zeta=0.3",), 200, 21, 9)],
)
def test_methods_have_the_variance_that_is_documented(known, method, hyper, steps, measured, tolerance):
    x = samples(Row(method, "", hyper), known, number=60, steps=steps)
    found = directions(x, known)
    assert found[1] == pytest.approx(measured, abs=tolerance)
    assert moments(x, known.mean, known.covariance.diagonal())[1] == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("method", ["proximal-guidance", "particle-guidance"])
def test_a_flow_is_sampled_as_a_variance_preserving_prior_is(method):
    """Near a flow's pure noise sigma / alpha is a thousand; repulsion there threw the particles to infinity."""
    known = blind(schedule=flow_schedule())
    settings = {"gamma": 0.2} if method == "particle-guidance" else {}
    x = samples(Row(method, "", ("zeta=0.3",) if settings else (), settings), known, number=16, steps=40)
    apart = (x[:, None] - known.prior.means).norm(dim=2).amin(1)
    assert float(apart.max()) < 1.5
    assert float((x[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.3)


def test_figures_are_short():
    assert [figure(value) for value in (0.004, 9.9, 9.96, 20.64)] == ["0.00", "9.90", "10.0", "20.6"]
