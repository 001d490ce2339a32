from __future__ import annotations

import warnings

import pytest
import torch

from rsd.priors import load_prior
from rsd.priors.latent import LatentPrior

TYPES = ["epsilon", "v_prediction"]


def latents(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=TYPES)
def prior(request, tiny_folder) -> LatentPrior:
    return load_prior(str(tiny_folder(request.param)))


@pytest.mark.parametrize("kind", TYPES)
def test_epsilon_is_the_pipelines_own_unet_call(kind, tiny_pipeline, tiny_folder):
    """The pipeline in memory and the one loaded by name have the same weights, so they must agree to the bit."""
    pipe, prior = tiny_pipeline(kind), load_prior(str(tiny_folder(kind)))
    z, t = latents(), 400
    text, _ = pipe.encode_prompt("red dog", "cpu", 1, False)
    with torch.no_grad():
        own = pipe.unet(z, t, encoder_hidden_states=text.expand(2, -1, -1)).sample
        got = prior.epsilon(z, t, prior.condition("red dog"))
    abar = pipe.scheduler.alphas_cumprod[t]
    expected = own if kind == "epsilon" else abar.sqrt() * own + (1 - abar).sqrt() * z
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert (expected - own).abs().max() > 0.1 or kind == "epsilon"


def test_v_conversion_recovers_the_noise_of_a_perfect_v_model(tiny_pipeline):
    """v = alpha eps - sigma z (Salimans & Ho 2022): a network that knows z and eps must give eps back."""
    prior = LatentPrior(tiny_pipeline("v_prediction"))
    z, eps, t = latents(seed=1), latents(seed=2), torch.tensor([10, 900])
    s = prior.schedule
    alpha, sigma = (torch.tensor([f(10), f(900)]).view(2, 1, 1, 1) for f in (s.alpha, s.sigma))
    prior._predict = lambda z_t, t, texts, pose: alpha * eps - sigma * z
    torch.testing.assert_close(prior.epsilon(alpha * z + sigma * eps, t), eps, rtol=0, atol=1e-6)


@torch.no_grad()
def test_guidance_is_uncond_plus_s_times_text_minus_uncond(prior):
    z = latents()
    text, uncond = (prior.epsilon(z, 300, prior.condition(p)) for p in ("red", "dog"))
    got = prior.epsilon(z, 300, prior.condition("red", "dog", 7.5))
    torch.testing.assert_close(got, uncond + 7.5 * (text - uncond), rtol=0, atol=1e-5)
    assert (text - uncond).abs().max() > 1e-4


@torch.no_grad()
def test_no_condition_is_the_empty_prompt_in_one_call(prior):
    z = latents()
    assert torch.equal(prior.epsilon(z, 7), prior.epsilon(z, 7, prior.condition("")))
    assert prior.calls["unet_forward"] == 4


@torch.no_grad()
def test_a_timestep_for_each_latent(prior):
    z, c = latents(), prior.condition("red", "", 3.0)
    one_by_one = torch.cat([prior.epsilon(z[k : k + 1], t, c) for k, t in enumerate((0, 999))])
    torch.testing.assert_close(prior.epsilon(z, torch.tensor([0, 999]), c), one_by_one, rtol=0, atol=1e-5)


@torch.no_grad()
def test_network_passes_are_counted_by_image(prior):
    prior.epsilon(latents(3), 5)
    prior.epsilon(latents(3), 5, prior.condition("a", "", 2.0))
    prior.encode(prior.decode(latents(2)))
    assert dict(prior.calls) == {"unet_forward": 9, "decoder_forward": 2, "encoder_forward": 2}


@torch.no_grad()
def ddim(prior: LatentPrior, z: torch.Tensor, timesteps: list[int], last_abar: float, condition) -> torch.Tensor:
    """DDIM (Song et al. 2021, Eq. 12, eta 0) on epsilon alone; returns images [B, 3, H, W]."""
    stride = timesteps[0] - timesteps[1]
    for t in timesteps:
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        before = prior.schedule.alpha(t - stride) ** 2 if t >= stride else last_abar
        eps = prior.epsilon(z, t, condition)
        z = before**0.5 * (z - sigma * eps) / alpha + (1 - before) ** 0.5 * eps
    return prior.decode(z)


@pytest.mark.parametrize("kind", TYPES)
def test_ddim_on_our_prior_gives_the_images_of_diffusers_pipeline(kind, tiny_pipeline, tiny_folder):
    pipe, prior = tiny_pipeline(kind), load_prior(str(tiny_folder(kind)))
    pipe.set_progress_bar_config(disable=True)
    start = latents()
    theirs = pipe(
        ["red dog"] * 2, negative_prompt=["blue"] * 2, guidance_scale=5.0, num_inference_steps=20,
        latents=start.clone(), output_type="pt",
    ).images  # fmt: skip
    steps = pipe.scheduler.timesteps.tolist()
    assert len(steps) == 20
    ours = ddim(prior, start, steps, float(pipe.scheduler.final_alpha_cumprod), prior.condition("red dog", "blue", 5.0))
    torch.testing.assert_close(((ours + 1) / 2).clamp(0, 1), theirs, rtol=0, atol=1e-4)
    assert theirs.std() > 0.02 and (theirs[0] - theirs[1]).abs().mean() > 0.005


@torch.no_grad()
def test_encode_and_decode_apply_the_scaling_factor(tiny_pipeline):
    pipe = tiny_pipeline()
    prior = LatentPrior(pipe)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(prior.encode(x), 0.5 * pipe.vae.encode(x).latent_dist.mean, rtol=0, atol=1e-6)
    z = latents()
    torch.testing.assert_close(prior.decode(z), pipe.vae.decode(2 * z).sample, rtol=0, atol=1e-6)
    assert prior.decode(z).shape == (2, 3, 16, 16)
    assert prior.latent_shape == (4, 8, 8) and prior.image_size == 16


def test_decode_is_differentiable_and_the_weights_are_frozen(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline().to(torch.float64))
    assert prior.dtype == torch.float64
    z, direction = latents().double().requires_grad_(), latents(seed=3).double()
    weight = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((prior.decode(z) * weight).sum(), z)
    with torch.no_grad():
        h = 1e-5
        slope = ((prior.decode(z + h * direction) - prior.decode(z - h * direction)) * weight).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)
    for part in (prior.unet, prior.vae, prior.text_encoder):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


@torch.no_grad()
def test_in_float64_a_latent_does_not_depend_on_its_neighbours(tiny_folder):
    prior = load_prior(str(tiny_folder("v_prediction")), dtype="float64")
    z, c = latents(3).double(), prior.condition("red", "", 4.0)
    alone = torch.cat([prior.decode(prior.epsilon(z[k : k + 1], 600, c)) for k in range(3)])
    torch.testing.assert_close(prior.decode(prior.epsilon(z, 600, c)), alone, rtol=0, atol=1e-12)
    assert prior.dtype == alone.dtype == torch.float64


@torch.no_grad()
def test_half_precision_keeps_the_autoencoder_and_the_particles_in_float32(tiny_folder):
    full, half = (load_prior(str(tiny_folder("epsilon")), dtype=d) for d in ("float32", "bfloat16"))
    assert half.unet.dtype == half.text_encoder.dtype == torch.bfloat16
    assert half.dtype == half.vae.dtype == torch.float32
    z = latents()
    got = half.epsilon(z, 500, half.condition("red", "", 2.0))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, full.epsilon(z, 500, full.condition("red", "", 2.0)), rtol=0, atol=0.1)
    assert torch.equal(half.decode(z), full.decode(z))


def test_the_schedule_is_the_schedulers(tiny_pipeline):
    pipe = tiny_pipeline("v_prediction", rescale_betas_zero_snr=True)
    prior = LatentPrior(pipe)
    abar = pipe.scheduler.alphas_cumprod.double()
    assert prior.schedule.alphas.tolist() == abar.sqrt().tolist()
    assert prior.schedule.sigmas.tolist() == (1 - abar).sqrt().tolist()
    assert prior.schedule.times.tolist() == list(range(1000))
    assert prior.schedule.descending(1000)[0] == 998  # at 999 sigma/alpha is infinite


def test_prompt_embeddings_are_the_pipelines_and_survive_the_encoder(tiny_pipeline):
    pipe = tiny_pipeline()
    prior = LatentPrior(pipe)
    text, negative = pipe.encode_prompt("red", "cpu", 1, True, "dog")
    before = prior.condition("red", "dog", 2.0)
    assert torch.equal(before.embeddings, text) and torch.equal(before.negative, negative)
    prior.release_text_encoder()
    assert torch.equal(prior.condition("red", "dog", 3.0).embeddings, text)
    assert prior.epsilon(latents(), 3).shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match='released before the prompt "new"'):
        prior.condition("new")


def test_a_long_prompt_warns_of_what_was_cut(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    with pytest.warns(UserWarning, match='longer than 16 tokens; this was cut off: "red y"'):
        long = prior.condition("red " * 14 + "red y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = prior.condition("red " * 14)
    assert torch.equal(long.embeddings, fits.embeddings)


def test_a_negative_prompt_without_guidance_warns(tiny_pipeline):
    with pytest.warns(UserWarning, match="no effect without guidance"):
        assert LatentPrior(tiny_pipeline()).condition("red", "dog").negative is None


def test_other_predictions_and_models_are_refused(tiny_pipeline):
    with pytest.raises(ValueError, match='predicts "sample"; only epsilon and v_prediction'):
        LatentPrior(tiny_pipeline("sample"))
    inpainting = tiny_pipeline()
    inpainting.unet.register_to_config(in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels for latents of 4: an inpainting"):
        LatentPrior(inpainting)
    other = tiny_pipeline()
    other.vae = torch.nn.Identity()
    with pytest.raises(ValueError, match="vae of the prior .* is an Identity; it must be an AutoencoderKL"):
        LatentPrior(other)
