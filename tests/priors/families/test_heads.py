"""Every family in restoration, by samplers of every kind, for two steps; and a folder of one in the commands."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import rsd
from rsd.cli import main
from rsd.features import load_features
from rsd.memory import needs
from rsd.priors.families.load import prior_of
from rsd.randomness import Stream
from rsd.reference import LoraScore
from rsd.spread import Spread
from rsd.tasks.inverse.operators import make_operator, measure
from tests.priors.families.tiny import BUILD, build


@pytest.mark.parametrize("family", BUILD)
def test_every_family_restores(family, tmp_path):
    f = make_operator("sr2", size=16, seed=0)
    y = measure(f, torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, 0.001, seed=0)
    prior = prior_of(build(family, tmp_path), size=16)
    for method in ("rlsd", "particle-guidance", "latent-dps", "latino"):
        features = {"features": "pixels"} if method in ("rlsd", "particle-guidance") else {}
        images = rsd.restore(y, f, prior=prior, method=method, steps=2, particles=2, **features).images
        assert images.shape == (2, 3, 16, 16) and bool(torch.isfinite(images).all())
        assert not torch.equal(images[0], images[1])


def test_a_folder_in_the_commands(saved, small_networks, tmp_path):
    Image.effect_noise((16, 16), 60).convert("RGB").save(tmp_path / "x.png")
    common = ["--prior", str(saved("sd3")), "--features", "pixels", "--particles", "2", "--steps", "2"]
    restored = [str(tmp_path / "x.png"), "--clean", "--task", "inpaint_half_face", "--out", str(tmp_path / "a")]
    assert main(["restore", *restored, *common]) == 0
    assert (tmp_path / "a" / "grid.png").is_file()
    assert main(["text-to-image", "a red dog", "--out", str(tmp_path / "b"), *common]) == 0
    assert (tmp_path / "b" / "grid.png").is_file()


@pytest.mark.parametrize("family", BUILD)
def test_adapters_on_every_network_learn_and_leave_it_as_it_was(family, tmp_path):
    prior = prior_of(build(family, tmp_path), size=16)
    condition, stream = prior.condition("red dog"), Stream(0)
    score = LoraScore(prior, condition, Spread(range(2)), stream, lr=1e-2, rank=2)
    assert {"to_q", "to_k", "to_v"} <= {path.rpartition(".")[2] for path in score.adapters[0].paths}
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    before = prior.epsilon(z, 500, condition)
    with score.active(0):
        assert torch.equal(prior.epsilon(z, 500, condition), before)
    for pair in score.adapters[0].pairs:
        torch.nn.init.normal_(pair[-1].weight)
    with score.active(0):
        changed = prior.epsilon(z, 500, condition)
    assert (changed - before).abs().max() > 1e-3
    gradients = torch.autograd.grad(changed.sum(), list(score.adapters[0].parameters()))
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    assert torch.equal(prior.epsilon(z, 500, condition), before)


@pytest.mark.parametrize("family", BUILD)
def test_memory_is_planned_by_a_dry_run(family, tmp_path):
    prior = prior_of(build(family, tmp_path), size=16)
    need = needs(prior, load_features("pixels"), prior.condition("red dog", "", 2.0), lean=True)
    assert need.epsilon > 0 and need.decode > 0
