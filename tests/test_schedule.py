"""Noise schedules: variance preserving, and those of flows."""

from __future__ import annotations

import math

import pytest
import torch

from rsd.priors.base import as_epsilon, flow_state
from rsd.priors.mixture import GaussianMixture
from rsd.sampling import CLEAN, fresh_noise, level, step_variance
from rsd.schedule import Schedule


def scheduler(**changes):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**changes)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_s_levels_and_times_are_the_scheduler_s(shift):
    """In the flow's own units s = sigma / (alpha + sigma), which diffusers calls sigma."""
    theirs = scheduler(shift=shift)
    ours = Schedule.from_scheduler(theirs)
    s = ours.sigmas / (ours.alphas + ours.sigmas)
    torch.testing.assert_close(s.flip(0).float(), theirs.sigmas, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.times.flip(0), theirs.timesteps, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.alphas**2 + ours.sigmas**2, torch.ones(1000, dtype=torch.float64))
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(s, shift * u / (1 + (shift - 1) * u), rtol=0, atol=1e-6)


@pytest.mark.parametrize("terminal", [None, 0.02])
def test_a_shift_by_the_image_s_size_is_the_scheduler_s(terminal):
    theirs = scheduler(use_dynamic_shifting=True, shift_terminal=terminal)
    ours = Schedule.from_scheduler(theirs, tokens=1024)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    theirs.set_timesteps(sigmas=[k / 1000 for k in range(1000, 0, -1)], mu=mu)
    s = ours.sigmas / (ours.alphas + ours.sigmas)
    torch.testing.assert_close(s.flip(0).float(), theirs.sigmas[:-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.times.flip(0), theirs.timesteps, rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="depends on the image's size; give tokens"):
        Schedule.from_scheduler(theirs)


def test_other_schedulers_are_reported():
    from diffusers import EDMEulerScheduler

    with pytest.raises(ValueError, match="EDMEulerScheduler has no alphas_cumprod and is not a flow scheduler"):
        Schedule.from_scheduler(EDMEulerScheduler())
    with pytest.raises(ValueError, match="has invert_sigmas"):
        Schedule.from_scheduler(scheduler(invert_sigmas=True))


def test_a_flow_starts_where_the_noise_is_finite():
    for shift, most in ((1.0, 999.0), (3.0, 2997.0)):
        flow = Schedule.from_scheduler(scheduler(shift=shift))
        assert flow.last == flow.descending(10)[0] == 998
        assert flow.noise(998) == pytest.approx(most, rel=1e-3)
    assert Schedule.scaled_linear().last == 999


@pytest.mark.parametrize("t", [3, torch.tensor([3, 400, 980])])
def test_what_a_flow_network_means_is_the_closed_form(t):
    """For data N(m, v) the network's best prediction at z_s is the known E[eps - z | z_s]; its eps is that of the
    Gaussian."""
    schedule, m, v = Schedule.from_scheduler(scheduler(shift=3.0)), 0.7, 0.3
    prior = GaussianMixture(torch.tensor([[m]], dtype=torch.float64), v, schedule=schedule)
    z_t = torch.tensor([[0.2], [-1.0], [2.5]], dtype=torch.float64)
    s = (schedule.sigmas / (schedule.alphas + schedule.sigmas))[t].view(-1, 1)
    z_s = flow_state(z_t, t, schedule)
    total = (1 - s) ** 2 * v + s**2
    away = (z_s - (1 - s) * m) / total
    u = s * away - (m + (1 - s) * v * away)  # E[eps | z_s] - E[z | z_s]
    found = as_epsilon(u, z_t, t, "flow", schedule)
    torch.testing.assert_close(found, prior.epsilon(z_t, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, z_s + (1 - s) * u)


def test_the_tables_are_the_ddpm_s():
    abar = torch.tensor([0.99, 0.5, 0.1], dtype=torch.float64)
    schedule = Schedule.vp(abar)
    assert schedule.alpha(1) == 0.5**0.5 and schedule.sigma(2) == float((1 - abar[2]) ** 0.5) and schedule.T == 3
    z, t = torch.zeros(2, 1, 1), torch.tensor([2, 0])
    alpha, sigma = schedule.coefficients(t, z)
    assert alpha.shape == (2, 1, 1) and torch.equal(alpha.flatten(), (abar[t] ** 0.5).float())
    assert torch.equal(schedule.weight(t, z), sigma**2) and schedule.weight(1, z) == schedule.sigma(1) ** 2
    assert schedule.time(1).tolist() == 1 and schedule.time(t).tolist() == [2, 0]
    snr = schedule.alphas**2 / schedule.sigmas**2
    torch.testing.assert_close(-2 * schedule.log_noise, snr.log())
    assert schedule.nearest(torch.tensor([0.0, 0.9, 50.0])).tolist() == [0, 1, 2]


def test_the_variance_of_a_step_is_ddpm_s():
    """q(z_s | z_t, z_0) has the variance beta_t (1 - abar_s) / (1 - abar_t) (Ho et al. 2020, Eq. 7)."""
    schedule = Schedule.scaled_linear()
    now, then = level(schedule, 500), level(schedule, 400)
    beta = 1 - (now.alpha / then.alpha) ** 2
    assert step_variance(now, then) == pytest.approx(beta, rel=1e-12)
    assert fresh_noise(now, then, 1.0) ** 2 == pytest.approx(beta * then.sigma**2 / now.sigma**2, rel=1e-12)
    assert fresh_noise(now, then, 0.5) == pytest.approx(0.5 * fresh_noise(now, then, 1.0))
    assert fresh_noise(now, CLEAN, 1.0) == 0 and now.variance == pytest.approx(now.sigma**2)


def test_a_step_s_variance_does_not_depend_on_how_the_state_is_scaled():
    """The flow's own (1 - s) z + s eps divided by r; the samples are divided by r, too."""
    from rsd.sampling import Level

    s, u = 0.7, 0.4
    own = [Level(1, 1 - s, s), Level(0, 1 - u, u)]
    r = [math.hypot(at.alpha, at.sigma) for at in own]
    scaled = [Level(at.t, at.alpha / q, at.sigma / q) for at, q in zip(own, r, strict=True)]
    assert fresh_noise(*own, 1.0) == pytest.approx(r[1] * fresh_noise(*scaled, 1.0), rel=1e-12)


def test_the_weight_of_a_flow_s_noise_is_bounded():
    """The bound is the ratio of Stable Diffusion at its last timestep, so that does not change."""
    latent, flow = Schedule.scaled_linear(), Schedule.flow(torch.arange(1, 1001).double() / 1000, torch.arange(1000))
    assert latent.noise(999) == pytest.approx(flow.most, abs=0.02) and latent.most == float("inf")
    assert flow.noise(998) == pytest.approx(999) and flow.noise(499) == pytest.approx(1)


def test_a_solver_of_a_flow_has_its_shift():
    from diffusers import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    schedule = Schedule.from_scheduler(solver)
    assert schedule.noise(499) == pytest.approx(3) and float(schedule.time(499)) == pytest.approx(750)
