"""Parameters, memory and FLOPs of all families at their real sizes, computed on the meta device.

python -m scripts.families [SIDE]      # the table of docs/families.md, for pictures of SIDE px (default 1024)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from rsd.priors.base import Condition
from rsd.priors.families.load import prior_of

T5, CLIP_L, CLIP_G, QWEN3_4B, QWEN_VL_7B, GEMMA_2B = 4.76, 0.12, 0.69, 4.02, 8.29, 2.61
"""Billions of parameters of text encoders."""


def schedule(kind: Any = diffusers.FlowMatchEulerDiscreteScheduler, **settings: Any) -> Any:
    """Build a scheduler on the CPU."""
    with torch.device("cpu"):
        return kind(**settings)


def kl(channels: int, **more: Any) -> Any:
    """Build Stable Diffusion's autoencoder with this number of latent channels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=channels, **more,
    )  # fmt: skip


def sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816, use_linear_projection=True,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        kl(4, scaling_factor=0.13025),
        None,
        None,
        None,
        None,
        unet,
        schedule(diffusers.DDIMScheduler),
        add_watermarker=False,
    )


def sd3(layers: int, heads: int, dual: int) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128, num_layers=layers, num_attention_heads=heads, caption_projection_dim=64 * heads,
        pos_embed_max_size=384 if dual else 192, dual_attention_layers=tuple(range(dual)), qk_norm="rms_norm",
    )  # fmt: skip
    vae = kl(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.StableDiffusion3Pipeline(transformer, schedule(shift=3.0), vae, *[None] * 6)


def flux(dev: bool) -> Any:
    transformer = diffusers.FluxTransformer2DModel(guidance_embeds=dev)
    vae = kl(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.FluxPipeline(schedule(use_dynamic_shifting=dev), vae, None, None, None, None, transformer)


def flux2() -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
    )
    vae = diffusers.AutoencoderKLFlux2()
    return diffusers.Flux2KleinPipeline(schedule(), vae, None, None, transformer, is_distilled=True)


def z_image() -> Any:
    vae = kl(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.ZImagePipeline(schedule(shift=3.0), vae, None, None, diffusers.ZImageTransformer2DModel())


def qwen_image() -> Any:
    vae, transformer = diffusers.AutoencoderKLQwenImage(), diffusers.QwenImageTransformer2DModel()
    return diffusers.QwenImagePipeline(schedule(use_dynamic_shifting=True), vae, None, None, transformer)


def sana() -> Any:
    kinds, widths = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3, (128, 256, 512, 512, 1024, 1024)
    scales = ((), (), (), (5,), (5,), (5,))
    vae = diffusers.AutoencoderDC(
        latent_channels=32, encoder_block_types=kinds, decoder_block_types=kinds, encoder_block_out_channels=widths,
        decoder_block_out_channels=widths, encoder_layers_per_block=(2, 2, 2, 3, 3, 3), encoder_qkv_multiscales=scales,
        decoder_layers_per_block=(3,) * 6, decoder_qkv_multiscales=scales, scaling_factor=0.41407,
        upsample_block_type="interpolate", downsample_block_type="conv",
    )  # fmt: skip
    scheduler = schedule(
        diffusers.DPMSolverMultistepScheduler, use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    return diffusers.SanaPipeline(None, None, vae, diffusers.SanaTransformer2DModel(), scheduler)


def pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=128, caption_channels=4096, use_additional_conditions=False
    )
    return diffusers.PixArtSigmaPipeline(None, None, kl(4), transformer, schedule(diffusers.DDIMScheduler))


Told = tuple[int, int, int]
MODELS: dict[str, tuple[Callable[[], Any], Told, float]] = {
    "SDXL": (sdxl, (77, 2048, 1280), CLIP_L + CLIP_G),
    "SD3.5 medium": (lambda: sd3(24, 24, 13), (333, 4096, 2048), T5 + CLIP_L + CLIP_G),
    "SD3.5 large": (lambda: sd3(38, 38, 0), (333, 4096, 2048), T5 + CLIP_L + CLIP_G),
    "FLUX.1 schnell": (lambda: flux(dev=False), (512, 4096, 768), T5 + CLIP_L),
    "FLUX.1 dev": (lambda: flux(dev=True), (512, 4096, 768), T5 + CLIP_L),
    "FLUX.2 klein 4B": (flux2, (512, 7680, 0), QWEN3_4B),
    "Z-Image": (z_image, (64, 2560, 0), QWEN3_4B),
    "Qwen-Image": (qwen_image, (64, 3584, 0), QWEN_VL_7B),
    "SANA 1.6B": (sana, (300, 2304, 0), GEMMA_2B),
    "PixArt-Sigma": (pixart, (300, 4096, 0), T5),
}
"""For each model: its pipeline without text encoders, the shape of its text (tokens, width, pooled width), and billions
of parameters of its text encoders."""


def billions(network: Any) -> float:
    """Return the billions of parameters."""
    return sum(p.numel() for p in network.parameters()) / 1e9


def measured(name: str, side: int) -> tuple[float, float, float, float]:
    """Return the billions of parameters of network, text encoders and autoencoder, and the 10^12 FLOPs of one network
    call for one image of ``side`` px."""
    make, (length, width, pooled), texts = MODELS[name]
    with torch.device("meta"):
        pipeline = make()
    prior = prior_of(pipeline, name=name, device=None, size=side)
    with torch.device("meta"):
        text = torch.empty(1, length, width)
        mask = torch.ones(1, length) if name in ("SANA 1.6B", "PixArt-Sigma") else None
        condition = Condition(embeddings=text, pooled=torch.empty(1, pooled) if pooled else None, mask=mask)
        z = torch.empty(1, *prior.latent_shape)
    with FlopCounterMode(display=False) as count, torch.no_grad():
        prior.epsilon(z, 500, condition)
    return billions(prior.network), texts, billions(prior.vae), count.get_total_flops() / 1e12


def main(side: int) -> None:
    """Print the table in Markdown."""
    print(f"| model | network | text encoders | autoencoder | weights in bfloat16 | TFLOP, {side} px |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        network, texts, vae, tflop = measured(name, side)
        gib = (2 * network * 1e9 + 4 * vae * 1e9) / 2**30  # the autoencoder stays in float32
        text_gib = 2 * texts * 1e9 / 2**30
        print(
            f"| {name} | {network:.2f} B | {texts:.2f} B | {vae * 1e3:.0f} M | {gib:.1f} + {text_gib:.1f} GiB | "
            f"{tflop:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
