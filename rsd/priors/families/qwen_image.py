"""Qwen-Image: flow matching on packed latents of a video autoencoder, with one frame."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.flux import packed, unpacked
from rsd.priors.families.words import Words


class QwenImagePrior(FamilyPrior):
    """The prior of a QwenImagePipeline. Guidance keeps the norm of each token of the conditional prediction."""

    @property
    def channels(self) -> int:
        return int(self.network.config.in_channels) // 4

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        return {"embeddings": self.pipeline.encode_prompt(text, device=device, max_sequence_length=512)[0]}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        h, w = z.shape[-2:]
        scale = z.new_full((len(z),), guidance, dtype=torch.float32) if self.takes_guidance else None
        out = self.network(
            hidden_states=packed(z), timestep=time.to(z.dtype) / 1000, guidance=scale,
            encoder_hidden_states=words["embeddings"], img_shapes=[[(1, h // 2, w // 2)]] * len(z),
            encoder_hidden_states_mask=words.get("mask"), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(out, h, w)

    def guided(self, uncond: torch.Tensor, text: torch.Tensor, guidance: float) -> torch.Tensor:
        both, own = packed(uncond + guidance * (text - uncond)), packed(text)
        return unpacked(both * (own.norm(dim=-1, keepdim=True) / both.norm(dim=-1, keepdim=True)), *text.shape[-2:])

    def encoded(self, x: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(x.unsqueeze(2)).latent_dist.mode()[:, :, 0]

    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the autoencoder's clamp, through which saturated pixels have no gradient."""
        kept: list[torch.Tensor] = []
        hook = self.vae.decoder.register_forward_hook(lambda _, __, x: kept.append(x))
        try:
            self.vae.decode(z.unsqueeze(2))
        finally:
            hook.remove()
        return kept[-1][:, :, 0]

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return (z - mean) / deviation

    def unscaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return z * deviation + mean

    def _moments(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, deviation = (z.new_tensor(self.vae.config[k]) for k in ("latents_mean", "latents_std"))
        return mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)
