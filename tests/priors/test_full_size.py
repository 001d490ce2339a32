"""Stable Diffusion 2.1-base at its real size, without its weights."""

from __future__ import annotations

import pytest
import torch

from rsd.priors.latent import LatentPrior


def full_size(pipe, device: str):
    """``pipe`` with random UNet, autoencoder and text encoder of SD 2.1-base's configuration."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device(device):
        pipe.unet = UNet2DConditionModel(
            sample_size=64, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
        )
        pipe.vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        pipe.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, hidden_act="gelu", projection_dim=512,
            )
        )  # fmt: skip
    return pipe


def test_shapes_on_the_meta_device(tiny_pipeline):
    prior = LatentPrior(full_size(tiny_pipeline(), "meta"), device="meta")
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
    pipe = full_size(tiny_pipeline(), device)
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
