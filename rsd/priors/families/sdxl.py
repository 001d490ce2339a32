"""Stable Diffusion XL: a UNet with a pooled embedding and the image size as further inputs."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


class SDXLPrior(FamilyPrior):
    """The prior of a StableDiffusionXLPipeline. If the pipeline says so, the empty prompt is embedded as zeros, as in
    training."""

    flow = False
    patch = 1

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
        if not text and self.pipeline.config.force_zeros_for_empty_prompt:
            embeddings, pooled = torch.zeros_like(embeddings), torch.zeros_like(pooled)
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        height, width = (side * self.factor for side in z.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=z.device, dtype=z.dtype)
        added = {"text_embeds": words["pooled"], "time_ids": sizes.expand(len(z), -1)}
        return self.network(z, time, words["embeddings"], added_cond_kwargs=added, return_dict=False)[0]

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return (z - mean) * self.vae.config.scaling_factor / deviation

    def unscaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return z * deviation / self.vae.config.scaling_factor + mean

    def _moments(self, z: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Return mean and deviation of each latent channel (Playground 2.5 has them), or 0 and 1."""
        mean, deviation = (self.vae.config.get(key) for key in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return 0.0, 1.0
        return z.new_tensor(mean).view(1, -1, 1, 1), z.new_tensor(deviation).view(1, -1, 1, 1)
