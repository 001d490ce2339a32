import math
import warnings
import weakref
from dataclasses import replace

import pytest
import torch

from rsd.engine import repulsion
from rsd.memory import Memory
from rsd.repulsion import Interaction, feature_force, linearise, median_bandwidth
from rsd.schedule import Schedule
from rsd.spread import Spread


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
    whole, force = repulsion(embed, z, groups, Spread(range(4), Memory(4)))
    part, _ = repulsion(embed, z, groups, Spread(range(4), Memory(chunk)))
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-14)
    x = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad((embed(x) * force.direction).sum(), x)
    torch.testing.assert_close(whole, expected)


class Card:
    """A feature map z -> sin z that counts the rows whose graphs exist. The card has ``room`` for that many rows, or
    for one row less beside a vector-Jacobian product."""

    def __init__(self, room: int):
        self.room, self.graphs = room, weakref.WeakSet()

    def embed(self, z):
        card = self

        class Graph(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                ctx.save_for_backward(z)
                ctx.rows = len(z)
                return z.sin()

            @staticmethod
            def backward(ctx, g):
                card.check(len(g))
                return g * ctx.saved_tensors[0].cos()

        if z.requires_grad:
            self.check(len(z))
        phi = Graph.apply(z)
        if phi.grad_fn is not None:
            self.graphs.add(phi.grad_fn)
        return phi

    def check(self, rows: int) -> None:
        alive = sum(graph.rows for graph in self.graphs)
        if alive + rows > self.room:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory: {alive} rows of graphs, {rows} more.")


@pytest.mark.parametrize("memory", [Memory(), Memory(4), Memory(keep=True), Memory(1, keep=True)])
@pytest.mark.parametrize("kind", ["repulsion", "svgd"])
def test_where_the_pull_does_not_fit_the_graphs_make_room(memory, kind):
    z = features(4)
    interaction = Interaction(1.0, kind=kind, embed=torch.sin)
    whole, _ = interaction.force(z, Spread(range(4)))
    memory = replace(memory)
    spread = Spread(range(4), memory)
    with pytest.warns(UserWarning, match="Memory is full") as told:
        R, _ = replace(interaction, embed=Card(4).embed).force(z, spread)
    torch.testing.assert_close(R, whole, rtol=0, atol=1e-12)
    assert memory.chunk in (1, 2) and len(told) <= 2
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):  # what was learned stays, so that at most one plan more is tried
            replace(interaction, embed=Card(4).embed).force(z, spread)
    assert len(told) <= 1


def test_a_kept_graph_goes_with_its_use():
    card = Card(100)
    phi, pull = linearise(card.embed, features(3), Memory(1, keep=True))
    assert len(card.graphs) == 3
    pull(phi, again=True)
    assert len(card.graphs) == 3
    pull(phi)
    assert not card.graphs


def test_window_and_groups():
    interaction = Interaction(gamma=1.0, window=(0.4, 1.0), interacting=3)
    assert interaction.active(999, 1000, 4) and interaction.active(399, 1000, 4)
    assert not interaction.active(398, 1000, 4)
    assert not Interaction(gamma=0.0).active(999, 1000, 4)
    assert not Interaction(gamma=1.0).active(999, 1000, 1)
    assert Interaction(gamma=-1.0).active(0, 1000, 2)
    assert interaction.groups(4).tolist() == [[0, 1, 2]] and interaction.groups(2).tolist() == [[0, 1]]
    assert Interaction(interacting=2, ensembles=2).groups(6).tolist() == [[0, 1], [3, 4]]


def test_what_is_recorded_is_what_is_applied():
    """Particles whose own timestep is outside the window are not moved, and count as 0."""
    z, schedule = features(3), Schedule.vp(torch.linspace(0.99, 0.01, 100, dtype=torch.float64))
    r = torch.ones_like(z)
    push = Interaction(2.0, window=(0.4, 1.0), embed=torch.sin).push(
        r, z, z, torch.tensor([10, 60, 90]), 4, schedule, Spread(range(3))
    )
    applied = r - push.apply(r)
    torch.testing.assert_close(push.pushed, applied, rtol=0, atol=1e-12)
    assert not push.pushed[0].any() and push.pushed[1:].any()


def test_the_limit_shortens_what_is_longer_than_the_residual_and_nothing_else():
    """|change_i| <= every * limit * |r_i|, each particle by itself, in its direction."""
    z, schedule = features(3), Schedule.vp(torch.linspace(0.99, 0.01, 100, dtype=torch.float64))
    r = torch.tensor([1e-3, 0.1, 1e3], dtype=z.dtype)[:, None] * torch.ones_like(z)
    free = Interaction(2.0, every=2, embed=torch.sin)
    arguments = (r, z, z, 50, 4, schedule, Spread(range(3)))
    whole = free.push(*arguments).change
    assert torch.equal(replace(free, limit=1e9).push(*arguments).change, whole)
    for limit in (0.5, 1.0):
        cut = replace(free, limit=limit).push(*arguments).change
        length, before = cut.square().mean(1).sqrt(), whole.square().mean(1).sqrt()
        torch.testing.assert_close(length, torch.minimum(before, 2 * limit * r[:, 0]), rtol=1e-6, atol=0)
        torch.testing.assert_close(cut / length[:, None], whole / before[:, None], rtol=1e-6, atol=1e-9)
        assert torch.equal(cut[2], whole[2]) and length[0] < before[0]


def test_ensembles_do_not_feel_one_another():
    phi = features(6)
    both = feature_force(phi.view(2, 3, -1)).direction
    torch.testing.assert_close(both[0], feature_force(phi[:3]).direction)
    torch.testing.assert_close(both[1], feature_force(phi[3:]).direction)


@pytest.mark.parametrize("gamma", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_reported(gamma):
    with pytest.raises(ValueError, match="give a finite number"):
        Interaction(gamma=gamma)
