"""Random walks and mixtures with known posteriors."""

import pytest
import torch

from rsd.tasks.calibrate.mixtures import mixture_problem
from rsd.tasks.calibrate.signals import Jumps, RandomWalk, gibbs, inverse_gaussian, matrices, problem
from scripts.signals import Drawn, chosen_rows, draw, mixture_figures, name_of

KINDS = {
    "gaussian": Jumps("gaussian", 0.5),
    "laplace": Jumps("laplace"),
    "sparse": Jumps("sparse"),
    "student": Jumps("student", degrees=5.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_jumps_have_their_variance_and_density(kind):
    jumps = KINDS[kind]
    u = jumps.draw((200000,), torch.Generator().manual_seed(0))
    assert float(u.var()) == pytest.approx(jumps.variance, rel=0.06)
    x = torch.linspace(-200, 200, 400001, dtype=torch.float64)
    mass = float(jumps.density(x).sum() * (x[1] - x[0]))
    assert mass == pytest.approx(jumps.rate if kind == "sparse" else 1, abs=1e-5)
    assert float((u.abs() > 1).double().mean()) == pytest.approx(
        float(jumps.density(x[x.abs() > 1]).sum() * (x[1] - x[0])), abs=0.01
    )


def test_the_inverse_gaussian_has_its_moments():
    x = inverse_gaussian(torch.full((40000,), 2.0, dtype=torch.float64), 3.0, torch.Generator().manual_seed(0))
    assert float(x.mean()) == pytest.approx(2, rel=0.03)
    assert float(x.var()) == pytest.approx(8 / 3, rel=0.1)  # mean^3 / shape


def test_the_gaussian_walk_is_denoised_as_the_closed_form_says():
    prior = RandomWalk(KINDS["gaussian"], 8)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = torch.minimum(torch.arange(1, 9)[:, None], torch.arange(1, 9)).double() / 8
    for s in (0.2, 1.5):
        known = x @ torch.linalg.inv(covariance + s**2 * torch.eye(8, dtype=torch.float64)) @ covariance
        found = prior.denoised(x, torch.full((4, 1), s, dtype=torch.float64))
        assert float((found - known).abs().max()) < 2e-3
    t = torch.tensor([500])
    alpha, sigma = prior.schedule.coefficients(t, x)
    guess = (alpha * x - sigma * prior.epsilon(alpha * x, t)) / alpha
    assert torch.allclose(guess, prior.denoised(x, (sigma / alpha).expand(4, 1)))


@pytest.mark.parametrize("kind", ["laplace", "sparse", "student"])
def test_the_gibbs_sampler_and_the_grid_agree_on_the_denoised_estimate(kind):
    """Two independent computations of E[x | x + s n]: Monte-Carlo and the forward-backward recursion."""
    jumps, s = KINDS[kind], 0.3
    prior = RandomWalk(jumps, 8)
    rng = torch.Generator().manual_seed(1)
    y = jumps.draw((8,), rng).cumsum(0) / prior.unit + s * torch.randn(8, generator=rng, dtype=torch.float64)
    draws = gibbs(jumps, torch.eye(8, dtype=torch.float64) / prior.unit, y, s, chains=100, sweeps=100, rng=rng)
    draws = draws / prior.unit
    exact = prior.denoised(y[None], torch.full((1, 1), s, dtype=torch.float64))[0]
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / len(draws) ** 0.5)
    assert float(error.max()) < 4.5  # standard errors; draws of a chain are correlated


def test_a_problem_is_measured_by_its_matrix():
    A = matrices(16)
    assert {name: tuple(a.shape) for name, a in A.items()} == {
        "identity": (16, 16), "blur": (16, 16), "sampling": (4, 16), "fourier": (3, 16),
    }  # fmt: skip
    assert torch.allclose(A["fourier"] @ A["fourier"].T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    one = problem(KINDS["gaussian"], A["sampling"], sigma_v=0.01, seed=0, chains=50, sweeps=20)
    assert float((one.y[0] - one.x[3::4]).abs().max()) < 0.05
    assert float((one.draws[:, 3::4] - one.y).abs().max()) < 0.06
    assert float(one.draws[:, 0].std()) > 0.1


def test_the_mixtures_posterior_agrees_with_weighted_draws_from_the_prior():
    known = mixture_problem(d=3, m=1, K=3, spread=0.4, sigma_v=0.3, seed=1)
    rng = torch.Generator().manual_seed(0)
    k = torch.multinomial(known.prior.log_weights.exp(), 200000, replacement=True, generator=rng)
    x = known.prior.means[k] + 0.4 * torch.randn(200000, 3, generator=rng, dtype=torch.float64)
    w = (-((known.operator(x) - known.y)[:, 0] ** 2) / (2 * 0.3**2)).softmax(0)
    assert known.mean == pytest.approx(w @ x, abs=0.02)
    assert known.weights == pytest.approx(torch.stack([w[k == c].sum() for c in range(3)]), abs=0.01)
    draws = known.draw(20000, rng)
    assert known.shares(draws) == pytest.approx(known.weights, abs=0.02)
    assert draws.mean(0) == pytest.approx(known.mean, abs=0.02)


def test_exact_draws_cover_the_truth_at_their_level():
    found = []
    for seed in range(100):
        known = mixture_problem(d=4, m=2, K=3, seed=seed)
        found.append(known.in_densest(known.draw(200, torch.Generator().manual_seed(seed)), 0.9))
    assert sum(found) / 100 == pytest.approx(0.9, abs=0.07)


def test_the_least_error_and_the_densest_region_are_those_of_draws():
    known = mixture_problem(d=4, m=2, K=3, seed=2)
    draws = known.draw(8000, torch.Generator().manual_seed(0))
    assert known.least == pytest.approx(float((draws - known.mean).square().mean()), rel=0.03)
    masses = [known.densest_mass(part, 0.9, draws) for part in draws.split(20)]
    assert sum(masses) / len(masses) == pytest.approx(0.9, abs=0.01)  # of as few as 20 draws
    assert known.densest_mass(known.mean.expand(20, -1), 0.9, draws) < 0.9  # all at one point: a small region
    weights = torch.rand(8000, dtype=torch.float64).softmax(0)
    assert known.shares(draws, weights) == pytest.approx(weights @ known.log_densities(draws).softmax(1))


def test_the_figures_of_exact_draws_are_right_and_those_of_a_narrow_sampler_wrong():
    problems = [mixture_problem(d=4, m=2, K=3, seed=k) for k in range(12)]
    rng = torch.Generator().manual_seed(5)
    exact = [Drawn(known.draw(64, rng)) for known in problems]
    narrow = [Drawn(one.x.mean(0) + 0.1 * (one.x - one.x.mean(0))) for one in exact]
    found, wrong = mixture_figures(exact, problems), mixture_figures(narrow, problems)
    assert found["gap"] == pytest.approx(0.07, abs=0.1) and found["coverage"] == pytest.approx(0.9, abs=0.03)
    assert found["tv"] < 0.1 and found["vendi"] == pytest.approx(1, abs=0.1) and found["effective"] == 64
    assert wrong["gap"] == pytest.approx(found["gap"]) and wrong["coverage"] < 0.7 and wrong["vendi"] < 1
    heavy = torch.tensor([1.0, *[0.0] * 63], dtype=torch.float64)
    weighted = mixture_figures([Drawn(one.x, heavy) for one in exact], problems)
    assert weighted["effective"] == 1 and weighted["coverage"] is None and weighted["gap"] > 1


def test_rows_with_and_without_repulsion():
    rows = chosen_rows(["dps", "proximal-guidance", "rlsd"], ["proximal-guidance", "rlsd"], [0.2])
    assert [name_of(row) for row in rows] == [
        "`dps` zeta=0.3", "`proximal-guidance`", "`proximal-guidance` exact=true γ = 0",
        "`proximal-guidance` exact=true γ = 0.2", "`rlsd` γ = 0", "`rlsd` γ = 0.2",
    ]  # fmt: skip
    known = mixture_problem(d=4, m=2, K=3, seed=0)
    repelled = draw(rows[3], known, 10, 12)
    assert len(repelled.x) == 8 and float(repelled.weights.sum()) == pytest.approx(1) and repelled.effective < 8
    assert draw(rows[2], known, 10, 12).weights is None and draw(rows[5], known, 10, 12).weights is None
