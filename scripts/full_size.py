"""Models of the real sizes without their weights: Stable Diffusion 2.1-base and a DINO ViT-S/16, random, for tests of
memory and speed where the hub cannot be reached.

    python -m scripts.full_size DIR      # DIR/sd21 (2.6 GB, half precision) and DIR/dino

The tokenizer is the built-in prior's (the words are then few, the sequence as long as its own).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch


def stable_diffusion(tokenizer: Any, *, device: str = "cpu", size: int = 512) -> Any:
    """A StableDiffusionPipeline of SD 2.1-base's configuration (866 M, 84 M and 340 M parameters), random, float32; its
    pictures have ``size`` px."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=size // 8,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
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
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )  # fmt: skip


def dino() -> Any:
    """A ViT of facebook/dino-vits16's configuration (22 M parameters), random."""
    from transformers import ViTConfig, ViTModel

    small = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, patch_size=16, qkv_bias=True)
    return ViTModel(small, add_pooling_layer=False)


def main(folder: Path) -> None:
    """Write both below ``folder``."""
    from transformers import CLIPTokenizer

    from rsd.hub import built_in_folder

    torch.manual_seed(0)
    words = built_in_folder("latent", marker="model_index.json") / "tokenizer"
    pipeline = stable_diffusion(CLIPTokenizer.from_pretrained(str(words)))
    pipeline.to(dtype=torch.float16).save_pretrained(folder / "sd21", safe_serialization=True)
    dino().save_pretrained(folder / "dino", safe_serialization=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
