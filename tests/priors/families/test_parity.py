"""The priors of all families compared with diffusers' own pipelines: the predictions in their denoising loop, with the
same noise, prompts and guidance, and how they encode, decode and embed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from rsd.priors.base import joined
from rsd.priors.families import image_side
from rsd.priors.families.flux import packed, unpacked
from rsd.priors.families.load import prior_of
from tests.priors.families.tiny import BUILD, build

FLOWS = [family for family in BUILD if family not in ("sdxl", "pixart")]
SIZES = [(16, 16), (32, 16)]


def asked(pipe: Any, prior: Any, z: torch.Tensor, t: int, **options: Any) -> torch.Tensor:
    """Return what ``pipe`` predicts at ``z`` in a loop of one step, at the noise level t of ``prior``. Its scheduler is
    set to that level, and records its input."""
    schedule, kept = prior.schedule, {}
    s = schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))

    def set_timesteps(num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        pipe.scheduler.timesteps = schedule.time(t)[None]
        pipe.scheduler.sigmas, pipe.scheduler.num_inference_steps = torch.tensor([s, 0.0]), 1

    def step(model_output, timestep, sample, return_dict=True, **rest):
        kept["output"], kept["sample"] = model_output, sample
        return (sample,)

    pipe.scheduler.set_timesteps, pipe.scheduler.step = set_timesteps, step
    takes = inspect.signature(type(pipe).__call__).parameters
    if "use_resolution_binning" in takes:
        options["use_resolution_binning"] = False
    height, width = (side * prior.factor for side in z.shape[-2:])
    given = packed(z) if type(pipe).__name__ in ("FluxPipeline", "QwenImagePipeline") else z
    pipe(latents=given, num_inference_steps=1, height=height, width=width, output_type="latent", **options)
    torch.testing.assert_close(
        kept["sample"].flatten(), (pipe._pack_latents(z) if "Klein" in type(pipe).__name__ else given).flatten()
    )
    out = kept["output"]
    if "Klein" in type(pipe).__name__:
        return out.transpose(1, 2).reshape(z.shape)
    return out if out.ndim == 4 else unpacked(out, *z.shape[-2:])


def check(pipe: Any, prior: Any, condition: Any, size: tuple[int, int], t: int = 600, **options: Any) -> None:
    """Assert that both predict the same noise, and that it depends on the prompt."""
    n = len(options["prompt"])
    shape = (n, prior.channels, *(side // prior.factor for side in size))
    z_t, flow = torch.randn(shape, generator=torch.Generator().manual_seed(1)), prior.prediction_type == "flow"
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    z = z_t / (alpha + sigma) if flow else z_t
    got = prior.epsilon(z_t, t, condition)
    theirs = asked(pipe, prior, z, t, **options)
    if flow:
        theirs = z + alpha / (alpha + sigma) * theirs
    elif prior.prediction_type == "v_prediction":
        theirs = alpha * theirs + sigma * z
    torch.testing.assert_close(got, theirs, rtol=0, atol=1e-5)
    assert (got - prior.epsilon(z_t, t)).abs().max() > 1e-4


def guidance(family: str, s: float, negative: list[str]) -> dict[str, Any]:
    """Return the guidance for which the pipeline computes uncond + s (text - uncond)."""
    if family in ("flux", "qwen_image"):
        return {"true_cfg_scale": s, "negative_prompt": negative}
    if family == "flux2":
        return {"guidance_scale": s}
    return {"guidance_scale": s - 1 if family == "z_image" else s, "negative_prompt": negative}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", BUILD)
def test_epsilon_with_guidance_is_the_pipelines_own(family, size, tmp_path):
    pipe = build(family, tmp_path)
    prior = prior_of(pipe, size=size)
    negative = "" if family == "flux2" else "blue"  # klein's is always empty
    condition = prior.condition("red dog", negative, 3.0)
    check(pipe, prior, condition, size, prompt=["red dog"] * 2, **guidance(family, 3.0, [negative] * 2))
    assert prior.calls["unet_forward"] == 6


@pytest.mark.parametrize("family", BUILD)
def test_a_batch_of_different_prompts(family, tmp_path):
    """The texts have different lengths, too."""
    pipe = build(family, tmp_path)
    prior = prior_of(pipe, size=16)
    words = ["red dog", "a cat by the sea"]
    check(
        pipe,
        prior,
        joined([prior.condition(w) for w in words]),
        (16, 16),
        prompt=words,
        **guidance(family, 1.0, ["", ""]),
    )


def test_v_prediction(tmp_path):
    pipe = build("sdxl", tmp_path)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    prior = prior_of(pipe, size=16)
    check(pipe, prior, prior.condition("red", "", 5.0), (16, 16), prompt=["red"], guidance_scale=5.0)


def test_flux_dev_is_told_its_guidance(tmp_path):
    pipe = build("flux", tmp_path, dev=True)
    prior = prior_of(pipe, size=(32, 16))
    condition = prior.condition("red dog", guidance=3.5)
    assert condition.negative is None
    check(pipe, prior, condition, (32, 16), prompt=["red dog"], guidance_scale=3.5)
    z = torch.randn(1, *prior.latent_shape)
    other = prior.epsilon(z, 500, prior.condition("red dog", guidance=1.0))
    assert (prior.epsilon(z, 500, condition) - other).abs().max() > 1e-4
    with pytest.warns(UserWarning, match="negative prompt has no effect"):
        prior.condition("red", "blue", 3.5)


def test_a_distilled_model_has_no_guidance(tmp_path):
    pipe = build("flux2", tmp_path, distilled=True)
    prior = prior_of(pipe, size=16)
    with pytest.warns(UserWarning, match="guidance has no effect"):
        condition = prior.condition("red dog", guidance=4.0)
    assert condition.negative is None
    check(pipe, prior, condition, (16, 16), prompt=["red dog"], guidance_scale=1.0)


def test_sd3_without_t5(tmp_path):
    pipe = build("sd3", tmp_path, with_t5=False)
    prior = prior_of(pipe, size=16)
    condition = prior.condition("red dog", "blue", 4.0)
    assert condition.embeddings.shape == (1, 16 + 256, 48)
    check(pipe, prior, condition, (16, 16), prompt=["red dog"], negative_prompt=["blue"], guidance_scale=4.0)


@torch.no_grad()
@pytest.mark.parametrize("family", BUILD)
def test_decode_is_the_end_of_the_pipeline(family, tmp_path):
    """Its loop gets the final latents, so that it only decodes."""
    pipe = build(family, tmp_path)
    prior = prior_of(pipe, size=(32, 16))
    z = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(2))
    pipe.scheduler.set_timesteps = lambda *a, sigmas=None, **k: setattr(pipe.scheduler, "timesteps", torch.ones(1))
    pipe.scheduler.step = lambda output, t, sample, **rest: (sample,)
    given = packed(z) if family in ("flux", "qwen_image") else z
    options = {"use_resolution_binning": False} if family in ("sana", "pixart") else {}
    theirs = pipe(
        prompt="red", latents=given, num_inference_steps=1, height=32, width=16, output_type="pt", **options
    ).images  # fmt: skip
    got = (prior.decode(z) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(got, theirs, rtol=0, atol=1e-5)
    assert got.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("family", BUILD)
def test_encode_undoes_what_decode_scales(family, tmp_path):
    """The autoencoder's latents in the network's scale; the pipelines only decode."""
    prior = prior_of(build(family, tmp_path), size=(32, 16))
    x = torch.rand(2, 3, 32, 16) * 2 - 1
    z = prior.encode(x)
    assert z.shape == (2, *prior.latent_shape)
    own = prior.encoded(x)
    torch.testing.assert_close(prior.unscaled(z), own, rtol=0, atol=1e-5)
    assert (z.flatten() - own.flatten()).abs().max() > 1e-3
    with pytest.raises(ValueError, match="multiples of"):
        prior.encode(torch.zeros(1, 3, 31, 16))


@pytest.mark.parametrize("family", FLOWS)
def test_a_perfect_flow_gives_its_noise_back(family, tmp_path):
    """If a network predicts v = eps - z, the prior must predict eps, at every level and with a t for each particle."""
    prior = prior_of(build(family, tmp_path), size=16)
    z, eps = (torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    t = torch.tensor([3, 950])
    alpha, sigma = prior.schedule.coefficients(t, z)
    prior.predict = lambda *given: eps - z
    torch.testing.assert_close(prior.epsilon(alpha * z + sigma * eps, t), eps, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd3", "flux", "flux2", "z_image"])
def test_four_steps_of_ddim_on_the_prior_are_four_steps_of_the_pipeline(family, tmp_path):
    """Euler's step of a flow equals DDIM's of its variance-preserving form. It starts slightly below pure noise, since
    pure noise contains nothing of the picture."""
    pipe = build(family, tmp_path)
    pipe.scheduler = type(pipe.scheduler)(shift=1.0)
    prior = prior_of(pipe, size=16)
    levels, condition = [998, 749, 499, 249], prior.condition("red dog", "", 1.0)
    start = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(3))
    theirs = pipe(
        prompt=["red dog"] * 2, latents=packed(start) if family == "flux" else start, sigmas=[0.999, 0.75, 0.5, 0.25],
        num_inference_steps=4, height=16, width=16, output_type="pt", **guidance(family, 1.0, ["", ""]),
    ).images  # fmt: skip
    schedule = prior.schedule
    z = start * (schedule.alpha(998) + schedule.sigma(998))
    for now, then in zip(levels, [*levels[1:], None], strict=True):
        eps = prior.epsilon(z, now, condition)
        clean = (z - schedule.sigma(now) * eps) / schedule.alpha(now)
        z = clean if then is None else schedule.alpha(then) * clean + schedule.sigma(then) * eps
    torch.testing.assert_close((prior.decode(z) / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=1e-3)
    assert theirs.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_pooled_embeddings_are_the_pipelines_own(family, tmp_path):
    pipe = build(family, tmp_path)
    told = prior_of(pipe, size=16).condition("red dog", "blue", 2.0)
    if family == "flux":
        (text, pooled, _), (other, other_pooled, _) = pipe.encode_prompt("red dog"), pipe.encode_prompt("blue")
    else:
        rest = {"prompt_2": None, **({"prompt_3": None} if family == "sd3" else {})}
        text, other, pooled, other_pooled = pipe.encode_prompt("red dog", **rest, negative_prompt="blue")
    for got, expected in zip(
        (told.embeddings, told.negative, told.pooled, told.negative_pooled),
        (text, other, pooled, other_pooled), strict=True,
    ):  # fmt: skip
        assert torch.equal(got, expected)


@pytest.mark.parametrize("family", BUILD)
def test_pictures_have_the_pipeline_s_size_unless_told_otherwise(family, tmp_path):
    pipe = build(family, tmp_path)
    prior = prior_of(pipe)
    expected = image_side(prior.family, prior.network.config, pipe.vae.config)
    assert prior.image_shape == (3, expected, expected)
    if hasattr(pipe, "default_sample_size") and not prior.network.config.get("sample_size"):
        assert expected == pipe.default_sample_size * pipe.vae_scale_factor


@pytest.mark.parametrize("distilled", [True, False])
def test_the_noise_levels_of_klein_are_its_pipeline_s(distilled, tmp_path):
    pipe = build("flux2", tmp_path, distilled=distilled)
    prior, steps = prior_of(pipe, size=64), 4 if distilled else 50
    tokens = prior.latent_shape[1] * prior.latent_shape[2]
    schedule = prior.schedule
    ours = [schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t)) for t in (999, 749, 499, 249)]
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=compute_empirical_mu(tokens, steps))
    assert ours == pytest.approx(pipe.scheduler.sigmas[:4].tolist(), abs=1e-5)


def test_saturated_pixels_of_qwen_image_have_gradients(tmp_path):
    pipe = build("qwen_image", tmp_path)
    prior = prior_of(pipe, size=16)
    z = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inside = prior.decode(z)
        pipe.vae.decoder.conv_out.weight.mul_(40)
    z.requires_grad_()
    x = prior.decode(z)
    assert inside.abs().max() < 1 and (x.abs() > 1).float().mean() > 0.3
    [gradient] = torch.autograd.grad(x[x.abs() > 1].sum(), z)
    assert gradient.abs().max() > 0
