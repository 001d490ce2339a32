"""The flow prior's training resumes with the same data, and saves an ordinary pipeline."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTextModel

from rsd.heads.data import make_shard
from rsd.hub import BUILT_IN
from rsd.priors import load_prior
from rsd.priors.families.load import prior_of
from scripts.heads import errors
from scripts.heads.flow import data, network, words
from scripts.heads.flow.train import export, train
from scripts.heads.muon import MuonAdam, orthogonal

HEADS = BUILT_IN / "latent"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Use two blocks, and accelerate without the precision of another test."""
    monkeypatch.setattr(network, "LAYERS", 2)
    monkeypatch.setattr(network, "CHANNELS", 32)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def trained(out, steps):
    out.mkdir(exist_ok=True)
    pipe = train(HEADS, out, steps, shards=2, batch=4, count=2, every=1, word_steps=2, held=4)
    return {**pipe.transformer.state_dict(), **pipe.text_encoder.state_dict()}


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """A new shard appears during the training."""
    monkeypatch.setattr(data, "FIRST_SHARDS", 1)
    monkeypatch.setattr(data, "STEPS_PER_SHARD", 2)
    once = trained(tmp_path / "whole", 3)
    assert len(list((tmp_path / "whole" / "flow-data").iterdir())) == 2
    trained(tmp_path / "pieces", 2)
    pieces = trained(tmp_path / "pieces", 3)
    assert all(torch.equal(once[k], pieces[k]) for k in once)
    exported, step = export(HEADS, tmp_path / "pieces", 2)
    assert step == 3
    assert all(torch.equal(v, once[k]) for k, v in exported.transformer.state_dict().items())
    assert not exported.transformer.context_embedder.weight.any() and once["proj_out.weight"].any()


def test_one_text_token_stands_for_all_that_the_pipeline_gives():
    torch.manual_seed(0)
    transformer = network.build_transformer().eval()
    with torch.no_grad():
        for value in transformer.parameters():
            if value is not transformer.context_embedder.weight:
                value.add_(0.2 * torch.randn_like(value))
    z, s, pooled = torch.randn(2, 4, 16, 16), torch.tensor([0.1, 0.9]), torch.randn(2, network.WIDTH)
    text = torch.randn(2, network.LENGTH, network.WIDTH + network.SILENT)
    whole = transformer(z, text, torch.nn.functional.pad(pooled, (0, network.SILENT)), 1000 * s).sample
    network.one_token(transformer)
    one = network.velocity(transformer, z, s, pooled)
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-5)
    assert (one - network.velocity(transformer, z, s, 2 * pooled)).abs().max() > 0.01
    network.one_token(transformer, False)
    assert torch.equal(
        transformer(z, text, torch.nn.functional.pad(pooled, (0, network.SILENT)), 1000 * s).sample, whole
    )


@torch.no_grad()
def test_the_teacher_predicts_the_velocity_that_heads_implies():
    """It is that of the loaded prior, and at the ends of the schedule that of the nearest timestep's estimate."""
    teacher, heads = data.Teacher(HEADS), load_prior("heads")
    words_ = ["a woman with a red shirt", "", "a bald man"]
    z, eps = (torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(2))
    t = torch.tensor([100, 500, 999])
    s = teacher.levels[t]
    assert 0.02 < float(teacher.levels[0]) < 0.04 and 0.93 < float(teacher.levels[-1]) < 0.94
    v = teacher.velocity(z, eps, s, words_)
    for k in range(3):
        alpha, sigma = heads.schedule.alpha(int(t[k])), heads.schedule.sigma(int(t[k]))
        z_t = alpha * z[k : k + 1] + sigma * eps[k : k + 1]
        guess = heads.epsilon(z_t, int(t[k]), heads.condition(words_[k]))
        clean = (z_t - sigma * guess) / alpha
        torch.testing.assert_close(v[k : k + 1], guess - clean, rtol=1e-3, atol=1e-3)
    noisy = teacher.velocity(z, eps, torch.ones(3), words_)
    at_last = teacher.velocity(z, eps, teacher.levels[-1:].expand(3), words_)
    s_last = float(teacher.levels[-1])
    torch.testing.assert_close(eps - noisy, torch.lerp(z, eps, s_last) - s_last * at_last, rtol=1e-3, atol=1e-3)


def test_a_batch_mixes_the_targets_of_the_teacher_and_of_the_flow(tmp_path):
    encoder = network.text_encoder_of(CLIPTextModel.from_pretrained(HEADS / "text_encoder", dtype=torch.float32))
    shards = data.Shards(HEADS, encoder, tmp_path, 1, count=2)
    shards.at(0)
    part = shards.parts[0]
    assert part["velocity"].shape == (2, data.EACH, 4, 16, 16) and part["pooled"].shape == (2, data.EACH, 128)
    assert abs(float(part["latents"].float().std()) - 1) < 0.4
    rng = np.random.default_rng(0)
    z_s, s, pooled, v = shards.draw(rng, 8)
    rng = np.random.default_rng(0)
    rows, which = rng.integers(2, size=8), rng.integers(data.EACH, size=8)
    k, j = int(rows[0]), int(which[0])
    eps = data.noise(k * data.EACH + j)
    assert torch.equal(v[0], part["velocity"][k, j].float()) and torch.equal(pooled[0], part["pooled"][k, j].float())
    torch.testing.assert_close(z_s[0], torch.lerp(part["latents"][k].float(), eps, float(s[0])))
    z = part["latents"][int(rows[7])].float()
    torch.testing.assert_close(z_s[7] - float(s[7]) * v[7], z, rtol=0, atol=1e-5)


def test_the_trained_layer_changes_only_the_pooled_state(tmp_path):
    heads = network.text_encoder_of(CLIPTextModel.from_pretrained(HEADS / "text_encoder", dtype=torch.float32))
    learnt = words.train(HEADS, tmp_path, 2, size=4, held=4)
    texts = ["a woman with a red shirt, back view", "a man"]
    pipes = [network.assemble(network.build_transformer(), HEADS, encoder) for encoder in (heads, learnt)]
    (states, pooled), (theirs, other) = (network.embed(pipe, texts) for pipe in pipes)
    assert torch.equal(states, theirs) and not torch.equal(pooled, other)
    short = network.pooled_states(learnt, pipes[0].tokenizer, texts)
    torch.testing.assert_close(short, other[:, : network.WIDTH], rtol=1e-4, atol=1e-5)


def test_it_is_an_ordinary_pipeline_with_the_words_of_heads(tmp_path):
    pipe = network.assemble(network.build_transformer(), HEADS)
    words = ["a woman with a red shirt", ""]
    states, _, pooled, _ = pipe.encode_prompt(
        words, None, None, do_classifier_free_guidance=False, max_sequence_length=0
    )
    own, own_pooled = network.embed(pipe, words)
    assert torch.equal(states, own) and torch.equal(pooled, own_pooled)
    heads = CLIPTextModel.from_pretrained(HEADS / "text_encoder", dtype=torch.float32)
    tokens = pipe.tokenizer(words, padding="max_length", max_length=network.LENGTH, return_tensors="pt").input_ids
    expected = heads(tokens)
    norm = next(m for name, m in heads.named_modules() if name.endswith("final_layer_norm"))
    torch.testing.assert_close(norm(states[..., : network.WIDTH]), expected.last_hidden_state)
    torch.testing.assert_close(pooled[:, : network.WIDTH], expected.pooler_output)
    assert not states[..., network.WIDTH :].any() and not pooled[:, network.WIDTH :].any()
    pipe.save_pretrained(tmp_path)
    again = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    made = again("a man", num_inference_steps=1, height=64, width=64, output_type="np", max_sequence_length=0).images
    assert made.shape == (1, 64, 64, 3)


@torch.no_grad()
def test_the_sd3_loader_takes_it_and_its_latents_are_those_of_heads(tmp_path):
    pipe = network.assemble(network.build_transformer(), HEADS)
    prior, heads = prior_of(pipe), load_prior("heads")
    assert prior.latent_shape == heads.latent_shape and prior.image_size == heads.image_size
    assert prior.condition("a bald man").embeddings.shape == (1, network.LENGTH, network.WIDTH + network.SILENT)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(prior.encode(x), heads.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.decode(prior.encode(x)), heads.decode(heads.encode(x)), rtol=0, atol=1e-5)


def test_an_untrained_flow_predicts_nothing_and_times_are_within_0_and_1():
    transformer = network.build_transformer()
    z, text = torch.randn(2, 4, 16, 16), torch.randn(2, 5, network.WIDTH + network.SILENT)
    assert not transformer(z, text, text[:, 0], torch.tensor([10.0, 900.0])).sample.any()
    torch.manual_seed(0)
    s = data.sample_times(10_000)
    middle = 1 / (1 + math.exp(-data.LOW))  # of the logit-normal; the uniform fifth moves it towards 0.5
    assert s.min() >= 0 and s.max() <= 1 and middle < float(s.median()) < middle + 0.25 * (0.5 - middle) + 0.01
    assert 0.008 < float((s > 0.95).float().mean()) < 0.015  # of the uniform 1%, of the logit-normal next to none


def test_weights_with_fewer_blocks_start_as_what_they_were(tmp_path, monkeypatch):
    """New blocks are the identity, before the last one; fewer blocks than the weights have are an error."""
    torch.manual_seed(0)
    small = network.build_transformer().eval()
    with torch.no_grad():
        for value in small.parameters():
            value.add_(0.1 * torch.randn_like(value))
    small.save_pretrained(tmp_path / "init" / "transformer")
    z, s, text = (
        torch.randn(2, 4, 16, 16),
        torch.tensor([200.0, 700.0]),
        torch.randn(2, 5, network.WIDTH + network.SILENT),
    )
    monkeypatch.setattr(network, "LAYERS", 4)
    large = network.build_transformer().eval()
    network.start_from(large, tmp_path / "init" / "transformer")
    torch.testing.assert_close(large(z, text, text[:, 0], s).sample, small(z, text, text[:, 0], s).sample)
    monkeypatch.setattr(network, "LAYERS", 1)
    with pytest.raises(ValueError, match="has 2 blocks, and the flow prior 1; take weights with fewer"):
        network.start_from(network.build_transformer(), tmp_path / "init" / "transformer")


def test_a_run_can_begin_with_a_flow_prior_and_takes_its_text_encoder(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    made = train(HEADS, first, 1, shards=1, batch=2, count=2, word_steps=2, held=4)
    made.save_pretrained(tmp_path / "made")
    begun = train(HEADS, tmp_path, 0, shards=1, batch=2, count=2, init=tmp_path / "made")
    for part in ("transformer", "text_encoder"):
        theirs = getattr(made, part).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in getattr(begun, part).state_dict().items())
    assert not (tmp_path / "flow-words.pt").exists()


def test_an_orthogonal_update_has_singular_values_about_1():
    for shape in ((20, 20), (8, 40), (40, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 6))
        assert values.min() > 0.6 and values.max() < 1.3


def test_muon_takes_a_convolution_as_a_matrix_of_outputs_by_all_else():
    torch.manual_seed(0)
    weight, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    updated = []
    for shape in (weight.shape, (6, 36)):
        p = torch.nn.Parameter(weight.reshape(shape).clone())
        p.grad = gradient.reshape(shape).contiguous()
        MuonAdam([p], [], 0.1).step()
        updated.append(p.detach().reshape(6, 36))
    assert torch.equal(*updated) and not torch.equal(updated[0], weight.view(6, 36))


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


def test_errors_of_an_untrained_flow_are_those_of_the_noisy_latents():
    """v = 0 leaves z_s, whose error is that of s (eps - z); `heads` has far less."""
    pipe = network.assemble(network.build_transformer(), HEADS)
    found = errors.flow_errors(HEADS, pipe, count=3, ratios=(0.2, 1))
    z = pipe.vae.config.scaling_factor * data.encode(pipe.vae, make_shard("validation", 0, 3)["images"])
    generator = torch.Generator().manual_seed(0)
    for k, ratio in enumerate((0.2, 1)):
        s = ratio / (1 + ratio)
        expected = (s * (torch.randn(z.shape, generator=generator) - z)).square().mean()
        assert found["flow"][k] == pytest.approx(float(expected), rel=0.02)  # s is that of the nearest timestep
        assert found["heads"][k] < 0.4 * found["flow"][k]
        assert found["flow / heads"][k] == pytest.approx(found["flow"][k] / found["heads"][k])
