"""DiffPIR and the estimate that it starts from, on a prior whose denoiser is known."""

from dataclasses import replace

import pytest
import torch

from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.sampling import level
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.operators import Denoise
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.diffpir import DiffPIR, denoised
from rsd.tasks.inverse.samplers.exact import Matrix
from rsd.tasks.inverse.samplers.guidance import Measurement, Transition

VARIANCE = 0.3


class Start(Matrix):
    """A matrix with a first estimate."""

    def first(self, y):
        return self.adjoint(y, torch.zeros(1, self.matrix.shape[1], dtype=y.dtype))


def given(operator, y, sigma_v):
    prior = GaussianMixture(torch.zeros(1, y.shape[1], dtype=torch.float64), VARIANCE)
    return Measurement(prior, prior.condition(), Stream(0), operator, y, sigma_v)


def test_the_levels_are_even_in_the_log_from_start_to_stop():
    schedule = GaussianMixture(torch.zeros(1, 2), 1.0).schedule
    found = DiffPIR(start=0.5, stop=0.05).levels(schedule, 5)
    noise = [one.sigma / one.alpha for one in found[:-1]]
    wanted = torch.logspace(torch.tensor(0.5).log10(), torch.tensor(0.05).log10(), 5)
    torch.testing.assert_close(torch.tensor(noise), wanted, rtol=0.06, atol=0)
    for steps in (1, 3, 200):
        times = [one.t for one in DiffPIR(start=0.1).levels(schedule, steps)]
        assert len(times) == steps + 1 and all(a > b for a, b in zip(times[:-1], times[1:], strict=True))
    assert DiffPIR().levels(schedule, 4)[0].t == schedule.last


def test_a_step_is_the_formula():
    y = torch.tensor([[0.8, -0.2]], dtype=torch.float64)
    problem = given(Matrix(torch.eye(2, dtype=torch.float64)), y, 0.1)
    now, then = level(problem.prior.schedule, 300), level(problem.prior.schedule, 200)
    z = torch.tensor([[0.3, 1.0], [-2.0, 0.1]], dtype=torch.float64)
    move = Transition(problem, 1, 4, now, then, [0, 1], z)
    d = VARIANCE * now.alpha / (now.alpha**2 * VARIANCE + now.sigma**2) * z
    tau = 0.5 * 0.1**2 * (now.alpha / now.sigma) ** 2
    x = (y + tau * d) / (1 + tau)
    eps = (z - now.alpha * x) / now.sigma
    fresh = move.noise("diffpir")
    result = DiffPIR(weight=0.5, zeta=0.3).step(move)
    torch.testing.assert_close(result.clean, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        result.z, then.alpha * x + then.sigma * (0.7**0.5 * eps + 0.3**0.5 * fresh), atol=1e-6, rtol=0
    )


def test_the_estimate_is_denoised_and_fitted_in_turn():
    y = torch.tensor([[0.8, -0.2]], dtype=torch.float64)
    problem = given(Start(torch.eye(2, dtype=torch.float64)), y, 0.1)
    method = DiffPIR(start=0.6, stop=0.2, calls=2)
    x = y
    for t in method.timesteps(problem.prior.schedule, 2):
        now = level(problem.prior.schedule, t)
        tau = 0.1**2 * (now.alpha / now.sigma) ** 2
        x = denoised(problem, (y + tau * x) / (1 + tau), now)
    torch.testing.assert_close(method.estimate(problem), x, rtol=0, atol=1e-6)
    assert DiffPIR().estimate(problem) is None  # pure noise
    bare = given(Matrix(torch.eye(2, dtype=torch.float64)), y, 0.1)
    assert method.adapted(bare) == DiffPIR(start=0.0, stop=0.2, calls=2)  # no first estimate: from pure noise


def test_each_call_of_the_estimate_sees_the_picture_turned_another_way():
    class Turning(GaussianMixture):
        seen = []

        def turned(self, k):
            self.seen.append(k)
            return self

    y = torch.tensor([[0.8, -0.2]], dtype=torch.float64)
    problem = given(Start(torch.eye(2, dtype=torch.float64)), y, 0.1)
    prior = Turning(torch.zeros(1, 2, dtype=torch.float64), VARIANCE)
    DiffPIR(start=0.6, stop=0.2, calls=3).estimate(replace(problem, prior=prior))
    assert prior.seen == [0, 1, 2]


def spread(run):
    """Return the samples of a run after all its steps, and their standard deviation, mean over the entries."""
    for _ in run.steps():
        pass
    x = run.finish()
    return x, float(x.std(0).mean())


@pytest.mark.parametrize("sigma_v", [0.5, 0.15])
def test_denoising_samples_the_posterior(sigma_v):
    """Of 40 independent entries, so that few particles show their mean and their spread."""
    y = torch.linspace(-0.9, 0.9, 40, dtype=torch.float64)[None]
    problem = given(Denoise(), y, sigma_v)
    settings = Settings(
        method="diffpir", particles=300, sigma_v=sigma_v, steps=24, hyper=("start=1", "calls=1", "stop=0.01")
    )
    run = run_class("diffpir")(problem.prior, problem.operator, y, settings)
    share = VARIANCE / (VARIANCE + sigma_v**2)
    torch.testing.assert_close(run.estimate, share * y, rtol=0.03, atol=0)  # of the nearest timestep
    x, found = spread(run)
    deviation = (share * sigma_v**2) ** 0.5
    off = x.mean(0) - share * y[0]
    assert abs(float(off @ y[0] / (y @ y[0]))) < 0.03 * share  # no pull to 0 or to y
    assert float(off.square().mean().sqrt()) < 0.08 * deviation  # by chance 0.06
    assert found == pytest.approx(deviation, rel=0.12)


@pytest.mark.parametrize(("given_hyper", "ratio"), [((), 0.62), (("zeta=0.3", "boost=1.2"), 0.97)])
@pytest.mark.parametrize("width", [0.05, 0.2])
def test_few_steps_have_the_posterior_s_spread_with_boost(width, given_hyper, ratio):
    """Nothing is measured, and particles begin at the mean with noise of 0.5: the prior is the posterior."""
    prior = GaussianMixture(torch.zeros(1, 40, dtype=torch.float64), width**2)
    blind = Start(torch.zeros(1, 40, dtype=torch.float64))
    hyper = ("start=0.5", "stop=0.01", *given_hyper)
    settings = Settings(method="diffpir", particles=150, sigma_v=0.1, steps=8, hyper=hyper)
    run = run_class("diffpir")(prior, blind, torch.zeros(1, 1, dtype=torch.float64), settings)
    assert spread(run)[1] / width == pytest.approx(ratio, abs=0.06)


def test_boost_widens_denoised_samples():
    y = torch.linspace(-0.9, 0.9, 40, dtype=torch.float64)[None]
    problem = given(Denoise(), y, 0.2)
    share = VARIANCE / (VARIANCE + 0.2**2)
    found = []
    for boost in (1.0, 1.3):
        hyper = ("start=0.2", "calls=1", "stop=0.02", f"boost={boost}")
        settings = Settings(method="diffpir", particles=150, sigma_v=0.2, steps=8, hyper=hyper)
        run = run_class("diffpir")(problem.prior, problem.operator, y, settings)
        found.append(spread(run)[1] / (share * 0.2**2) ** 0.5)
    assert found == pytest.approx([0.75, 0.96], abs=0.06)
