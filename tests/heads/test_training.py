"""The training scripts, for a few steps on a few heads: they learn, stop, resume and hand over ordinary models."""

import functools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, IFPipeline

from rsd.heads.attributes import ATTRIBUTES, VIEWS, caption
from rsd.heads.data import head_at, make_shard
from rsd.priors import load_prior
from scripts.heads import evaluate, features, latent, pixel
from scripts.heads.fit import cosine, fit


class Power(Exception):
    """The machine goes off."""


def run(out, off_at=None):
    """Fit a layer to the weight 3 for 300 steps, checkpointing every 20."""
    taken = 0

    def loss(model, rng, device):
        nonlocal taken
        taken += 1
        if taken == off_at:
            raise Power
        return {"error": ((model.weight - 3 + 0.1 * torch.randn(4, 2) * rng.normal()) ** 2).mean()}

    torch.manual_seed(0)
    return fit("toy", torch.nn.Linear(2, 4), loss, out=out, steps=300, lr=0.1, every=20).weight.detach()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    once = run(whole)
    with pytest.raises(Power):
        run(pieces, off_at=150)
    assert torch.load(pieces / "toy.pt", weights_only=True)["step"] == 140
    assert torch.equal(once, run(pieces))
    torch.testing.assert_close(once, torch.full((4, 2), 3.0), atol=0.2, rtol=0)


def test_the_learning_rate_warms_up_and_falls():
    assert cosine(0, 1000) == 0.01
    assert cosine(99, 1000) == 1.0
    assert cosine(550, 1000) == pytest.approx(0.505, abs=1e-3)
    assert cosine(1000, 1000) == pytest.approx(0.01)


def test_a_caption_answers_for_what_it_tells_and_nothing_else():
    head, rng = head_at("train", 3), np.random.default_rng(0)
    drawn = [latent.sample_caption(head, rng, empty=0.2) for _ in range(300)]
    assert 0.13 < np.mean([text == "" for text, _ in drawn]) < 0.27
    for text, answers in drawn:
        assert text or not answers.any()
        for attribute, options, answer in zip(ATTRIBUTES, ATTRIBUTES.values(), answers, strict=True):
            assert answer == 0 or options[answer - 1] == head[attribute]
        if answers[list(ATTRIBUTES).index("shirt")]:
            assert f"{head['shirt']} shirt" in text


def test_the_latent_pipeline_trains_and_is_an_ordinary_one(tmp_path):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4), norm_num_groups=2, latent_channels=4,
    )  # fmt: skip
    pipe = latent.train(vae.eval(), make_shard("train", 0, count=6), tmp_path, steps=2, batch=4)
    assert pipe.vae.config.scaling_factor > 0
    assert not hasattr(pipe.text_encoder, "reader")
    image = pipe("a bald man", num_inference_steps=2, height=64, width=64, output_type="np").images
    assert image.shape == (1, 64, 64, 3) and np.isfinite(image).all()


def test_pixels_are_means_of_four_and_views_come_from_everywhere():
    data = pixel.make_pixel_shard("train", 0, count=8)
    assert data["images"].shape == (8, 32, 32, 3) and data["images"].dtype == np.uint8
    large = make_shard("train", 0, count=8, view="all")["images"].astype(float)
    assert abs(data["images"][3, 5, 7] - large[3, 10:12, 14:16].mean((0, 1))).max() <= 0.5
    azimuths = data["heads"][:, len(ATTRIBUTES)]
    assert azimuths.min() < -90 and azimuths.max() > 90


def test_every_caption_fits_into_the_pixel_models_words_and_length():
    tokenizer, rng = pixel.build_tokenizer(), np.random.default_rng(0)
    lengths, views = [], []
    for k in range(200):
        head = head_at("train", k, "all")
        text, answers = pixel.sample_caption(head, rng)
        tokens = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in tokens and tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert answers[-1] == (VIEWS.index(head.camera.view) + 1 if "view" in text else 0)
        lengths.append(len(tokenizer(caption(head.values, None, head.camera.view)).input_ids))
        views.append(answers[-1])
    assert max(lengths) < pixel.LENGTH and set(views) == {0, 1, 2, 3}
    assert tokenizer.tokenize("zebra") == ["▁", "z", "e", "b", "r", "a"]


@pytest.fixture
def small_pixel_model(monkeypatch):
    monkeypatch.setattr(pixel, "build_unet", functools.partial(pixel.build_unet, (16, 16, 32)))


def test_the_pixel_pipeline_trains_resumes_and_is_an_ordinary_one(tmp_path, small_pixel_model, monkeypatch):
    data = {"images": np.full((6, 32, 32, 3), 99, np.uint8), "heads": make_shard("train", 0, count=6, size=8)["heads"]}
    monkeypatch.setattr(pixel, "fit", functools.partial(fit, every=1))
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    torch.manual_seed(0)
    once = pixel.train(data, whole, steps=2, batch=4)

    def off(text, rng):
        raise Power

    real, asked = pixel.sample_caption, []
    monkeypatch.setattr(pixel, "sample_caption", lambda *a: asked.append(1) or (off if len(asked) > 4 else real)(*a))
    torch.manual_seed(0)
    with pytest.raises(Power):
        pixel.train(data, pieces, steps=2, batch=4)
    monkeypatch.setattr(pixel, "sample_caption", real)
    again = pixel.train(data, pieces, steps=2, batch=4)
    for ours, theirs in ((once.unet, again.unet), (once.text_encoder, again.text_encoder)):
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    once.to(dtype=torch.float16).save_pretrained(tmp_path / "model")
    image = evaluate.sample(
        IFPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32),
        ["a bald man"],
        steps=2,
        clean_caption=False,
    )
    assert image.shape == (1, 32, 32, 3)
    prior = load_prior(str(tmp_path / "model"))
    assert prior.latent_shape == (3, 32, 32)
    assert prior.epsilon(torch.zeros(1, 3, 32, 32), 500, prior.condition("a bald man", guidance=2.0)).isfinite().all()


def test_dino_trains_views_of_one_size_and_its_teacher_is_an_ordinary_vit(tmp_path):
    images = torch.full((8, 3, 64, 64), 0.2)
    views = features.crops(images, np.random.default_rng(0), 32, (0.2, 0.5))
    assert views.shape == (8, 3, 32, 32)
    assert views.mean((2, 3)).std(0).min() > 0.01  # every image's own brightness
    vit = features.train(make_shard("train", 0, count=6)["images"], tmp_path, steps=2, batch=4)
    assert vit(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape == (2, 65, 128)
    assert not any(p.requires_grad for p in vit.parameters())
