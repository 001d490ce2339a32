"""What a plan says a run takes, and which plan is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsd import memory
from rsd.dryrun import Bytes, ghost
from rsd.features import load_features
from rsd.memory import Memory, Need, fitting, needs, plan, save_memory
from rsd.priors import load_prior
from rsd.tasks.inverse.embedding import Decoded

NEED = Need(epsilon=10, graph=100, pull=120, decode=90)
LEAN = Need(epsilon=10, graph=15, pull=50, decode=30)


@pytest.mark.parametrize(
    ("free", "chunk", "chosen", "told"),
    [
        (1000, None, (8, True, False), ""),  # 8 * 120
        (850, None, (2, True, False), ""),  # 6 * 100 + 2 * 120
        (500, None, (4, False, False), "flat, 4 of 8 particles"),
        (130, None, (1, False, False), "flat, 1 of 8 particles"),
        (60, None, (1, False, True), "lean, 1 of 8 particles"),
        (10, None, (1, False, True), ""),
        (500, 3, (3, False, False), ""),
    ],
)
def test_the_first_plan_that_fits(monkeypatch, free, chunk, chosen, told):
    monkeypatch.setattr(memory, "SHARE", 1.0)
    found = fitting(NEED, LEAN, 8, chunk, free)
    assert (found.chunk, found.keep, found.lean) == chosen and told in found.why


def test_small_pictures_are_not_measured(monkeypatch):
    prior = load_prior("heads")
    found = plan("auto", chunk=None, n=4, prior=prior)
    assert (found.chunk, found.keep, found.lean) == (None, True, False)
    assert found.why.startswith("fast, less than 1 GiB of the ")


def test_what_networks_cannot_tell_is_said(monkeypatch, tiny_folder):
    monkeypatch.setattr(memory, "available", lambda device: 1)
    prior = load_prior(str(tiny_folder()))
    found = plan("auto", chunk=None, n=4, prior=prior, embed=lambda z: prior.decode(z).flatten(1))
    assert found.keep and "cannot be told" in found.why


def test_auto_goes_by_a_dry_run(monkeypatch, tiny_folder, tiny_vit):
    prior, free = load_prior(str(tiny_folder())), 10**9
    monkeypatch.setattr(memory, "available", lambda device: free)
    monkeypatch.setattr(memory, "PIXEL", 10**9)
    embed, calls = Decoded(prior, load_features(str(tiny_vit))), prior.calls.copy()
    need, lean = (needs(prior, embed, prior.condition(), lean=one) for one in (False, True))
    assert lean.graph < need.graph / 2 and lean.pull < need.pull and lean.epsilon == need.epsilon
    for free in (need.of(4, 4, True), need.of(4, 2, False), lean.of(4, 1, False)):
        free = int(free / memory.SHARE) + 1
        found = plan("auto", chunk=None, n=4, prior=prior, embed=embed, condition=prior.condition())
        assert memory.SHARE * free >= (lean if found.lean else need).of(4, found.chunk, found.keep)
    assert found.lean and prior.calls == calls and not embed.lean  # nothing was computed, nothing changed


def test_a_dry_run_counts_what_a_network_holds():
    net = nn.Sequential(nn.Linear(10, 100), nn.Tanh(), nn.Linear(100, 1000), nn.Tanh())
    for p in net.parameters():
        p.requires_grad_(False)
    shade = ghost(net)
    assert all(p.is_meta for p in shade.parameters()) and not any(p.is_meta for p in net.parameters())
    x = torch.empty(7, 10, device="meta", requires_grad=True)
    with Bytes() as count:
        y = shade(x)
        assert count.now == 4 * 7 * (100 + 1000)  # tanh keeps its output; the layers' outputs are gone
        assert count.peak == 4 * 7 * (100 + 1000 + 1000)
        (x * 2).sum()
        assert count.now == 4 * 7 * (100 + 1000) and y.shape == (7, 1000)


def test_lean_has_the_same_gradient(tiny_folder, tiny_vit):
    prior = load_prior(str(tiny_folder()), dtype="float64")
    embed = Decoded(prior, load_features(str(tiny_vit)).double())
    z = torch.randn(2, *prior.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for lean in (False, True, False):
        save_memory(lean, prior, embed)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            found.append(torch.autograd.grad(embed(z).square().sum(), z)[0])
    assert found[0].abs().max() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


def test_chunks_cover_all_rows():
    assert [*Memory(2).chunks(5)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
