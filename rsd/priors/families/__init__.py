"""The families of text-to-image models and the parts of their pipelines. Imports nothing heavy.

Each family has one file; :mod:`rsd.priors.families.base` holds what they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CLIP = ("CLIPTokenizer", "CLIPTokenizerFast")
T5 = ("T5Tokenizer", "T5TokenizerFast")
QWEN = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast")


@dataclass(frozen=True)
class Family:
    """A class of diffusers pipelines.

    ``module``: file and class of the prior. ``parts``: supported classes of each part. ``may_lack``: optional parts.
    ``example``: a hub id, with the ``licence`` of its weights and its ``sizes``: billions of parameters of the network,
    the text encoders and the autoencoder. ``side``: side of the latents if the configuration has none.
    """

    title: str
    pipeline: str
    module: str
    parts: dict[str, tuple[str, ...]]
    example: str
    licence: str
    sizes: tuple[float, float, float]
    may_lack: tuple[str, ...] = ()
    side: int = 128

    @property
    def network(self) -> str:
        """Name of the part that predicts the noise."""
        return "unet" if "unet" in self.parts else "transformer"

    def gib(self, bytes_each: int) -> tuple[float, float]:
        """Return the GiB of the network with the autoencoder (float32), and of the text encoders."""
        network, texts, vae = (1e9 * size / 2**30 for size in self.sizes)
        return bytes_each * network + 4 * vae, bytes_each * texts

    @property
    def texts(self) -> list[str]:
        """Names of the text encoders and tokenizers."""
        return [part for part in self.parts if part.startswith(("text_encoder", "tokenizer"))]


FAMILIES = (
    Family(
        "Stable Diffusion XL", "StableDiffusionXLPipeline", "sdxl:SDXLPrior",
        {
            "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer": CLIP, "tokenizer_2": CLIP,
        },
        "stabilityai/stable-diffusion-xl-base-1.0", "OpenRAIL++", (2.57, 0.81, 0.08),
    ),
    Family(
        "Stable Diffusion 3 and 3.5", "StableDiffusion3Pipeline", "sd3:SD3Prior",
        {
            "transformer": ("SD3Transformer2DModel",), "vae": ("AutoencoderKL",),
            "text_encoder": ("CLIPTextModelWithProjection",), "text_encoder_2": ("CLIPTextModelWithProjection",),
            "text_encoder_3": ("T5EncoderModel",), "tokenizer": CLIP, "tokenizer_2": CLIP, "tokenizer_3": T5,
        },
        "stabilityai/stable-diffusion-3.5-medium", "gated: Stability Community", (2.24, 5.57, 0.08),
        ("text_encoder_3", "tokenizer_3"),
    ),
    Family(
        "FLUX.1", "FluxPipeline", "flux:FluxPrior",
        {
            "transformer": ("FluxTransformer2DModel",), "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("T5EncoderModel",), "tokenizer": CLIP, "tokenizer_2": T5,
        },
        "black-forest-labs/FLUX.1-schnell", "schnell: Apache 2.0; dev: gated, non-commercial", (11.89, 4.88, 0.08),
    ),
    Family(
        "FLUX.2 klein", "Flux2KleinPipeline", "flux2:Flux2Prior",
        {
            "transformer": ("Flux2Transformer2DModel",), "vae": ("AutoencoderKLFlux2",),
            "text_encoder": ("Qwen3ForCausalLM",), "tokenizer": QWEN,
        },
        "black-forest-labs/FLUX.2-klein-4B", "Apache 2.0 (4B)", (3.88, 4.02, 0.08),
    ),
    Family(
        "Z-Image", "ZImagePipeline", "z_image:ZImagePrior",
        {
            "transformer": ("ZImageTransformer2DModel",), "vae": ("AutoencoderKL",),
            "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"), "tokenizer": QWEN,
        },
        "Tongyi-MAI/Z-Image-Turbo", "Apache 2.0", (6.15, 4.02, 0.08),
    ),
    Family(
        "Qwen-Image", "QwenImagePipeline", "qwen_image:QwenImagePrior",
        {
            "transformer": ("QwenImageTransformer2DModel",), "vae": ("AutoencoderKLQwenImage",),
            "text_encoder": ("Qwen2_5_VLForConditionalGeneration",), "tokenizer": QWEN,
        },
        "Qwen/Qwen-Image", "Apache 2.0", (20.43, 8.29, 0.13),
    ),
    Family(
        "SANA", "SanaPipeline", "sana:SanaPrior",
        {
            "transformer": ("SanaTransformer2DModel",), "vae": ("AutoencoderDC",),
            "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM"), "tokenizer": GEMMA,
        },
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers", "NVIDIA, non-commercial; Gemma's terms",
        (1.60, 2.61, 0.31), side=32,
    ),
    Family(
        "PixArt-Sigma", "PixArtSigmaPipeline", "pixart:PixArtPrior",
        {
            "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",),
            "text_encoder": ("T5EncoderModel",), "tokenizer": T5,
        },
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "OpenRAIL++", (0.61, 4.76, 0.08),
    ),
)  # fmt: skip

BY_PIPELINE = {family.pipeline: family for family in FAMILIES}


def image_side(family: Family, network: dict[str, Any], vae: dict[str, Any]) -> int:
    """Return the side of the images in pixels, from the configurations of the network and the autoencoder.

    Raises KeyError or TypeError if these are incomplete.
    """
    side = network.get("sample_size") or family.side
    if not isinstance(side, int):
        side = max(side)
    return side * scale_factor(vae)


def scale_factor(vae: dict[str, Any]) -> int:
    """Return the number of pixels per latent entry, along a side, of an autoencoder with this configuration."""
    for widths in ("block_out_channels", "encoder_block_out_channels"):
        if widths in vae:
            return 2 ** (len(vae[widths]) - 1)
    return 2 ** len(vae["temperal_downsample"])
