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
