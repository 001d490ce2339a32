"""Pixel priors against the pipelines that they load: tiny random ones of DeepFloyd IF's and DDPM's classes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    IFPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from rsd.priors import image_size, load_prior, t5
from rsd.priors.pixel import PixelPrior
from rsd.schedule import Schedule

TYPES = ["epsilon", "v_prediction"]
WORDS = ("red", "dog", "blue", "y")


def build_if(prediction_type: str = "epsilon", channels: int = 6, **scheduler) -> IFPipeline:
    """Return a random IFPipeline for 16 px with IF's kinds of blocks and text projections, and a learned variance."""
    torch.manual_seed(0)
    letters = [(c, -8.0) for c in "abcdefghijklmnopqrstuvwxyz"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *(("▁" + w, -2.0) for w in WORDS), ("▁", -3.0), *letters]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=77)
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=3, out_channels=channels, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=16,
        norm_num_groups=8, encoder_hid_dim=16, encoder_hid_dim_type="text_proj", addition_embed_type="text",
        addition_embed_type_num_heads=2, attention_head_dim=8, act_fn="gelu", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
    settings = {
        "beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range", "thresholding": True,
        "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5, "prediction_type": prediction_type, **scheduler,
    }  # fmt: skip
    return IFPipeline(
        tokenizer, text_encoder.eval(), unet.eval(), DDPMScheduler(**settings), None, None, None,
        requires_safety_checker=False,
    )  # fmt: skip


def build_ddpm(prediction_type: str = "epsilon") -> DDPMPipeline:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return DDPMPipeline(unet.eval(), DDPMScheduler(prediction_type=prediction_type))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Callable[..., Path]:
    """``folder(build_if, "epsilon")``: where such a pipeline is saved. Read it only: it is shared."""

    @functools.cache
    def saved(build, *arguments) -> Path:
        path = tmp_path_factory.mktemp("pixels") / "model"
        build(*arguments).save_pretrained(path)
        return path

    return saved


def pixels(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("kind", TYPES)
def test_epsilon_is_the_if_pipelines_own_unet_call_without_its_variance(kind, folder):
    pipe, prior = build_if(kind), load_prior(str(folder(build_if, kind)))
    z, t = pixels(), 400
    text, _ = pipe.encode_prompt("Red dog ", False, device="cpu")
    own = pipe.unet(z, t, encoder_hidden_states=text.expand(2, -1, -1)).sample[:, :3]
    abar = pipe.scheduler.alphas_cumprod[t]
    expected = own if kind == "epsilon" else abar.sqrt() * own + (1 - abar).sqrt() * z
    torch.testing.assert_close(prior.epsilon(z, t, prior.condition("Red dog ")), expected, rtol=0, atol=1e-6)
    assert (prior.latent_shape, prior.image_size, prior.dtype) == ((3, 16, 16), 16, torch.float32)
    assert image_size(str(folder(build_if, kind))) == 16


@torch.no_grad()
@pytest.mark.parametrize("kind", TYPES)
def test_epsilon_is_the_ddpm_pipelines_own_unet_call(kind, folder):
    pipe, prior = build_ddpm(kind), load_prior(str(folder(build_ddpm, kind)))
    z, t = pixels(), torch.tensor([100, 700])
    own = pipe.unet(z, t).sample
    abar = pipe.scheduler.alphas_cumprod[t].view(2, 1, 1, 1)
    expected = own if kind == "epsilon" else abar.sqrt() * own + (1 - abar).sqrt() * z
    torch.testing.assert_close(prior.epsilon(z, t), expected, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match='has no text: "a dog" has no effect'):
        told = prior.condition("a dog", guidance=7.0)
    assert torch.equal(prior.epsilon(z, t, told), prior.epsilon(z, t))
    prior.release_text_encoder()
    assert prior.calls["unet_forward"] == 6


@torch.no_grad()
def test_guidance_is_uncond_plus_s_times_text_minus_uncond_and_a_timestep_for_each(folder):
    prior, z = load_prior(str(folder(build_if))), pixels()
    text, uncond = (prior.epsilon(z, 300, prior.condition(p)) for p in ("red", "dog"))
    got = prior.epsilon(z, 300, prior.condition("red", "dog", 7.5))
    torch.testing.assert_close(got, uncond + 7.5 * (text - uncond), rtol=0, atol=5e-5)
    assert (text - uncond).abs().max() > 1e-3
    assert torch.equal(prior.epsilon(z, 7), prior.epsilon(z, 7, prior.condition("")))
    c = prior.condition("red", "", 3.0)
    alone = torch.cat([prior.epsilon(z[k : k + 1], t, c) for k, t in enumerate((0, 999))])
    torch.testing.assert_close(prior.epsilon(z, torch.tensor([0, 999]), c), alone, rtol=0, atol=3e-5)
    with pytest.warns(UserWarning, match="no effect without guidance"):
        assert prior.condition("red", "dog").negative is None


@pytest.mark.parametrize("kind", TYPES)
def test_ddim_on_our_prior_gives_the_images_of_if_pipeline(kind, folder):
    """A separate sampler that uses only epsilon, with the pipeline's clipping of the estimate. In float64, since this
    random UNet with guidance amplifies differences at the start by 10^5."""
    pipe = build_if(kind, 6, variance_type="fixed_small").to(torch.float64)
    prior = load_prior(str(folder(build_if, kind)), dtype="float64")
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, beta_schedule="linear", thresholding=False, clip_sample=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
    prior.schedule = Schedule.vp(pipe.scheduler.alphas_cumprod)
    theirs = pipe(
        ["red dog"] * 2, negative_prompt=["blue"] * 2, guidance_scale=5.0, num_inference_steps=10, output_type="pt",
        generator=torch.Generator().manual_seed(3), clean_caption=False,
    ).images  # fmt: skip
    z, c = (
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
        prior.condition("red dog", "blue", 5.0),
    )
    for t in pipe.scheduler.timesteps.tolist():
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        before = prior.schedule.alpha(t - 100) ** 2 if t >= 100 else 1.0
        with torch.no_grad():
            eps = prior.epsilon(z, t, c)
        z = before**0.5 * ((z - sigma * eps) / alpha).clamp(-1, 1) + (1 - before) ** 0.5 * eps
    torch.testing.assert_close(prior.decode(z), theirs, rtol=0, atol=1e-7)
    assert theirs.std() > 0.02 and (theirs[0] - theirs[1]).abs().mean() > 0.005


def test_ddpm_on_our_prior_gives_the_images_of_ddpm_pipeline(folder):
    """Ho et al. 2020, Algorithm 2, with the clipped estimate (Eq. 7's mean) and the posterior's variance."""
    pipe, prior = build_ddpm(), load_prior(str(folder(build_ddpm)))
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(2, torch.Generator().manual_seed(3), num_inference_steps=10, output_type="pt").images
    random = torch.Generator().manual_seed(3)
    z = torch.randn(2, 3, 16, 16, generator=random)
    for t in pipe.scheduler.timesteps.tolist():
        abar = prior.schedule.alpha(t) ** 2
        before = prior.schedule.alpha(t - 100) ** 2 if t >= 100 else 1.0
        with torch.no_grad():
            clean = ((z - prior.schedule.sigma(t) * prior.epsilon(z, t)) / prior.schedule.alpha(t)).clamp(-1, 1)
        a = abar / before
        z = (before**0.5 * (1 - a) * clean + a**0.5 * (1 - before) * z) / (1 - abar)
        if t:
            variance = max((1 - before) / (1 - abar) * (1 - a), 1e-20)
            z = z + variance**0.5 * torch.randn(2, 3, 16, 16, generator=random)
    torch.testing.assert_close((z / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=1e-4)
    assert theirs.std() > 0.02


@torch.no_grad()
@pytest.mark.parametrize("kind", TYPES)
def test_the_guess_is_thresholded_as_by_diffusers(kind, folder):
    """Its scheduler clips if it has no bound for the divisor; an estimate within [-1, 1] does not change."""
    prior, z = load_prior(str(folder(build_if, kind))), pixels()
    c = prior.condition("red", "", 5.0)
    for t, beyond in ((700, True), (100, False)):
        z_t = z if beyond else 0.2 * z
        plain, cut = prior.epsilon(z_t, t, c), prior.epsilon(z_t, t, dataclasses.replace(c, threshold=0.9))
        abar = (prior.schedule.alphas[t] ** 2).float()
        x, got = ((z_t - (1 - abar).sqrt() * eps) / abar.sqrt() for eps in (plain, cut))
        scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e9)
        torch.testing.assert_close(got, scheduler._threshold_sample(x), rtol=0, atol=2e-5)
        assert (bool(x.abs().max() > 1.5), bool((got - x).abs().max() > 0.1)) == (beyond, beyond)


def test_pixels_are_their_own_latents_and_the_weights_are_frozen(folder):
    prior, z = load_prior(str(folder(build_ddpm))), pixels().requires_grad_()
    assert prior.decode(prior.encode(z)) is z
    assert not prior.unet.training and not any(p.requires_grad for p in prior.unet.parameters())
    (slope,) = torch.autograd.grad(prior.epsilon(z, 500).sum(), z)
    assert slope.abs().max() > 0


@torch.no_grad()
def test_half_precision_keeps_the_particles_in_float32(folder):
    path = str(folder(build_if))
    full, half = (load_prior(path, dtype=d) for d in ("float32", "bfloat16"))
    got = half.epsilon(pixels(), 500, half.condition("red", "", 2.0))
    assert half.unet.dtype == torch.bfloat16 and half.dtype == got.dtype == torch.float32
    torch.testing.assert_close(got, full.epsilon(pixels(), 500, full.condition("red", "", 2.0)), rtol=0, atol=0.1)
    double = load_prior(path, dtype="float64")
    assert double.epsilon(pixels().double(), 5).dtype == double.dtype == torch.float64


def test_embeddings_are_the_pipelines_and_the_encoder_is_loaded_late_and_released(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))  # where nothing is kept yet
    pipe, prior = build_if(), load_prior(str(folder(build_if)))
    assert not prior.text.loaded
    text, negative = pipe.encode_prompt("red", True, 1, "cpu", "dog")
    condition = prior.condition("red", "dog", 2.0)
    assert torch.equal(condition.embeddings, text) and torch.equal(condition.negative, negative)
    assert prior.text.loaded and text.shape == (1, 77, 16)
    prior.release_text_encoder()
    assert prior.epsilon(pixels(), 3).shape == (2, 3, 16, 16) and not prior.text.loaded  # no condition: ""
    assert torch.equal(PixelPrior.from_pipeline(pipe).condition("red").embeddings, text)


def no_encoder():
    raise AssertionError("the encoder was loaded")


def test_a_hub_models_embeddings_are_kept_on_disk(hub_cache, folder, monkeypatch):
    shutil.rmtree(Path(os.environ["HF_HOME"]) / "rsd", ignore_errors=True)
    commit = hub_cache("owner/pixels", folder(build_if))
    prior = load_prior("owner/pixels")
    first = prior.condition("Red dog", guidance=2.0)
    assert prior.revision == commit and prior.text.cache.parent.name == commit
    assert len(list(prior.text.cache.iterdir())) == 2  # the prompt and the empty one
    again = load_prior("owner/pixels")
    again.text._load = no_encoder
    second = again.condition("red dog", guidance=2.0)
    assert torch.equal(first.embeddings, second.embeddings) and torch.equal(first.negative, second.negative)
    with pytest.raises(AssertionError, match="was loaded"):
        again.condition("blue dog")
    assert load_prior("owner/pixels", dtype="bfloat16").text.cache != prior.text.cache  # another precision's


def test_a_folder_s_embeddings_are_kept_while_its_text_encoder_stays(folder, tmp_path):
    path = Path(shutil.copytree(folder(build_if), tmp_path / "model"))
    first = load_prior(str(path)).condition("red dog")
    again = load_prior(f"{path}/../model")  # the same folder by another name
    again.text._load = no_encoder
    assert torch.equal(again.condition("red dog").embeddings, first.embeddings)
    os.utime(path / "unet" / "config.json", (0, 0))
    caches = [again.text.cache, load_prior(str(path)).text.cache]
    weights, config = (path / "text_encoder" / name for name in ("model.safetensors", "config.json"))
    for change in (
        lambda: os.utime(weights, (0, 0)),
        lambda: config.write_text(config.read_text() + "\n"),
        lambda: (path / "text_encoder" / "more.safetensors").touch(),
        lambda: os.utime(next((path / "tokenizer").glob("*")), (0, 0)),
        lambda: path.rename(tmp_path / "moved"),
    ):
        change()
        caches.append(load_prior(str(next(tmp_path.iterdir()))).text.cache)
    assert caches[0] == caches[1] and len(set(caches[1:])) == 6
    assert load_prior(str(tmp_path / "moved"), dtype="bfloat16").text.cache not in caches


def test_built_in_embeddings_are_not_kept(heads_pixels):
    assert load_prior("heads-pixels").text.cache is None


def test_a_cached_long_prompt_warns_again_and_a_broken_file_is_replaced(tmp_path):
    pipe = build_if()
    make = lambda: t5.T5Embedder(lambda: (pipe.tokenizer, pipe.text_encoder), cache=tmp_path)  # noqa: E731
    for _ in range(2):
        with pytest.warns(UserWarning, match='longer than 77 tokens; this was cut off: "blue dog"'):
            long = make()("red " * 76 + "blue dog")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(make()("red " * 76), long)
        whole = make()("dog")
        for file in tmp_path.iterdir():
            file.write_bytes(b"broken")
        assert torch.equal(make()("dog"), whole)
    again = make()
    again._load = no_encoder
    assert torch.equal(again("dog"), whole)  # written anew


def test_embeddings_that_cannot_be_kept_are_made_each_time(tmp_path):
    pipe = build_if()
    (tmp_path / "file").touch()
    embed = t5.T5Embedder(lambda: (pipe.tokenizer, pipe.text_encoder), cache=tmp_path / "file" / "inside")
    assert embed("red").shape == (1, 77, 16)


def test_a_gated_model_is_reported_with_the_licence_step(monkeypatch):
    response = SimpleNamespace(status_code=403, headers={}, request=None)

    def refuse(*arguments, **options):
        raise huggingface_hub.errors.GatedRepoError("two\nlines", response=response)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(ValueError) as caught:
        load_prior("DeepFloyd/IF-I-XL-v1.0")
    page = "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0"
    assert str(caught.value) == (
        f'The prior "DeepFloyd/IF-I-XL-v1.0" is gated: accept its licence at {page}, then run "hf auth login".'
    )


@torch.no_grad()
def test_in_half_precision_the_fp16_files_are_enough(folder, tmp_path):
    """IF's full-precision files are twice as large: they need not be there."""
    build_if().to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    prior = load_prior(str(tmp_path), dtype="bfloat16")
    assert prior.condition("red").embeddings.dtype == prior.unet.dtype == torch.bfloat16
    with pytest.warns(UserWarning, match='only variants of its weights; using "fp16"'):
        assert load_prior(str(tmp_path)).unet.dtype == torch.float32


def edit(folder: Path, to: Path, file: str, **changes) -> str:
    shutil.copytree(folder, to)
    path = to / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(to)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("model_index.json", {"_class_name": "IFSuperResolutionPipeline"}, "must be one of StableDiffusionPip.* IFPip"),
        ("model_index.json", {"text_encoder": [None, None]}, "is a None.None; it must be a T5EncoderModel"),
        ("model_index.json", {"unet": ["evil", "UNet2DConditionModel"]}, "is an evil.UNet2DConditionModel"),
        ("model_index.json", {"scheduler": ["diffusers", "NoScheduler"]}, "NoScheduler, is not in diffusers"),
        ("model_index.json", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "no cumulative alphas"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, 'predicts "sample"; only epsilon'),
    ],
)  # fmt: skip
def test_other_kinds_are_refused(file, changes, says, folder, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        load_prior(edit(folder(build_if), tmp_path / "m", file, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"in_channels": 6}, "takes 6 channels; it must take 3"),
        ({"out_channels": 4}, "gives 4 channels; it must give 3, or 6"),
        ({"sample_size": [16, 8]}, "works on 16 x 8, but only square images"),
    ],
)
def test_other_unets_are_refused(changes, says):
    pipe = build_if()
    pipe.unet.register_to_config(**changes)
    with pytest.raises(ValueError, match=says):
        PixelPrior.from_pipeline(pipe)


def test_a_missing_text_encoder_is_reported_when_a_prompt_needs_it(folder, tmp_path):
    path = shutil.copytree(folder(build_if), tmp_path / "m")
    shutil.rmtree(path / "text_encoder")
    prior = load_prior(str(path))
    with pytest.raises(ValueError, match="did not load") as caught:
        prior.condition("red")
    assert "\n" not in str(caught.value)
