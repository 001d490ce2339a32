"""Tiny random pipelines of every family, built from the real classes of diffusers and transformers: 16 px pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.conftest import LENGTH, build_tokenizer
from tests.quick import built_once

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"


def clip(tokenizer: Any, kind: str = "CLIPTextModelWithProjection", width: int = 16) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=24, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def t5(width: int) -> tuple[Any, Any]:
    """Return a tokenizer and an encoder."""
    from scripts.heads.pixel import build_tokenizer as words

    tokenizer = words()
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gelu"
    )
    return tokenizer, transformers.T5EncoderModel(config)


def qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {c: k for k, c in enumerate(["<|endoftext|>", *sorted(ByteLevel.alphabet())])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocab, merges=[])
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen3(kind: str, layers: int, width: int = 8) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=257, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, initializer_range=0.2,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def autoencoder(kind: str = "AutoencoderKL", channels: int = 4, **more: Any) -> Any:
    settings = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "latent_channels": channels,
        "sample_size": 16, "scaling_factor": 0.7, "shift_factor": 0.3, **more,
    }  # fmt: skip
    if kind == "AutoencoderKLFlux2":
        settings = {k: v for k, v in settings.items() if k not in ("scaling_factor", "shift_factor")}
    return getattr(diffusers, kind)(**settings)


def sdxl(folder: Path) -> Any:
    tokenizer = build_tokenizer(folder)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=40,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 1), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8, use_linear_projection=True,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(shift_factor=None), unet=unet, scheduler=scheduler, tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder=clip(tokenizer, "CLIPTextModel"), text_encoder_2=clip(tokenizer, width=24), add_watermarker=False,
    )  # fmt: skip


def sd3(folder: Path, with_t5: bool = True) -> Any:
    tokenizer = build_tokenizer(folder)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40,
        pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    tokenizer_3, encoder_3 = t5(48) if with_t5 else (None, None)
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=autoencoder(), tokenizer=tokenizer, tokenizer_2=tokenizer, tokenizer_3=tokenizer_3,
        text_encoder=clip(tokenizer), text_encoder_2=clip(tokenizer, width=24), text_encoder_3=encoder_3,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def flux(folder: Path, dev: bool = False) -> Any:
    tokenizer = build_tokenizer(folder)
    tokenizer_2, encoder_2 = t5(24)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=dev, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, vae=autoencoder(), tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        text_encoder=clip(tokenizer, "CLIPTextModel"), text_encoder_2=encoder_2,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if dev else 1.0, use_dynamic_shifting=dev, base_shift=0.5, max_shift=1.15
        ),
    )  # fmt: skip


def flux2(folder: Path, distilled: bool = False) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = autoencoder("AutoencoderKLFlux2")
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2)
    return diffusers.Flux2KleinPipeline(
        transformer=transformer, vae=vae, tokenizer=qwen_tokenizer(), text_encoder=qwen3("Qwen3ForCausalLM", 27),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), is_distilled=distilled,
    )  # fmt: skip


def z_image(folder: Path) -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=8, axes_dims=[4, 4, 8], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        transformer=transformer, vae=autoencoder(), tokenizer=qwen_tokenizer(), text_encoder=qwen3("Qwen3Model", 2),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def qwen_image(folder: Path) -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.5, 1.0, 2.0],
    )  # fmt: skip
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 257, "initializer_range": 0.2,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return diffusers.QwenImagePipeline(
        transformer=transformer, vae=vae, tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    )  # fmt: skip


def sana(folder: Path) -> Any:
    vocab = {w: k for k, w in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(33, 127))])}
    tokenizer = transformers.GemmaTokenizer(vocab=vocab, merges=[])
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=4096,
    )  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), upsample_block_type="interpolate", downsample_block_type="stride_conv",
        scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = diffusers.SanaPipeline(
        tokenizer, transformers.Gemma2Model(config), vae=vae, transformer=transformer, scheduler=scheduler
    )
    pipe.check_inputs = lambda *given: None  # it wants multiples of 32 px whatever the autoencoder is
    return pipe


def pixart(folder: Path) -> Any:
    tokenizer, encoder = t5(24)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=24,
        in_channels=4, cross_attention_dim=16, out_channels=8, attention_bias=True, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, use_additional_conditions=False,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.PixArtSigmaPipeline(
        tokenizer, encoder, autoencoder(shift_factor=None), transformer=transformer, scheduler=scheduler
    )


BUILD: dict[str, Callable[..., Any]] = {
    "sdxl": sdxl, "sd3": sd3, "flux": flux, "flux2": flux2, "z_image": z_image, "qwen_image": qwen_image,
    "sana": sana, "pixart": pixart,
}  # fmt: skip


@built_once
def build(family: str, folder: Path, **options: Any) -> Any:
    """Return a new pipeline with the same weights at each call, all of them well away from zero."""
    torch.manual_seed(0)
    pipe = BUILD[family](folder, **options)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    network = getattr(pipe, "unet", None) or pipe.transformer
    with torch.no_grad():
        for value in network.parameters():
            if not value.any() or value.std() < 1e-3:  # what starts at zero would hide mistakes
                value.add_(0.1 * torch.randn_like(value))
    return pipe
