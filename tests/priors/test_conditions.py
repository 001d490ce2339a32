"""Conditions that differ between particles and between steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsd.engine import distill
from rsd.memory import Memory
from rsd.priors.base import Condition
from rsd.priors.latent import LatentPrior
from rsd.randomness import Stream, noise
from rsd.reference import LoraScore, UNetScore
from rsd.spread import Spread

WORDS = ("red dog", "cat", "a red tree")


@pytest.fixture
def prior(tiny_pipeline):
    return LatentPrior(tiny_pipeline().to(torch.float64))


def each(prior, guidance=1.0, words=WORDS) -> Condition:
    """Return one condition with a prompt for each particle."""
    own = [prior.condition(word, "ugly" if guidance != 1 else "", guidance) for word in words]
    joined = {"embeddings": torch.cat([c.embeddings for c in own])}
    if guidance != 1:
        joined["negative"] = torch.cat([c.negative for c in own])
    return replace(own[0], **joined)


def test_rows():
    text, negative = torch.arange(4.0).view(4, 1, 1), torch.zeros(1, 1, 1)
    whole = Condition("a", embeddings=text, negative=negative)
    parts = [whole.rows(0, 3), whole.rows(3, 4)]
    assert [part.embeddings.flatten().tolist() for part in parts] == [[0, 1, 2], [3]]
    assert all(part.negative is negative and part.prompt == "a" for part in parts)


class Still:
    """Particles that do not move and record their conditions."""

    def __init__(self, z, memory):
        self.z, self.spread, self.told = z, Spread(range(len(z)), memory), []

    def render(self):
        return self.z

    def step(self, r, t, average):
        self.told.append(r)
        return {}


@pytest.mark.parametrize("chunk", [None, 2, 1])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_engine_asks_for_each_particle_s_own(prior, guidance, chunk):
    """The conditions may differ between steps too: the prompts of the second step are rotated."""
    still = Still(noise((4, 8, 8), seed=0, purpose="z", particles=range(3)).double(), Memory(chunk))
    order = [list(WORDS), [*WORDS[1:], WORDS[0]]]
    condition = lambda: each(prior, guidance, order[len(still.told)])  # noqa: E731
    list(distill(still, prior, timesteps=[700, 300], stream=Stream(0), condition=condition))
    for step, (t, words) in enumerate(zip((700, 300), order, strict=True)):
        eps = noise((4, 8, 8), seed=0, purpose="diffusion", step=step, particles=range(3)).double()
        z_t = prior.schedule.alpha(t) * still.z + prior.schedule.sigma(t) * eps
        for k, word in enumerate(words):
            with torch.no_grad():
                own = prior.condition(word, "ugly" if guidance != 1 else "", guidance)
                alone = prior.epsilon(z_t[k : k + 1], t, own)
            torch.testing.assert_close(still.told[step][k], alone[0] - eps[k], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [LoraScore, UNetScore])
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_learned_score_has_them_too(prior, small_networks, kind, chunk):
    """Its prediction for a particle equals that for the prompt alone, before and after it has learned."""
    z = noise((4, 8, 8), seed=0, purpose="z", particles=range(3)).double()
    score = kind(prior, lambda: each(prior), Spread(range(3), Memory(chunk)), Stream(0), lr=1e-2)
    for _ in range(2):
        together = score(z, 500, z, z)
        for k, word in enumerate(WORDS):
            score.condition, score.spread = prior.condition(word), Spread([k])
            torch.testing.assert_close(score(z[k : k + 1], 500, z, z)[0], together[k], rtol=0, atol=1e-10)
            score.condition, score.spread = lambda: each(prior), Spread(range(3), Memory(chunk))
        score.learn(z, 0)
    assert (score(z, 500, z, z) - together).abs().max() > 1e-4


def test_a_learned_score_takes_no_guidance(prior):
    score = LoraScore(prior, lambda: each(prior, 5.0), Spread(range(3)), Stream(0))
    z = torch.zeros(3, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(AssertionError, match="no guidance"):
        score(z, 500, z, z)
