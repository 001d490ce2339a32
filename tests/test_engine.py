"""The engine alone: particles in R^2 with a prior known in closed form."""

import math

import pytest
import torch

from rsd.engine import Reference, distill, sds
from rsd.memory import Memory
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.spread import Spread

START = torch.tensor([[0.3, 0.0], [-0.3, 0.1], [0.0, 0.4]], dtype=torch.float64)


class Points:
    def __init__(self, z, lr=0.01, ids=None, memory=None):
        self.z, self.lr = z.clone(), lr
        self.spread = Spread(range(len(z)) if ids is None else ids, memory or Memory())
        self.seen = []

    def render(self):
        return self.z.clone()

    def step(self, r, t, average):
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
    interaction = Interaction(gamma, embed=lambda z: z)
    list(
        distill(
            points,
            prior,
            timesteps=timesteps,
            stream=Stream(0),
            reference=ForceAlone(),
            interaction=interaction,
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
    interaction = Interaction(2.0, embed=lambda z: 3 * z)
    list(distill(points, prior, timesteps=[700], stream=Stream(4), interaction=interaction))
    eps = Stream(4).noise("diffusion", (2,), range(3)).double()
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
    list(distill(points, prior, timesteps=[t for t in range(900, 100, -1)], stream=Stream(0), reference=sds))
    assert (points.z - torch.tensor([2.0, -1.0])).norm(dim=1).max() < 0.25


def test_golden_trajectory(prior):
    """A refactoring must keep these numbers; a change of them is a change of the method and goes in the CHANGELOG."""
    points = Points(START, lr=0.05)
    interaction = Interaction(1.5, window=(0.3, 1.0), embed=lambda z: z)
    timesteps = prior.schedule.descending(20)
    list(distill(points, prior, timesteps=timesteps, stream=Stream(7), interaction=interaction))
    torch.testing.assert_close(points.z, GOLDEN, rtol=0, atol=1e-6)


GOLDEN = torch.tensor(
    [[0.353214486, -0.101554995], [-0.176827256, 0.266373987], [-0.324493088, 0.036248329]], dtype=torch.float64
)


def test_resuming_in_the_middle_changes_nothing(prior):
    interaction = Interaction(1.0, embed=lambda z: z)
    settings = dict(timesteps=prior.schedule.descending(10), stream=Stream(2), interaction=interaction)
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
    settings = dict(timesteps=prior.schedule.descending(8), stream=Stream(2))
    list(distill(both, prior, interaction=Interaction(1.0, ensembles=2, embed=lambda z: z), **settings))
    alone = Points(start[3:], ids=[3, 4, 5])
    list(distill(alone, prior, interaction=Interaction(1.0, embed=lambda z: z), **settings))
    torch.testing.assert_close(both.z[3:], alone.z, rtol=0, atol=1e-12)


def test_a_timestep_a_particle_is_each_particle_run_at_its_own(prior):
    """Without a force particles are independent: each must move as it does alone with its own timesteps."""
    own = torch.tensor([[900, 500, 20], [700, 40, 300]])  # [steps, N]
    together = Points(START)
    records = list(distill(together, prior, timesteps=list(own), stream=Stream(3)))
    assert [record.t for record in records] == own.tolist()
    for i in range(3):
        alone = Points(START[i : i + 1], ids=[i])
        list(distill(alone, prior, timesteps=own[:, i].tolist(), stream=Stream(3)))
        torch.testing.assert_close(together.z[i], alone.z[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["repulsion", "svgd"])
def test_one_timestep_repeated_is_the_shared_one(prior, kind):
    settings = dict(stream=Stream(3), interaction=Interaction(1.5, (0.0, 0.8), kind=kind, embed=torch.sin))
    shared, repeated = Points(START), Points(START, memory=Memory(2))
    list(distill(shared, prior, timesteps=[900, 500, 20], **settings))
    list(distill(repeated, prior, timesteps=[torch.tensor([t] * 3) for t in (900, 500, 20)], **settings))
    torch.testing.assert_close(repeated.z, shared.z, rtol=0, atol=1e-13)


def test_the_window_holds_for_each_particle_s_own_timestep(prior):
    points, free = Points(START), Points(START)
    t = [torch.tensor([900, 100, 900])]
    interaction = Interaction(5.0, (0.5, 1.0), embed=lambda z: z)
    list(distill(points, prior, timesteps=t, stream=Stream(3), interaction=interaction))
    list(distill(free, prior, timesteps=t, stream=Stream(3)))
    assert (points.z != free.z).any(1).tolist() == [True, False, True]


def svgd_by_loops(prior, z, t, eps, gamma, phi):
    """Liu & Wang 2016, Eq. 8, term by term, the score -(eps_theta - eps) / sigma; times -sigma, as in repulsion.py."""
    alpha, sigma, n = prior.schedule.alpha(t), prior.schedule.sigma(t), len(z)
    z_t = alpha * z + sigma * eps
    score = -(prior.epsilon(z_t, t) - eps) / sigma
    pairs = sorted(float((phi(z_t[i]) - phi(z_t[j])).norm()) for i in range(n) for j in range(i))
    median = (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / 2
    h = median**2 / math.log(n)
    moves = []
    for i in range(n):
        ascent = torch.zeros_like(z[i])
        for j in range(n):
            at_j = z_t[j].clone().requires_grad_()
            k = torch.exp(-((phi(at_j) - phi(z_t[i])) ** 2).sum() / h)
            (gradient,) = torch.autograd.grad(k, at_j)
            ascent += (k.detach() * score[j] + gamma * gradient) / n
        moves.append(-sigma * ascent)
    return torch.stack(moves)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("phi", [lambda z: z, lambda z: torch.sin(2 * z) + z.flip(-1) ** 2])
def test_svgd_is_liu_and_wang_s_double_sum(prior, chunk, phi):
    points = Points(START, lr=0.0, memory=Memory(chunk))
    interaction = Interaction(1.7, kind="svgd", embed=phi)
    list(distill(points, prior, timesteps=[400], stream=Stream(4), interaction=interaction))
    eps = Stream(4).noise("diffusion", (2,), range(3)).double()
    expected = svgd_by_loops(prior, START, 400, eps, 1.7, phi)
    torch.testing.assert_close(points.seen[0][1], expected, rtol=1e-9, atol=1e-9)


def test_svgd_averages_within_ensembles_and_leaves_the_others_alone(prior):
    start = torch.cat([START, START + 0.5])
    settings = dict(timesteps=[600, 300], stream=Stream(2))
    same = lambda z: z  # noqa: E731
    both, alone, free = Points(start), Points(start[[3, 4]], ids=[3, 4]), Points(start)
    part = Interaction(1.0, ensembles=2, interacting=2, kind="svgd", embed=same)
    list(distill(both, prior, interaction=part, **settings))
    list(distill(alone, prior, interaction=Interaction(1.0, kind="svgd", embed=same), **settings))
    list(distill(free, prior, **settings))
    torch.testing.assert_close(both.z[[3, 4]], alone.z, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.z[[2, 5]], free.z[[2, 5]], rtol=0, atol=1e-12)
    assert (both.z[[0, 1]] - free.z[[0, 1]]).abs().max() > 1e-3


def test_identical_particles_move_together_under_svgd(prior):
    """A median distance of 0 must give neither NaN nor a force."""
    points = Points(torch.zeros(3, 2, dtype=torch.float64), lr=0.0)
    list(
        distill(
            points,
            prior,
            timesteps=[400],
            stream=Stream(4),
            interaction=Interaction(1.0, kind="svgd", embed=lambda z: 0 * z),
        )
    )
    alone = Points(torch.zeros(3, 2, dtype=torch.float64), lr=0.0)
    list(distill(alone, prior, timesteps=[400], stream=Stream(4)))
    mean = alone.seen[0][1].mean(0).expand(3, 2)
    torch.testing.assert_close(points.seen[0][1], mean, rtol=0, atol=1e-12)


class EnsembleScore(Reference):
    """VSD's ideal: the exact score of particles from a Gaussian of known variance around their current mean."""

    def __init__(self, schedule, z, variance):
        self.schedule, self.mean, self.variance = schedule, z.mean(0), variance

    def __call__(self, z_t, t, eps, eps_theta):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * (z_t - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)

    def learn(self, z, step):
        self.mean = z.mean(0)
        return {"mean": float(self.mean.norm())}


def test_vsd_moves_a_displaced_ensemble_by_the_closed_form_amount():
    """With eps_theta and eps_phi the scores of N(mu, v) and N(m, v), whatever the noise

        r = sigma alpha / (alpha^2 v + sigma^2) (m - mu)

    for every particle: the ensemble keeps its shape and m - mu shrinks by 1 - lr sigma alpha / (...) a step."""
    mu, v, lr = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.3, 0.5
    prior = GaussianMixture(mu[None], v)
    points = Points(START, lr=lr)
    timesteps = [900, 500, 120, 60, 20]
    records = list(
        distill(points, prior, timesteps=timesteps, stream=Stream(0), reference=EnsembleScore(prior.schedule, START, v))
    )
    left = 1.0
    for t in timesteps:
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        left *= 1 - lr * sigma * alpha / (alpha**2 * v + sigma**2)
    moved = (left - 1) * (START.mean(0) - mu)
    assert moved.norm() > 1
    torch.testing.assert_close(points.z - START, moved.expand(3, 2), rtol=0, atol=1e-12)
    assert records[-1].losses["mean"] == pytest.approx(float(points.z.mean(0).norm()), rel=1e-12)
