"""The exact posterior of hidden attributes."""

import functools

import numpy as np
import pytest
import torch

from rsd.heads.attributes import ATTRIBUTES, log_probability, sample_values
from rsd.heads.data import head_at
from rsd.tasks.calibrate import posterior as calibrated
from rsd.tasks.calibrate.posterior import read_values
from rsd.tasks.inverse.operators import make_operator, measure
from tests.calibrate.pictures import remembered as picture

exact, by_rejection, check_by_drawing = (
    functools.partial(function, show=picture)
    for function in (calibrated.exact, calibrated.by_rejection, calibrated.check_by_drawing)
)


def half(head, sigma_v=0.001):
    operator = make_operator("inpaint_half_face", size=64)
    return operator, measure(operator, picture(head), sigma_v, 0, "head")


@pytest.fixture(scope="module")
def known():
    """A head that shows its left eye under no patch strap: ear and cheek are open."""
    head = head_at("test", 1, "frontal")
    operator, y = half(head)
    return head, operator, y, exact(head, y, operator, 0.001)


def test_the_hidden_half_has_the_generators_probabilities(known):
    *_, posterior = known
    assert posterior.names == ("left_ear", "left_cheek")
    assert posterior.weights.sum() == pytest.approx(1, abs=1e-12)
    assert posterior.marginals["left_ear"] == pytest.approx({"plain": 0.5, "ring": 0.5}, abs=1e-6)
    assert posterior.marginals["left_cheek"] == pytest.approx({"plain": 0.5, "red": 0.25, "blue": 0.25}, abs=1e-6)
    joint = dict(zip(posterior.values, posterior.weights, strict=True))
    assert joint[("ring", "red")] == pytest.approx(0.125, abs=1e-6)  # they are independent


def test_weighted_draws_from_the_generator_agree_with_the_enumeration(known):
    head, operator, y, posterior = known
    gap = check_by_drawing(head, y, operator, 0.001, posterior, draws=2000, rng=np.random.default_rng(0))
    assert gap < 0.04  # about sqrt(6 / (2 pi 2000)) by chance
    wrong = type(posterior)(posterior.names, posterior.values, np.roll(posterior.weights, 1), posterior.heads)
    assert check_by_drawing(head, y, operator, 0.001, wrong, draws=2000, rng=np.random.default_rng(0)) > 0.1


def test_rejection_by_rendering_draws_from_the_posterior_without_its_weights(known):
    head, operator, y, posterior = known
    wrong = type(posterior)(posterior.names, posterior.values, np.roll(posterior.weights, 1), posterior.heads)
    drawn = by_rejection(head, y, operator, 0.001, wrong, number=600, rng=np.random.default_rng(0))
    rows = [tuple(one[name] for name in posterior.names) for one in drawn]
    shares = np.array([rows.count(row) / len(rows) for row in posterior.values])
    chance = np.sqrt(posterior.weights * (1 - posterior.weights) / len(rows))
    assert np.abs((shares - posterior.weights) / chance).max() < 3.5
    assert all(one["right_cheek"] == head["right_cheek"] for one in drawn)  # in the visible half
    impossible = by_rejection(head, y + 1, lambda x: 0 * x, 1e-9, posterior, number=2, rng=np.random.default_rng(0))
    assert impossible is not None  # nothing depends on the head: all are equally likely


def test_a_measurement_that_shows_everything_leaves_one_combination():
    head = head_at("test", 1, "frontal")
    posterior = exact(head, picture(head), lambda x: x, 0.01)
    assert posterior.names == () and posterior.weights.tolist() == [1.0]


def test_a_faint_view_of_the_cheek_weights_its_values_by_their_likelihood(known):
    head, operator, y, open_posterior = known
    cheek = torch.zeros(1, 1, 64, 64)
    cheek[..., 30:45, 36:52] = 2e-4 * (1 - operator.observed[..., 30:45, 36:52].float())

    def faint(x):
        return operator(x) + cheek * x

    posterior = exact(head, faint(picture(head)), faint, 0.001)
    assert posterior.names == ("left_ear", "left_cheek")
    shown = {h["left_cheek"]: picture(h) for h in open_posterior.heads if h["left_ear"] == head["left_ear"]}
    misfit = {c: float((cheek * (x - shown[head["left_cheek"]])).double().square().sum()) for c, x in shown.items()}
    prior = {"plain": 0.5, "red": 0.25, "blue": 0.25}
    weights = {c: prior[c] * np.exp(-m / (2 * 0.001**2)) for c, m in misfit.items()}
    expected = {c: w / sum(weights.values()) for c, w in weights.items()}
    assert posterior.marginals["left_cheek"] == pytest.approx(expected, abs=1e-4)
    assert max(abs(expected[c] - prior[c]) for c in prior) > 0.05


def test_too_much_to_enumerate_is_refused():
    head = head_at("test", 1, "frontal")
    with pytest.raises(ValueError, match="combinations of attributes open.*inpaint_half_face"):
        exact(head, torch.zeros(1), lambda x: torch.zeros(1), 1.0)


def test_moments_are_those_of_the_mixture(known):
    *_, posterior = known
    pictures = posterior.pictures(picture)
    mean, deviation = posterior.moments(pictures)
    draws = pictures[torch.from_numpy(posterior.draw(4000, np.random.default_rng(0)))]
    assert (draws.mean(0) - mean).abs().max() < 0.08
    assert (draws.std(0) - deviation).abs().max() < 0.05
    assert deviation.max() > 0.5 and float((deviation == 0).double().mean()) > 0.9


def test_the_log_probability_is_the_generators():
    rng = np.random.default_rng(0)
    draws = [sample_values(rng) for _ in range(4000)]
    same = [{**draws[0], "beard": b, "person": p} for b, p in (("full", "man"), ("none", "man"), ("none", "woman"))]
    chances = np.exp([log_probability(values) for values in same])
    shares = [np.mean([(d["beard"], d["person"]) == (v["beard"], v["person"]) for d in draws]) for v in same]
    assert chances / chances.sum() == pytest.approx(shares, abs=0.03)
    assert log_probability({**draws[0], "beard": "full", "person": "woman"}) == -np.inf


def test_unsure_readings_and_eyes_behind_sunglasses():
    def chosen(name, value, p=1.0):
        k, n = ATTRIBUTES[name].index(value), len(ATTRIBUTES[name])
        row = torch.full((n,), (1 - p) / (n - 1))
        row[k] = p
        return row

    probabilities = {
        "glasses": torch.stack([chosen("glasses", "none"), chosen("glasses", "sun"), chosen("glasses", "none")]),
        "left_eye": torch.stack([chosen("left_eye", v) for v in ("patch", "patch", "open")]),
        "left_cheek": torch.stack([chosen("left_cheek", "red", p) for p in (1.0, 1.0, 0.6)]),
    }
    rows = read_values(probabilities, ("left_eye", "left_cheek"), 0.8)
    assert rows == [("patch", "red"), (None, "red"), None]
