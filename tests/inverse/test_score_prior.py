"""Score-based priors: the ODE's density and gradient, the flow's density, and the posterior that is fitted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsd.priors import load_prior
from rsd.priors.mixture import GaussianMixture
from rsd.schedule import Schedule
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.options import Restore
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.exact import gaussian
from rsd.tasks.inverse.samplers.score_prior import flow_ode
from rsd.tasks.inverse.samplers.score_prior.flow_ode import log_density, weights
from rsd.tasks.inverse.samplers.score_prior.realnvp import RealNVP


def signs(*shape):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def test_the_density_of_a_mixture_is_the_closed_form():
    means = torch.tensor([[1.5], [-1.0]], dtype=torch.float64)
    prior = GaussianMixture(means, [0.3, 0.5], [0.3, 0.7])
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    first = prior.schedule.alphas[0] ** 2
    variance = torch.tensor([0.3, 0.5]) + (1 - first) / first  # with the noise of the first timestep
    parts = torch.distributions.Normal(means[:, 0], variance.sqrt()).log_prob(x)
    exact = (parts + torch.tensor([0.3, 0.7], dtype=torch.float64).log()).logsumexp(1)
    got, _ = log_density(prior, x, signs(9, 1), steps=50)  # one dimension: v^T J v is the divergence itself
    torch.testing.assert_close(got, exact, atol=0.04, rtol=0)  # 0.03 is that of z_T, which is not quite N(0, I) here


def test_the_density_of_a_unit_gaussian_is_the_closed_form():
    prior = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 1.0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    abar = prior.schedule.alphas[0] ** 2
    exact = torch.distributions.Normal(0.0, abar**-0.5).log_prob(x).sum(1)
    got, gradient = log_density(prior, x, signs(4, 3), steps=200)
    torch.testing.assert_close(got, exact, atol=5e-3, rtol=0)
    torch.testing.assert_close(gradient, -x * abar, atol=2e-3, rtol=0)


DDPM = Schedule.vp((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))


@pytest.mark.parametrize(("steps", "off"), [(8, 0.25), (10, 0.07), (20, 0.007)])
@pytest.mark.parametrize("v", [0.01, 0.1, 1.0])
def test_few_steps_see_narrow_directions_too(v, steps, off):
    """The gradient for N(0, v), and the density in three dimensions. (Heun's method costs far more and had 0.84 of the
    gradient with 10 steps.)"""
    prior = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), v, schedule=DDPM)
    x = v**0.5 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = v + float(1 / DDPM.alphas[0] ** 2 - 1)
    density, gradient = log_density(prior, x, signs(4, 3), steps=steps)
    torch.testing.assert_close(gradient * -whole / x, torch.ones_like(x), atol=off, rtol=0)
    exact = torch.distributions.Normal(0.0, whole**0.5).log_prob(x).sum(1)
    torch.testing.assert_close(density, exact, atol=5 * off, rtol=0)


def test_multistep_weights_integrate_parabolas_in_log_s():
    s = torch.tensor([0.1, 0.3, 0.5, 2.0, 9.0], dtype=torch.float64)
    w, tau = weights(s), s.log()
    integral = s * (tau**2 - 2 * tau + 2)  # of log(s)^2 ds
    torch.testing.assert_close(w.sum(1), s.diff())
    torch.testing.assert_close((w @ tau[:-1])[1:], (s * (tau - 1)).diff()[1:])
    torch.testing.assert_close((w @ tau[:-1] ** 2)[2:], integral.diff()[2:])
    assert torch.equal(w, w.tril()) and not w.tril(-3).any()


def test_timesteps_are_even_in_the_logarithm_of_the_noise():
    ts = DDPM.even(8)
    assert (ts[0], ts[-1], len(ts)) == (0, 999, 9)
    s = ((1 / DDPM.alphas**2 - 1).sqrt()).log()[ts]
    torch.testing.assert_close(s.diff(), torch.full((8,), float(s[-1] - s[0]) / 8, dtype=s.dtype), atol=0.15, rtol=0)
    assert len(set(DDPM.even(500))) == len(DDPM.even(500)) < 501  # several fall on one
    cut = Schedule.vp(torch.cat([DDPM.alphas[:-1] ** 2, torch.zeros(1, dtype=torch.float64)]))
    assert cut.even(8)[-1] == 998  # zero terminal SNR: no infinite s


def test_the_gradient_is_that_of_the_steps(monkeypatch):
    monkeypatch.setattr(flow_ode, "TAU", 1e-4)
    prior = GaussianMixture(torch.randn(3, 4, dtype=torch.float64), [0.3, 0.5, 1.0])
    x, v = torch.randn(2, 4, dtype=torch.float64), signs(2, 4)
    _, gradient = log_density(prior, x, v, steps=5)
    h = 1e-5
    for k in range(4):
        up, down = (log_density(prior, x + s * h * torch.eye(4)[k], v, steps=5)[0] for s in (1, -1))
        torch.testing.assert_close(gradient[:, k], (up - down) / (2 * h), atol=1e-6, rtol=1e-5)


def test_a_network_of_pixels_has_a_density_with_a_gradient(heads_pixels):
    prior = load_prior("heads-pixels", dtype="float64")
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1
    v = signs(1, 3, 32, 32)
    at, gradient = log_density(prior, x, v, steps=2)
    towards = gradient / gradient.norm()
    up, down = (log_density(prior, x + s * 0.002 * towards, v, steps=2)[0] for s in (1, -1))
    assert at.isfinite().all()
    assert float((up - down) / 0.004) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_the_flow_s_density_is_that_of_its_jacobian():
    flow = RealNVP(4, layers=4, hidden=8, spread=0.5, generator=torch.Generator().manual_seed(0)).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    n = torch.randn(1, 4, dtype=torch.float64)
    x, log_q = flow(n)
    jacobian = torch.autograd.functional.jacobian(lambda n: flow(n)[0][0], n)[:, 0]
    base = torch.distributions.Normal(0.0, 1.0).log_prob(n).sum()
    torch.testing.assert_close(log_q[0], base - jacobian.det().abs().log())


@pytest.mark.parametrize("blur", [0, pytest.param(10, marks=pytest.mark.slow)])
def test_the_fitted_flow_is_the_posterior_of_a_gaussian(blur):
    known = gaussian(sigma_v=0.3)
    settings = Settings(
        method="score-prior", particles=400, steps=100, sigma_v=0.3,
        hyper=("batch=32", "ode=10", "layers=4", "hidden=32", "lr=0.02", f"blur={blur}"),
    )  # fmt: skip
    run = run_class("score-prior")(known.prior, known.operator, known.y, settings)
    records = list(run.steps())
    x = run.finish()
    deviation = known.covariance.diagonal().sqrt()
    assert float(((x.mean(0) - known.mean) / deviation).abs().max()) < 0.3
    ratio = x.var(0) / deviation**2
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.35), ratio
    assert records[-1].losses["kl"] < records[0].losses["kl"] - 1


def test_a_fit_may_have_more_than_1000_steps():
    """Its steps are those of an optimiser, not the 1000 noise levels."""
    Restore(images=(Path(__file__),), task="hdr", method="score-prior", prior="heads-pixels", steps=1001).check()
    known = gaussian()
    run_class("score-prior")(known.prior, known.operator, known.y, Settings(method="score-prior", steps=1001))
    with pytest.raises(ValueError, match="steps is 1001; give 1 to 1000"):
        Restore(images=(Path(__file__),), task="hdr", method="dps", prior="heads-pixels", steps=1001).check()


def test_an_interrupted_fit_resumes_to_the_same_samples(heads_pixels):
    prior = load_prior("heads-pixels")
    f = make_operator("sr4", size=32)
    y = measure(f, torch.rand(1, 3, 32, 32) * 2 - 1, 0.01, seed=0)
    hyper = ("batch=2", "ode=2", "layers=2", "hidden=8")
    settings = Settings(method="score-prior", particles=2, steps=4, hyper=hyper, sigma_v=0.01)
    whole = run_class("score-prior")(prior, f, y, settings)
    list(whole.steps())
    first = run_class("score-prior")(prior, f, y, settings)
    for _ in zip(range(2), first.steps(), strict=False):
        pass
    again = run_class("score-prior")(prior, f, y, settings)
    again.load_state(first.state())
    list(again.steps())
    torch.testing.assert_close(again.finish(), whole.finish(), atol=1e-4, rtol=1e-4)


def test_a_narrow_direction_keeps_most_of_its_gradient_in_ten_steps():
    prior = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 1e-4, schedule=DDPM)
    x = torch.full((1, 3), 0.01, dtype=torch.float64)
    _, gradient = log_density(prior, x, signs(1, 3), steps=10)
    exact = -x / (1e-4 + float(1 / DDPM.alphas[0] ** 2 - 1))
    torch.testing.assert_close(gradient / exact, torch.full_like(x, 0.84), atol=0.01, rtol=0)


@pytest.mark.parametrize("t", [50, 300])
def test_from_a_later_timestep_the_density_includes_its_noise(t):
    prior = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.2, schedule=DDPM)
    noise = DDPM.noise(t)
    x = (0.2 + noise**2) ** 0.5 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density, gradient = log_density(prior, x, signs(4, 3), steps=20, least=noise)
    torch.testing.assert_close(gradient, -x / (0.2 + noise**2), atol=0, rtol=0.02)
    exact = torch.distributions.Normal(0.0, (0.2 + noise**2) ** 0.5).log_prob(x).sum(1)
    torch.testing.assert_close(density, exact, atol=0.06, rtol=0)
    assert DDPM.even(20, noise)[0] == t and DDPM.even(20, 1e4) == [999]


def test_a_blurred_flow_s_density_is_that_with_the_noise():
    """The entries are independent if the couplings are constant."""
    flow = RealNVP(3, layers=2, hidden=4, spread=0.3, generator=torch.Generator().manual_seed(0))
    for coupling in flow.couplings:
        torch.nn.init.constant_(coupling.out.bias[:3], 0.5)
    n = torch.randn(5, 3)
    _, log_q = flow(n, 0.4)
    scale = 0.3 * math.exp(math.tanh(0.5))  # each entry is scaled by one of the two
    width = (scale**2 + 0.4**2) ** 0.5
    torch.testing.assert_close(log_q, torch.distributions.Normal(0.0, width).log_prob(width * n).sum(1))


def blurred(known, *hyper, chunk=None):
    hyper = ("batch=3", "ode=10", "layers=2", "hidden=4", "spread=1e-3", *hyper)
    settings = Settings(method="score-prior", particles=2, steps=8, hyper=hyper, chunk=chunk, memory="flat")
    return run_class("score-prior")(known.prior, known.operator, known.y, settings)


def test_the_blur_falls_to_the_first_timestep_s_noise_and_then_ends():
    known = gaussian()
    run, first = blurred(known, "blur=5"), known.prior.schedule.noise(0)
    got = [run._blur(share) for share in (0.0, 0.5, 0.999, 1.0)]
    assert got == pytest.approx([5, (5 * first) ** 0.5, first, 0], rel=0.1)
    assert got[0] == known.prior.schedule.noise(known.prior.schedule.even(1, 5.0)[0])  # the prior's own noise
    assert blurred(known, "blur=0")._blur(0.0) == 0.0


def test_the_blurs_own_score_is_subtracted():
    """For narrow data only their own pull remains, almost none near x = 0, where that of the noise is 1/blur."""
    narrow = GaussianMixture(torch.zeros(1, 4, dtype=torch.float64), 1e-4, schedule=DDPM)
    run = blurred(replace(gaussian(), prior=narrow), "blur=1")
    assert next(iter(run.steps())).residual < 0.05


def test_a_fit_does_not_depend_on_the_chunk():
    known = gaussian()
    whole, parts = (blurred(known, "blur=5", chunk=chunk) for chunk in (None, 1))
    for run in (whole, parts):
        list(run.steps())
    torch.testing.assert_close(parts.finish(), whole.finish())
