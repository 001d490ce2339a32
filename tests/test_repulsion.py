import math

import pytest
import torch

from rsd.engine import repulsion
from rsd.memory import Memory
from rsd.repulsion import Interaction, feature_force, median_bandwidth


def features(n, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("include_self", [False, True])
def test_force_is_the_gradient_of_log_sum_k_with_the_others_held_fixed(n, include_self):
    phi = features(n)
    force = feature_force(phi, include_self=include_self)
    for i in range(n):
        x = phi[i].clone().requires_grad_()
        squared = ((x - phi.detach()) ** 2).sum(-1)
        keep = torch.tensor([include_self or j != i for j in range(n)])
        if include_self:  # the self term is constant: k_ii = 1 whatever x is
            squared = torch.where(torch.arange(n) == i, ((x - x) ** 2).sum(), squared)
        log_sum = (-squared / force.bandwidth)[keep].logsumexp(0)
        (gradient,) = torch.autograd.grad(-log_sum, x)
        torch.testing.assert_close(force.direction[i], gradient, rtol=1e-10, atol=1e-12)


def test_bandwidth_is_the_squared_median_over_pairs_by_log_n():
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    # pair distances 1 2 3 4 6 7: the median is the mean of 3 and 4
    expected = 3.5**2 / math.log(4)
    assert float(median_bandwidth(torch.cdist(points, points))) == pytest.approx(expected, rel=1e-12)
    assert feature_force(points).bandwidth == pytest.approx(expected, rel=1e-12)
    assert feature_force(points).distance == pytest.approx(23 / 6, rel=1e-12)


def test_two_particles_feel_the_closed_form_force():
    phi = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    h = 25 / math.log(2)
    expected = torch.tensor([[-3.0, -4.0], [3.0, 4.0]], dtype=torch.float64) * 2 / h
    torch.testing.assert_close(feature_force(phi).direction, expected)


@pytest.mark.parametrize("phi", [torch.zeros(1, 3), torch.ones(2, 3), torch.ones(5, 3), features(4)[[0, 0, 0, 1]]])
def test_degenerate_groups_give_a_finite_force(phi):
    force = feature_force(phi)
    assert torch.isfinite(force.direction).all()
    same = (phi == phi[0]).all(1)
    if same.all():
        assert (force.direction == 0).all()


def test_far_particles_still_feel_the_force_unless_the_self_term_is_included():
    phi = torch.tensor([[0.0], [1.0], [1.1], [1.2], [60.0]], dtype=torch.float64)
    assert feature_force(phi).direction[-1].abs() > 10 * feature_force(phi, include_self=True).direction[-1].abs()


def test_force_is_permutation_equivariant():
    phi, order = features(6), torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(feature_force(phi[order]).direction, feature_force(phi).direction[order])


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_chunked_vjp_equals_the_whole(chunk):
    weight = features(6, 6, seed=3)
    z = features(4, 6, seed=1)
    embed = lambda z: torch.tanh(z @ weight)  # noqa: E731
    groups = torch.arange(4)[None]
    whole, force = repulsion(embed, z, groups, memory=Memory(4))
    part, _ = repulsion(embed, z, groups, memory=Memory(chunk))
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-14)
    x = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad((embed(x) * force.direction).sum(), x)
    torch.testing.assert_close(whole, expected)


def test_window_and_groups():
    interaction = Interaction(gamma=1.0, window=(0.4, 1.0), interacting=3)
    assert interaction.active(999, 1000, 4) and interaction.active(399, 1000, 4)
    assert not interaction.active(398, 1000, 4)
    assert not Interaction(gamma=0.0).active(999, 1000, 4)
    assert not Interaction(gamma=1.0).active(999, 1000, 1)
    assert Interaction(gamma=-1.0).active(0, 1000, 2)
    assert interaction.groups(4).tolist() == [[0, 1, 2]] and interaction.groups(2).tolist() == [[0, 1]]
    assert Interaction(interacting=2, ensembles=2).groups(6).tolist() == [[0, 1], [3, 4]]


def test_ensembles_do_not_feel_one_another():
    phi = features(6)
    both = feature_force(phi.view(2, 3, -1)).direction
    torch.testing.assert_close(both[0], feature_force(phi[:3]).direction)
    torch.testing.assert_close(both[1], feature_force(phi[3:]).direction)


@pytest.mark.parametrize("gamma", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_told(gamma):
    with pytest.raises(ValueError, match="give a finite number"):
        Interaction(gamma=gamma)
