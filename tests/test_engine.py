"""The loop by itself: particles in R^2 under a prior known in closed form."""

import math

import pytest
import torch

from rsd.engine import Reference, distill, sds
from rsd.priors.mixture import GaussianMixture
from rsd.repulsion import Interaction

START = torch.tensor([[0.3, 0.0], [-0.3, 0.1], [0.0, 0.4]], dtype=torch.float64)


class Points:
    def __init__(self, z, lr=0.01, ids=None):
        self.z, self.lr = z.clone(), lr
        self.ids = range(len(z)) if ids is None else ids
        self.seen = []

    def render(self):
        return self.z.clone()

    def step(self, r, t):
        self.seen.append((t, r.clone()))
        self.z = self.z - self.lr * r
        return {"norm": float(r.norm())}


@pytest.fixture
def prior():
    return GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), 0.05)


class ForceAlone(Reference):
    """A reference that cancels the score: what is left of r is the force."""

    def __call__(self, z_t, t, eps, eps_theta):
        return eps_theta


def distance_after(prior, gamma):
    points = Points(START[:2])
    timesteps = [50] * 60
    interaction = Interaction(gamma)
    list(
        distill(
            points,
            prior,
            timesteps=timesteps,
            seed=0,
            reference=ForceAlone(),
            interaction=interaction,
            embed=lambda z: z,
        )
    )
    return float((points.z[0] - points.z[1]).norm())


def test_positive_gamma_repels_and_negative_attracts(prior):
    start = float((START[0] - START[1]).norm())
    assert distance_after(prior, 0.0) == start
    assert distance_after(prior, 1.0) > 1.3 * start
    assert distance_after(prior, -1.0) < 0.7 * start


def test_the_residual_is_the_paper_s_with_the_sign_that_repels(prior):
    points = Points(START, lr=0.0)
    interaction = Interaction(2.0)
    list(distill(points, prior, timesteps=[700], seed=4, interaction=interaction, embed=lambda z: 3 * z))
    from rsd.randomness import noise

    eps = noise((2,), seed=4, purpose="diffusion", step=0, particles=range(3)).double()
    alpha, sigma = prior.schedule.alpha(700), prior.schedule.sigma(700)
    z_t = (alpha * START + sigma * eps).requires_grad_()
    phi = 3 * z_t
    distances = torch.cdist(phi.detach(), phi.detach())
    h = distances[[0, 0, 1], [1, 2, 2]].median() ** 2 / math.log(3)
    k = torch.exp(-((phi[:, None] - phi.detach()[None]) ** 2).sum(-1) / h) * (1 - torch.eye(3))
    (towards,) = torch.autograd.grad(k.sum(1).log().sum(), z_t)
    expected = prior.epsilon(z_t.detach(), 700, None) - eps + 2.0 * sigma * towards  # R = -grad log sum k
    torch.testing.assert_close(points.seen[0][1], expected, rtol=1e-9, atol=1e-9)


def test_sds_descends_to_the_only_mode():
    prior = GaussianMixture(torch.tensor([[2.0, -1.0]], dtype=torch.float64), 0.01)
    points = Points(START, lr=0.02)
    list(distill(points, prior, timesteps=[t for t in range(900, 100, -1)], seed=0, reference=sds))
    assert (points.z - torch.tensor([2.0, -1.0])).norm(dim=1).max() < 0.25


def test_golden_trajectory(prior):
    """A refactoring must keep these numbers; a change of them is a change of the method and goes in the CHANGELOG."""
    points = Points(START, lr=0.05)
    interaction = Interaction(1.5, window=(0.3, 1.0))
    timesteps = prior.schedule.descending(20)
    list(distill(points, prior, timesteps=timesteps, seed=7, interaction=interaction, embed=lambda z: z))
    torch.testing.assert_close(points.z, GOLDEN, rtol=0, atol=1e-6)


GOLDEN = torch.tensor(
    [[0.353214486, -0.101554995], [-0.176827256, 0.266373987], [-0.324493088, 0.036248329]], dtype=torch.float64
)


def test_resuming_in_the_middle_changes_nothing(prior):
    settings = dict(timesteps=prior.schedule.descending(10), seed=2, interaction=Interaction(1.0), embed=lambda z: z)
    whole = Points(START)
    list(distill(whole, prior, **settings))
    half = Points(START)
    for record in distill(half, prior, **settings):
        if record.step == 4:
            break
    rest = Points(half.z)
    list(distill(rest, prior, start=5, **settings))
    assert torch.equal(rest.z, whole.z)


def test_ensembles_run_side_by_side_as_if_alone(prior):
    start = torch.cat([START, START + 0.5])
    both = Points(start)
    settings = dict(timesteps=prior.schedule.descending(8), seed=2, embed=lambda z: z)
    list(distill(both, prior, interaction=Interaction(1.0, ensembles=2), **settings))
    alone = Points(start[3:], ids=[3, 4, 5])
    list(distill(alone, prior, interaction=Interaction(1.0), **settings))
    torch.testing.assert_close(both.z[3:], alone.z, rtol=0, atol=1e-12)
