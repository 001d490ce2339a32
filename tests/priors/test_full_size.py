"""Stable Diffusion 2.1-base and DeepFloyd IF's first stage at their real sizes, without their weights."""

from __future__ import annotations

import json

import pytest
import torch

from rsd.architectures import IF_WIDTHS, clip, guided_diffusion, if_scheduler, if_unet, stable_diffusion, t5
from rsd.priors import image_size, load_prior
from rsd.priors.base import Condition
from rsd.priors.latent import LatentPrior
from rsd.priors.pixel import PixelPrior
from rsd.priors.t5 import T5Embedder
from scripts import full_size_if


@pytest.mark.slow
def test_shapes_on_the_meta_device(tiny_pipeline):
    prior = LatentPrior(stable_diffusion(tiny_pipeline().tokenizer, device="meta"), device="meta")
    assert sum(p.numel() for p in prior.unet.parameters()) == 865_910_724  # as published
    assert sum(p.numel() for p in prior.vae.parameters()) == 83_653_863
    assert (prior.latent_shape, prior.image_size) == ((4, 64, 64), 512)
    z = torch.empty(2, *prior.latent_shape, device="meta")
    condition = prior.condition("red", "", 7.5)
    assert condition.embeddings.shape[-1] == 1024
    assert prior.epsilon(z, 999, condition).shape == z.shape
    assert prior.decode(z).shape == (2, 3, 512, 512)
    assert prior.encode(prior.decode(z)).shape == z.shape


@pytest.mark.slow
def test_a_step_with_random_weights(tiny_pipeline):
    """One epsilon and one decode with gradient, on CUDA in half precision where there is one (about 8 GB)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = stable_diffusion(tiny_pipeline().tokenizer, device=device)
    if device == "cuda":
        pipe.to(dtype=torch.float16)
    prior = LatentPrior(pipe, device=device)
    z = torch.randn(1, *prior.latent_shape, device=device, requires_grad=True)
    with torch.no_grad():
        eps = prior.epsilon(z, 500, prior.condition("red", "", 7.5))
    (gradient,) = torch.autograd.grad(0.5 * prior.decode(z).square().mean(), z)
    assert eps.dtype == gradient.dtype == torch.float32
    assert torch.isfinite(eps).all() and torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("size", "count", "published"), [("XL", 4_304_695_110, 4.3e9), ("L", 935_365_830, 0.9e9), ("M", 371_605_830, 0.4e9)]
)
def test_if_on_the_meta_device(size, count, published):
    with torch.device("meta"):
        unet = if_unet(IF_WIDTHS[size])
    assert sum(p.numel() for p in unet.parameters()) == count == pytest.approx(published, rel=0.08)
    text = T5Embedder(lambda: pytest.fail("no text is embedded here"), device="meta")
    prior = PixelPrior(unet, if_scheduler(), text, device="meta")
    assert prior.latent_shape == (3, 64, 64)
    state = torch.empty(1, 77, 4096, device="meta")
    z = torch.empty(2, 3, 64, 64, device="meta")
    assert prior.epsilon(z, 999, Condition("red", "", 21.0, state, state)).shape == z.shape


@pytest.mark.parametrize(
    ("model", "count", "published"),
    [
        (lambda: guided_diffusion("ffhq"), 93_562_886, 93.6e6),
        (lambda: guided_diffusion("imagenet"), 552_812_038, 552.8e6),
        (clip, 427_616_513, 427.6e6),
        (t5, 4_762_310_656, 4.76e9),
    ],
)
def test_the_others_on_the_meta_device(model, count, published):
    with torch.device("meta"):
        made = model()
    assert sum(p.numel() for p in made.parameters()) == count == pytest.approx(published, rel=1e-3)


def test_a_narrow_if_is_written_in_half_precision(tmp_path):
    count = full_size_if.write(tmp_path / "prior", 32, text=64, head=32)
    assert image_size(str(tmp_path / "prior")) == 64
    files = list((tmp_path / "prior" / "unet").glob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) == pytest.approx(2 * count, rel=0.05)
    prior = load_prior(str(tmp_path / "prior"), dtype="bfloat16")
    assert prior.unet.dtype == torch.bfloat16 and prior.condition("a red dog").embeddings.shape == (1, 77, 64)


@pytest.mark.slow
def test_a_narrow_if_takes_a_step_at_64_px_in_a_process_of_its_own(tmp_path, capfd):
    full_size_if.write(tmp_path / "prior", 32, text=64, head=32)
    small = [*full_size_if.STEP, "--samples", "8", "--grid", "8", "--mesh-resolution", "12", "--turntable", "1"]
    peak = full_size_if.step(tmp_path / "prior", tmp_path / "run", small)
    told = capfd.readouterr().out
    assert "settings: if.yaml: sds" in told and "at 64 px on cpu, bfloat16" in told
    assert 0.2 < peak < 4  # GiB, most of it torch itself
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["network_calls"]["unet_forward"] == 4  # two pictures, with and without text
