"""Small autoencoders (like TAESD) that approximate the prior's own: the decoder for the repulsion, both halves for
proximal guidance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsd.hub import built_in_folder, check_name, fetch, quietly, read_json
from rsd.hub.weights import load_model
from rsd.memory.meta import to_meta
from rsd.priors import over_heads
from rsd.priors.base import Prior
from rsd.priors.watch import Watch, watch_of
from rsd.runs.words import with_article

BUILT_IN = ("tiny",)
SIZE = 64
"""Side of the built-in decoder's training images in pixels."""


class TinyDecoder(nn.Module):
    """The frozen decoder of an AutoencoderTiny: maps latents [B, C, h, w] in the UNet's space to images [B, 3, H, W],
    differentiable. ``calls`` counts its passes per image, as tiny_forward and tiny_backward."""

    def __init__(self, model: Any, calls: Counter[str], name: str = "a model", watch: Watch | None = None):
        super().__init__()
        self.model, self.calls = model.eval().requires_grad_(False), calls
        self.name, self.watch = name, watch or Watch()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images x [B, 3, H, W] to latents in the UNet's space, by the encoder that belongs to the decoder."""
        self.calls["tiny_encoder_forward"] += len(x)
        latents: torch.Tensor = self.model.encode(x.to(self.model.dtype)).latents
        return (latents * self.model.config.scaling_factor).to(x.dtype)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents z."""
        found: torch.Tensor = self(z)
        return found

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents z."""
        self.calls["tiny_forward"] += len(z)
        latents = z.to(self.model.dtype) / self.model.config.scaling_factor
        x = self.model.decode(latents).sample.to(z.dtype)
        self.watch.see(f'The small decoder "{self.name}"', x, z)
        if x.requires_grad:
            x.register_hook(lambda _: self.calls.update(tiny_backward=len(z)))
        return x


def check_decoder_name(name: str) -> None:
    """Raise ValueError if ``name`` is not a valid small decoder. Loads nothing."""
    check_name(name, what="small decoder", built_in=BUILT_IN, marker="config.json", example="madebyollin/taesd")


def load_decoder(name: str, prior: Prior) -> TinyDecoder:
    """Load the small decoder ``name`` for a prior's latents: "tiny" (for the built-in heads), a hub id such as
    madebyollin/taesd (for Stable Diffusion), or a folder of an AutoencoderTiny (safetensors only).

    Raises ValueError with the remedy if it is not available or does not fit the prior: the channels of the latents and
    the size of the images must match (the latent space itself cannot be checked).
    """
    check_decoder_name(name)
    if name in BUILT_IN and not (over_heads(prior.name) and prior.image_size == SIZE):
        raise ValueError(
            f'The small decoder "{name}" is for the built-in heads, not for the prior {prior.name}; give one for its '
            "latents (madebyollin/taesd is for Stable Diffusion), or leave it out."
        )
    what = "small decoder"
    folder = built_in_folder("tiny", marker="config.json") if name in BUILT_IN else Path(name).expanduser()
    local = folder.is_dir()
    file = folder / "config.json" if local else fetch(name, "config.json", revision=None, what=what)
    config = read_json(file)
    if config.get("_class_name") != "AutoencoderTiny":
        raise ValueError(
            f'The small decoder "{name}" is {with_article(str(config.get("_class_name")))}; give an AutoencoderTiny.'
        )
    channels = prior.latent_shape[0]
    if not prior.latent or config.get("latent_channels", 4) != channels:
        raise ValueError(
            f'The small decoder "{name}" takes latents of {config.get("latent_channels", 4)} channels, which the prior '
            f"{prior.name} does not have; leave it out."
        )
    with quietly():
        from diffusers import AutoencoderTiny
    commit = None if local else file.parent.name
    model = load_model(
        AutoencoderTiny, name, folder if local else None, what=what, dtype=prior.dtype, commit=commit
    )  # fmt: skip
    with torch.no_grad():
        z = torch.empty(1, *prior.latent_shape, dtype=model.dtype, device="meta")
        made = tuple(to_meta(model).decode(z).sample.shape[1:])
    if made != prior.image_shape:
        raise ValueError(
            f'The small decoder "{name}" returns images of {made[-1]} px for the latents of the prior {prior.name}, '
            f"but that makes {prior.image_shape[-1]} px; leave it out."
        )
    return TinyDecoder(model.to(prior.device), prior.calls, name, watch_of(prior))


def load_autoencoder(name: str, prior: Prior) -> TinyDecoder:
    """Load both halves of the small autoencoder ``name`` for a prior's latents, as :func:`load_decoder` does. Raise
    ValueError also if its encoder does not return the prior's latents."""
    if name in BUILT_IN:
        raise ValueError(
            f'The built-in small decoder "{name}" has no encoder; give the folder or the hub id of an AutoencoderTiny, '
            "or leave it out: the built-in prior's own autoencoder is small."
        )
    coder = load_decoder(name, prior)
    with torch.no_grad():
        x = torch.empty(1, *prior.image_shape, dtype=coder.model.dtype, device="meta")
        made = tuple(to_meta(coder.model).encode(x).latents.shape[1:])
    if made != tuple(prior.latent_shape):
        raise ValueError(
            f'The small autoencoder "{name}" encodes to latents of shape {made}, but those of the prior {prior.name} '
            f"are {tuple(prior.latent_shape)}; give another one, or leave it out."
        )
    return coder
