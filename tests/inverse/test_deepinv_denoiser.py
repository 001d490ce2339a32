"""Our prior in deepinv, and both DPS compared (marked: deepinv needs a separate environment)."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from rsd.priors.base import Prior
from rsd.priors.mixture import GaussianMixture
from rsd.sampling import fresh_noise, levels
from rsd.schedule import Schedule
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.operators import BicubicDownsample, BlockAverage, Blur, Inpaint, kernels, make_operator
from rsd.tasks.inverse.operators.deepinv import PriorDenoiser
from rsd.tasks.inverse.run import Settings

SHAPE = (3, 2, 2)
MEAN, SPREAD = 0.4, 0.3


class Pixels(Prior):
    """A Gaussian over 2 x 2 images: independent pixels N(MEAN, SPREAD^2), except for one direction with spread 0.6."""

    name, image_size, latent_shape = "tiny images", 2, SHAPE

    def __init__(self, schedule: Schedule):
        d = math.prod(SHAPE)
        along = torch.ones(d, dtype=torch.float64) / math.sqrt(d)
        covariance = SPREAD**2 * torch.eye(d, dtype=torch.float64) + (0.6**2 - SPREAD**2) * along[:, None] * along
        means = torch.full((1, d), MEAN, dtype=torch.float64)
        self.points = GaussianMixture(means, covariance[None], schedule=schedule)
        self.covariance, self.schedule = covariance, schedule
        self.device, self.dtype, self.calls = torch.device("cpu"), torch.float64, Counter()

    def condition(self, *_):
        return None

    def epsilon(self, z_t, t, condition=None):
        return self.points.epsilon(z_t.flatten(1), t).view_as(z_t)

    def decode(self, z):
        return z

    encode = decode


def linear_schedule() -> Schedule:
    """deepinv's VP-SDE (beta from 0.1 to 20) at t = 1/1000 ... 1."""
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return Schedule.vp((-(0.1 * t + 0.5 * t**2 * 19.9)).exp())


def test_the_denoiser_is_the_posterior_mean_of_a_gaussian():
    prior = Pixels(linear_schedule())
    denoise = PriorDenoiser(prior)
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    t = torch.tensor([10, 300, 800])
    sigma = torch.tensor([prior.schedule.noise(int(one)) for one in t], dtype=torch.float64) / 2
    assert torch.equal(denoise.timestep(sigma), t)
    got = 2 * denoise(x, sigma.view(-1, 1, 1, 1)) - 1
    for k in range(3):
        S = prior.covariance
        gain = S @ torch.linalg.inv(S + (2 * sigma[k]) ** 2 * torch.eye(12, dtype=torch.float64))
        exact = MEAN + gain @ ((2 * x[k] - 1).flatten() - MEAN)
        torch.testing.assert_close(got[k].flatten(), exact)
    assert denoise(x, 0.1).shape == x.shape


def test_a_prior_in_latent_space_is_rejected():
    with pytest.raises(ValueError, match="gaussian mixture is not a prior in pixel space"):
        PriorDenoiser(GaussianMixture(torch.zeros(1, 3), 1.0))


def problem():
    """Return an operator that observes half of the pixels, and the same as deepinv's physics (in [0, 1])."""
    import deepinv

    mask = torch.tensor([[True, False], [False, True]]).view(1, 1, 2, 2)
    f = Inpaint(mask)
    physics = deepinv.physics.Inpainting(img_size=SHAPE, mask=mask[0].double().expand(3, -1, -1))
    y = f(torch.linspace(-0.8, 0.9, 12, dtype=torch.float64).view(1, *SHAPE))
    return f, y, physics, torch.where(mask, (y + 1) / 2, 0.0)


@pytest.mark.deepinv
def test_dps_agrees_with_deepinv_s_within_monte_carlo_error():
    """The same prior, operator and levels. deepinv adds the gradient to the score, Chung et al. and we to z_s: its
    weight of each step is chosen to be ours."""
    import deepinv

    f, y, physics, y01 = problem()
    prior, zeta, steps, n = Pixels(linear_schedule()), 0.1, 100, 2000
    grid = levels(prior.schedule, prior.schedule.descending(steps))

    class Weighed(deepinv.sampling.DPSDataFidelity):
        step = 0

        def grad(self, x, y, physics, sigma, **kwargs):
            now, then = grid[self.step : self.step + 2]
            assert float(sigma) == pytest.approx(now.sigma / now.alpha / 2, rel=1e-3)
            keep = math.sqrt(max(0.0, then.sigma**2 - fresh_noise(now, then, 1.0) ** 2))
            self.step += 1
            gradient, model = super().grad(x, y, physics, sigma, **kwargs)
            return 2 * zeta / (then.alpha * now.sigma**2 / now.alpha - keep * now.sigma) * gradient, model

    dps = deepinv.sampling.DPS(PriorDenoiser(prior), num_steps=steps + 1, rng=torch.Generator().manual_seed(0))
    dps.data_fidelity = Weighed(denoiser=PriorDenoiser(prior), clip=[-1.0, 2.0])
    theirs = 2 * dps(y01.expand(n, *SHAPE), physics, x_init=(n, *SHAPE)).double() - 1
    settings = Settings(method="dps", particles=n, steps=steps, hyper=(f"zeta={zeta}",))
    run = run_class("dps")(prior, f, y, settings)
    list(run.steps())
    ours = run.finish()
    error = math.sqrt(2 / n)
    deviation = ours.std(0)
    print("means differ by", ((ours.mean(0) - theirs.mean(0)) / deviation / error).abs().max(), "standard errors")
    print("ratios of variances", (theirs.var(0) / ours.var(0)).flatten().tolist())
    assert ((ours.mean(0) - theirs.mean(0)) / deviation).abs().max() < 4 * error
    assert ((theirs.var(0) / ours.var(0)).log()).abs().max() < 4 * 2 * math.sqrt(1 / n)
    posterior = (ours.mean(0) - MEAN).abs().max()
    assert posterior > 10 * error * deviation.max()  # the data term did something


@pytest.mark.deepinv
def test_diffpir_and_ddrm_of_deepinv_run_on_our_prior():
    import deepinv
    import numpy as np

    _, y, physics, y01 = problem()
    physics.noise_model = deepinv.physics.GaussianNoise(0.01)
    denoiser = PriorDenoiser(Pixels(linear_schedule()))
    mask = physics.mask.bool().expand(8, -1, -1, -1)
    fidelity = deepinv.optim.data_fidelity.L2()
    pir = deepinv.sampling.DiffPIR(denoiser, fidelity, sigma=0.01, max_iter=50)
    ddrm = deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0.002, 100))
    for sampler in (pir, ddrm):
        x = sampler(y01.float().expand(8, -1, -1, -1), physics.float())
        assert x.isfinite().all()
        assert (x - y01.float())[mask].abs().mean() < 0.05
        assert 0.02 < x[~mask].std() < 0.5


@pytest.mark.deepinv
@pytest.mark.parametrize("name", ["resizer", "blocks", "motion", "gaussian", "half face", "random"])
def test_operators_are_deepinv_s_to_1e_5(name):
    import deepinv

    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    size = {"img_size": (3, 64, 64)}
    if name == "resizer":
        ours, theirs = BicubicDownsample(4), deepinv.physics.DownsamplingMatlab(factor=4)
    elif name == "blocks":
        ours = BlockAverage(4)
        theirs = deepinv.physics.Downsampling(**size, factor=4, filter=torch.ones(1, 1, 4, 4) / 16, padding="valid")
    elif name in ("motion", "gaussian"):
        kernel = kernels.motion_kernel(64, seed=0) if name == "motion" else kernels.gaussian_kernel(64)
        ours = Blur(kernel)
        theirs = deepinv.physics.Blur(filter=kernel[None, None], padding="reflect")
    else:
        ours = make_operator(f"inpaint_{name.replace(' ', '_')}", size=64)
        theirs = deepinv.physics.Inpainting(**size, mask=ours.observed[0].float().expand(3, -1, -1))
    y = ours(x)
    print(name, float((y - theirs.A(x)).abs().max()))
    assert (y - theirs.A(x)).abs().max() < 1e-5
    assert (ours.adjoint(y, x) - theirs.A_adjoint(y)).abs().max() < 1e-5
