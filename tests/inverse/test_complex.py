"""Complex measurements of real points with circular noise: the posterior is that of real and imaginary parts."""

from __future__ import annotations

import pytest
import torch

from rsd.priors.mixture import GaussianMixture
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.operators.base import Operator, measure, variance
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.exact import Matrix
from rsd.tasks.inverse.samplers.fps_smc import product

D = 3
HYPER = {
    "pigdm": ("adaptive=false",),
    "fps-smc": ("M=1",),
    "daps": ("langevin=50", "lr_end=1", "tau=0.05", "lr=2.5e-4"),
}
STEPS = {"pigdm": 100, "fps-smc": 50, "daps": 20}
SIGMA_V = {"pigdm": 0.5, "fps-smc": 0.5, "daps": 0.05}  # where the method is right


class Complex(Operator):
    """y = A x with real x [B, d] and complex A [m, d]. ``parts``: the real matrix [2 m, d] of y's real and imaginary
    parts."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__("a complex matrix", linear=True)
        self.parts = torch.view_as_real(matrix).transpose(1, 2).flatten(0, 1)

    def forward(self, x):
        return torch.view_as_complex((x @ self.parts.T).view(len(x), -1, 2))


def problem(sigma_v):
    """Return an operator, a measurement, and the posterior's mean [d] and covariance [d, d] under N(0, I)."""
    random = torch.Generator().manual_seed(1)
    f = Complex(torch.randn(2, D, dtype=torch.complex128, generator=random))
    y = measure(f, torch.randn(1, D, dtype=torch.float64, generator=random), sigma_v, seed=0)
    A, v = f.parts, sigma_v**2 / 2  # of each part
    covariance = torch.linalg.inv(torch.eye(D, dtype=torch.float64) + A.T @ A / v)
    return f, y, covariance @ A.T @ torch.view_as_real(y).flatten() / v, covariance


def draw(method, f, y, number, sigma_v, hyper, steps=100):
    prior = GaussianMixture(torch.zeros(1, D, dtype=torch.float64), 1.0)
    settings = Settings(method=method, particles=number, steps=steps, sigma_v=sigma_v, hyper=hyper)
    run = run_class(method)(prior, f, y, settings, embed=None)
    list(run.steps())
    return run.finish()


def test_the_noise_of_a_complex_measurement_has_this_variance():
    f = Complex(torch.zeros(20000, D, dtype=torch.complex128))
    y = measure(f, torch.zeros(1, D, dtype=torch.float64), 0.3, seed=0)
    assert float(torch.view_as_real(y).var()) == pytest.approx(variance(y, 0.3), rel=0.03)
    assert variance(y.real, 0.3) == pytest.approx(0.09)


def test_the_product_of_gaussians_is_the_closed_form():
    f, y, mean, covariance = problem(1.0)
    n, random = 50000, torch.Generator().manual_seed(0)
    of_y = torch.randn(n, *y.shape[1:], dtype=y.dtype, generator=random)  # torch's complex normal numbers are circular
    of_x = torch.randn(n, D, dtype=torch.float64, generator=random)
    x = product(f, torch.zeros(n, D, dtype=torch.float64), y, 1.0, 1.0, (of_x, of_y))
    torch.testing.assert_close(x.mean(0), mean, atol=0.015, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.006, rtol=0)  # up to 0.03 off with the noise doubled


@pytest.mark.parametrize("method", ["pigdm", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fps-smc", "daps"))])
def test_samples_have_the_moments_of_the_posterior(method):
    """With doubled noise the variances were 1.3 to 2.2 times these."""
    f, y, mean, covariance = problem(SIGMA_V[method])
    x = draw(method, f, y, 400, SIGMA_V[method], HYPER[method], STEPS[method])
    deviation = covariance.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / deviation).abs().max()) < 0.2
    assert float((x.var(0) / deviation**2 - 1).abs().max()) < 0.22


FEW = {"pigdm": (), "fps-smc": ("M=4",), "daps": ("langevin=5", "lr=0.005", "tau=0.3"), "latino": ()}
FEW["score-prior"] = ("batch=2", "ode=2", "layers=2", "hidden=8", "lr=0.1")


@pytest.mark.parametrize("method", FEW)
def test_a_complex_measurement_equals_its_real_and_imaginary_parts(method):
    """The samples equal those of the real operator of the parts, times sqrt(2): their noise is then sigma_v."""
    f, y, *_ = problem(0.3)
    parts, g = torch.view_as_real(y).flatten(1) * 2**0.5, Matrix(f.parts * 2**0.5)
    few, of_parts = (draw(method, *given, 8, 0.3, FEW[method], steps=10) for given in ((f, y), (g, parts)))
    torch.testing.assert_close(few, of_parts)
