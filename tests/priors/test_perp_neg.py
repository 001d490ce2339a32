"""Perp-Neg: what only the negative prompt says is avoided, and nothing of the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsd.priors.base import without
from rsd.priors.families.load import prior_of
from rsd.priors.latent import LatentPrior
from rsd.tasks.text_to_3d.options import PromptSettings
from rsd.tasks.text_to_3d.prompts import ViewPrompts
from tests.priors.families.tiny import build


def test_only_the_perpendicular_part_of_the_negative_is_taken_away():
    draw = torch.Generator().manual_seed(0)
    text, negative, uncond = (torch.randn(3, 4, 5, 5, generator=draw) for _ in range(3))
    moved = without(text, negative, uncond, 0.7) - text
    along = text - uncond
    assert ((moved * along).flatten(1).sum(1)).abs().max() < 1e-4 and moved.flatten(1).norm(dim=1).min() > 1
    rest = negative - uncond + moved / 0.7  # what is left of the negative is the prompt's direction, picture by picture
    share = (rest / along).flatten(1)
    torch.testing.assert_close(share, share[:, :1].expand_as(share), rtol=1e-3, atol=1e-3)
    parallel = uncond + 3 * along
    torch.testing.assert_close(without(text, parallel, uncond, 0.7), text, rtol=0, atol=1e-5)
    assert torch.equal(without(uncond, negative, uncond, 0.0), uncond)  # a prompt that says nothing
    flat = torch.zeros(1, 2)
    got = without(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 2.0]]), flat, 0.5)
    torch.testing.assert_close(got, torch.tensor([[1.0, -1.0]]))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_a_prior_s_guidance_is_perp_neg_s(kind, tiny_pipeline, tmp_path):
    prior = LatentPrior(tiny_pipeline("v_prediction")) if kind == "sd" else prior_of(build(kind, tmp_path))
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    text, negative, empty = (prior.epsilon(z, 500, prior.condition(words)) for words in ("red", "dog", ""))
    condition = replace(prior.condition("red", "dog", 3.0), unconditional=prior.condition(), perp_neg=0.5)
    before = prior.calls.copy()
    got = prior.epsilon(z, 500, condition)
    torch.testing.assert_close(got, empty + 3 * (without(text, negative, empty, 0.5) - empty), rtol=0, atol=2e-5)
    assert sum((prior.calls - before).values()) == 3 * 2
    assert (got - prior.epsilon(z, 500, replace(condition, unconditional=None))).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:The prompt is longer")
def test_scenes_ask_for_it(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    told = ViewPrompts(prior, "red", PromptSettings(negative_prompt="dog", perp_neg=2.0)).conditions
    empty = prior.condition("").embeddings
    assert all(torch.equal(c.unconditional.embeddings, empty) and c.perp_neg == 2 for c in told.values())
    plain = ViewPrompts(prior, "red", PromptSettings(negative_prompt="dog")).conditions
    assert all(c.unconditional is None for c in plain.values())
    with pytest.raises(ValueError, match="perp_neg is 0; give a finite number above 0"):
        PromptSettings(negative_prompt="dog", perp_neg=0)
