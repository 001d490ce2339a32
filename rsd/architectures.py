"""The paper's models at their real sizes without the trained weights, for dry runs and tests of memory and speed.

The configurations are the published ones. Weights are random, or absent under ``torch.device("meta")``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

IF_WIDTHS = {"XL": 704, "L": 320, "M": 192}
"""Channels of IF-I's UNet at 64 px; the lower resolutions have 2, 3 and 4 times as many."""
T5_WIDTH = 4096
"""Width of IF's text states (google/t5-v1_1-xxl)."""


def stable_diffusion(tokenizer: Any, *, device: str = "cpu", size: int = 512) -> Any:
    """Create a StableDiffusionPipeline with SD 2.1-base's configuration (866 M, 84 M and 340 M parameters) in float32,
    for images of ``size`` px."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=size // 8, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024,
            use_linear_projection=True,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768, scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, hidden_act="gelu", projection_dim=512,
            )
        )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )  # fmt: skip


def dino() -> Any:
    """Create a ViT with facebook/dino-vits16's configuration (22 M parameters)."""
    from transformers import ViTConfig, ViTModel

    small = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, patch_size=16, qkv_bias=True)
    return ViTModel(small, add_pooling_layer=False)


def dinov2() -> Any:
    """Create a Dinov2Model with facebook/dinov2-small's configuration (22 M parameters), which measures Div."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518))


def clip() -> Any:
    """Create a CLIPModel with openai/clip-vit-large-patch14's configuration (428 M parameters)."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    vision = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))


def if_unet(width: int = IF_WIDTHS["XL"], *, text: int = T5_WIDTH, head: int = 64) -> Any:
    """Create the UNet of DeepFloyd IF's first stage at 64 px (XL: 4.3 billion parameters)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64, in_channels=3, out_channels=6, block_out_channels=tuple(width * k for k in (1, 2, 3, 4)),
        layers_per_block=3, down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"), attention_head_dim=head,
        cross_attention_dim=4 * width, cross_attention_norm="group_norm", encoder_hid_dim=text,
        encoder_hid_dim_type="text_proj", addition_embed_type="text", addition_embed_type_num_heads=64, act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


def if_scheduler() -> Any:
    """Create the scheduler of IF-I."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip


def t5() -> Any:
    """Create the encoder of google/t5-v1_1-xxl (4.8 billion parameters), IF's text encoder."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=T5_WIDTH, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def guided_diffusion(data: Literal["ffhq", "imagenet"]) -> Any:
    """Create a UNet2DModel at 256 px like guided-diffusion's, which the paper's pixel-space methods use: for FFHQ as
    trained by DPS (Chung et al. 2023; 94 M parameters), for ImageNet as by Dhariwal & Nichol (2021), unconditional
    (553 M).

    Residual blocks use the time as scale and shift and change the resolution; attention has heads of 64 channels, at
    16 px (FFHQ) or at 32, 16 and 8 px; the variance is predicted too.
    """
    from diffusers import UNet2DModel

    width, layers, attention = {"ffhq": (128, 1, (4,)), "imagenet": (256, 2, (3, 4, 5))}[data]
    kinds = ["Attn" if level in attention else "Resnet" for level in range(6)]
    down = tuple(f"{kind}DownBlock2D" if kind == "Attn" else "ResnetDownsampleBlock2D" for kind in kinds)
    up = tuple(f"{kind}UpBlock2D" if kind == "Attn" else "ResnetUpsampleBlock2D" for kind in reversed(kinds))
    return UNet2DModel(
        sample_size=256, in_channels=3, out_channels=6, layers_per_block=layers,
        block_out_channels=tuple(width * k for k in (1, 1, 2, 2, 4, 4)), down_block_types=down, up_block_types=up,
        attention_head_dim=64, resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
    )  # fmt: skip


def guided_diffusion_scheduler() -> Any:
    """Create the linear schedule of guided-diffusion."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=True)
