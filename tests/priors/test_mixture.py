from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rsd.priors.mixture import GaussianMixture

MEANS = torch.tensor([[1.0, 0.0, 0.5], [-1.0, 2.0, 0.0]], dtype=torch.float64)
WEIGHTS = [0.3, 0.7]
FACTORS = torch.tensor(
    [[[0.6, 0, 0], [0.2, 0.4, 0], [-0.1, 0.3, 0.5]], [[0.3, 0, 0], [-0.2, 0.7, 0], [0.1, 0.0, 0.2]]],
    dtype=torch.float64,
)
DIAGONAL = torch.tensor([[0.2, 0.3, 0.1], [0.05, 0.4, 0.6]], dtype=torch.float64)
ISOTROPIC = torch.tensor([0.1, 0.4], dtype=torch.float64)
COVARIANCES = {
    "number": (0.25, 0.25 * torch.eye(3).double().expand(2, 3, 3)),
    "isotropic": (ISOTROPIC, ISOTROPIC[:, None, None] * torch.eye(3).double()),
    "diagonal": (DIAGONAL, torch.diag_embed(DIAGONAL)),
    "full": (FACTORS @ FACTORS.mT, FACTORS @ FACTORS.mT),
}


def points(n: int = 5) -> torch.Tensor:
    return 1.5 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize("t", [0, 250, 999])
def test_epsilon_is_minus_sigma_times_the_score_of_the_diffused_density(kind, t):
    given, full = COVARIANCES[kind]
    prior = GaussianMixture(MEANS, given, WEIGHTS)
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    z = points().requires_grad_()
    components = MultivariateNormal(alpha * MEANS, alpha**2 * full.double() + sigma**2 * torch.eye(3).double())
    density = MixtureSameFamily(Categorical(torch.tensor(WEIGHTS, dtype=torch.float64)), components)
    (score,) = torch.autograd.grad(density.log_prob(z).sum(), z)
    torch.testing.assert_close(prior.epsilon(z.detach(), t), -sigma * score, rtol=0, atol=1e-10)


def test_one_gaussian_in_closed_form():
    prior = GaussianMixture(MEANS[:1], 0.04)
    alpha, sigma = prior.schedule.alpha(300), prior.schedule.sigma(300)
    expected = sigma * (points() - alpha * MEANS[0]) / (alpha**2 * 0.04 + sigma**2)
    torch.testing.assert_close(prior.epsilon(points(), 300), expected, rtol=0, atol=1e-13)


def test_a_timestep_for_each_point():
    prior = GaussianMixture(MEANS, COVARIANCES["full"][0], WEIGHTS)
    z, t = points(3), torch.tensor([0, 400, 999])
    one_by_one = torch.cat([prior.epsilon(z[k : k + 1], int(t[k])) for k in range(3)])
    torch.testing.assert_close(prior.epsilon(z, t), one_by_one, rtol=0, atol=1e-14)


def test_far_from_every_mode_epsilon_is_finite_and_points_away_from_the_nearest():
    prior = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.005)
    eps = prior.epsilon(torch.tensor([[50.0, 0.0]]), 0)
    assert torch.isfinite(eps).all() and eps[0, 0] > 0 and eps[0, 1] == 0


def test_encode_and_decode_change_nothing_and_there_is_no_text():
    prior = GaussianMixture(MEANS, 0.1)
    z = points()
    assert torch.equal(prior.decode(prior.encode(z)), z)
    assert prior.latent_shape == (3,) and prior.image_size == 0 and prior.dtype == torch.float64
    assert torch.equal(prior.epsilon(z, 5, prior.condition()), prior.epsilon(z, 5))
    with pytest.raises(ValueError, match="no prompt"):
        prior.condition("a cat")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((MEANS[0], 0.1), "means must be"),
        ((MEANS, torch.ones(3)), r"variances must be a number, \[2\]"),
        ((MEANS, 0.0), "variances must be positive"),
        ((MEANS, FACTORS), "symmetric"),
        ((MEANS, 0.1, [1.0]), "weights must be 2"),
        ((MEANS, 0.1, [1.0, 0.0]), "weights must be 2 positive"),
    ],
)
def test_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        GaussianMixture(*arguments)
