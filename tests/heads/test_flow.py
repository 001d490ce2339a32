"""The flow prior's training resumes with the same data, and saves an ordinary pipeline."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTextModel

from rsd.hub import BUILT_IN
from rsd.priors import load_prior
from rsd.priors.families.load import prior_of
from scripts.heads import flow
from scripts.heads.muon import MuonAdam, orthogonal

HEADS = BUILT_IN / "latent"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Use one block, and accelerate without the precision of another test."""
    monkeypatch.setattr(flow, "LAYERS", 1)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def train(out, steps):
    out.mkdir(exist_ok=True)
    settings = {"shards": 2, "batch": 3, "count": 4, "every": 1}
    return flow.train(HEADS, out, steps, **settings).transformer.state_dict()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """A new shard appears during the training."""
    monkeypatch.setattr(flow, "STEPS_PER_SHARD", 2)
    once = train(tmp_path / "whole", 3)
    assert len(list((tmp_path / "whole" / "flow-data").iterdir())) == 2
    train(tmp_path / "pieces", 2)
    pieces = train(tmp_path / "pieces", 3)
    assert all(torch.equal(once[k], pieces[k]) for k in once)


def test_it_is_an_ordinary_pipeline_with_the_words_of_heads(tmp_path):
    pipe = flow.assemble(flow.build_transformer(), HEADS)
    words = ["a woman with a red shirt", ""]
    states, _, pooled, _ = pipe.encode_prompt(
        words, None, None, do_classifier_free_guidance=False, max_sequence_length=0
    )
    own, own_pooled = flow.embed(pipe, words)
    assert torch.equal(states, own) and torch.equal(pooled, own_pooled)
    heads = CLIPTextModel.from_pretrained(HEADS / "text_encoder", dtype=torch.float32)
    tokens = pipe.tokenizer(words, padding="max_length", max_length=flow.LENGTH, return_tensors="pt").input_ids
    expected = heads(tokens)
    norm = next(m for name, m in heads.named_modules() if name.endswith("final_layer_norm"))
    torch.testing.assert_close(norm(states[..., : flow.WIDTH]), expected.last_hidden_state)
    torch.testing.assert_close(pooled[:, : flow.WIDTH], expected.pooler_output)
    assert not states[..., flow.WIDTH :].any() and not pooled[:, flow.WIDTH :].any()
    pipe.save_pretrained(tmp_path)
    again = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    made = again("a man", num_inference_steps=1, height=64, width=64, output_type="np", max_sequence_length=0).images
    assert made.shape == (1, 64, 64, 3)


@torch.no_grad()
def test_the_sd3_loader_takes_it_and_its_latents_are_those_of_heads(tmp_path):
    pipe = flow.assemble(flow.build_transformer(), HEADS)
    prior, heads = prior_of(pipe), load_prior("heads")
    assert prior.latent_shape == heads.latent_shape and prior.image_size == heads.image_size
    assert prior.condition("a bald man").embeddings.shape == (1, flow.LENGTH, flow.WIDTH + flow.SILENT)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(prior.encode(x), heads.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.decode(prior.encode(x)), heads.decode(heads.encode(x)), rtol=0, atol=1e-5)


def test_an_untrained_flow_predicts_nothing_and_times_are_within_0_and_1():
    transformer = flow.build_transformer()
    z, text = torch.randn(2, 4, 16, 16), torch.randn(2, 5, flow.WIDTH + flow.SILENT)
    assert not transformer(z, text, text[:, 0], torch.tensor([10.0, 900.0])).sample.any()
    torch.manual_seed(0)
    s = flow.sample_times(10_000)
    assert s.min() >= 0 and s.max() <= 1 and abs(float(s.median()) - 0.5) < 0.02
    assert 0.005 < float((s > 0.95).float().mean()) < 0.02  # of the logit-normal 0.2%, of the uniform 0.5%


def test_an_orthogonal_update_has_singular_values_about_1():
    for shape in ((20, 20), (8, 40), (40, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 6))
        assert values.min() > 0.6 and values.max() < 1.3


def test_muon_and_adam_find_the_minimum_and_resume_exactly():
    def start():
        torch.manual_seed(0)
        matrix, vector = torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))
        return matrix, vector, MuonAdam([matrix], [vector], 0.03, weight_decay=0.0)

    def steps(matrix, vector, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            ((matrix - 1) ** 2).sum().add(((vector + 2) ** 2).sum()).backward()
            optimiser.step()

    matrix, vector, optimiser = start()
    for lr in (0.1, 0.01, 0.001):  # a step of Muon has one size, however near the minimum is
        for group in optimiser.param_groups:
            group["lr"] = lr
        steps(matrix, vector, optimiser, 200)
    torch.testing.assert_close(matrix.detach(), torch.ones(4, 3), rtol=0, atol=0.1)
    torch.testing.assert_close(vector.detach(), torch.full((3,), -2.0), rtol=0, atol=0.1)
    other = start()
    with torch.no_grad():
        other[0].copy_(matrix)
        other[1].copy_(vector)
    other[2].load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(matrix, vector, optimiser, 3)
    steps(*other, 3)
    assert torch.equal(matrix, other[0]) and torch.equal(vector, other[1])
