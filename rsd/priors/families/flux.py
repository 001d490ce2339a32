"""FLUX.1: flow matching on latents packed 2x2. Schnell is distilled to few steps; dev takes guidance as an input."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


def packed(z: torch.Tensor) -> torch.Tensor:
    """Pack [B, C, h, w] into the tokens of FLUX and Qwen-Image, [B, h w / 4, 4 C]."""
    B, C, h, w = z.shape
    return z.reshape(B, C, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, h * w // 4, 4 * C)


def unpacked(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Invert :func:`packed`."""
    B, C = len(tokens), tokens.shape[-1] // 4
    return tokens.reshape(B, h // 2, w // 2, C, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, h, w)


class FluxPrior(FamilyPrior):
    """The prior of a FluxPipeline. For dev the condition's guidance is an input of the network; for schnell it is
    classifier-free guidance."""

    @property
    def channels(self) -> int:
        return int(self.network.config.in_channels) // 4

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        embeddings, pooled, _ = self.pipeline.encode_prompt(text, device=device)
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        h, w = z.shape[-2:]
        ids = self.pipeline._prepare_latent_image_ids(len(z), h // 2, w // 2, z.device, z.dtype)
        scale = z.new_full((len(z),), guidance, dtype=torch.float32) if self.takes_guidance else None
        out = self.network(
            hidden_states=packed(z), timestep=time.to(z.dtype) / 1000, guidance=scale,
            pooled_projections=words["pooled"], encoder_hidden_states=words["embeddings"],
            txt_ids=z.new_zeros(words["embeddings"].shape[1], 3), img_ids=ids, return_dict=False,
        )[0]  # fmt: skip
        return unpacked(out, h, w)
