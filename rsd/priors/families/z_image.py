"""Z-Image: flow matching with one stream of tokens. Time runs from noise to image, and the output is -v."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


class ZImagePrior(FamilyPrior):
    """The prior of a ZImagePipeline. Guidance is uncond + s (text - uncond) as for all priors; the pipeline's
    guidance_scale, in text + g (text - uncond), is s - 1."""

    @property
    def channels(self) -> int:
        return int(self.network.in_channels)

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        (embeddings,), _ = self.pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
        return {"embeddings": embeddings[None]}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        texts = list(words["embeddings"].unbind(0))
        if "mask" in words:  # the network takes texts of different lengths, without padding
            texts = [row[own] for row, own in zip(texts, words["mask"].bool(), strict=True)]
        out = self.network(list(z.unsqueeze(2).unbind(0)), (1000 - time) / 1000, texts, return_dict=False)[0]
        return -torch.stack(list(out)).squeeze(2)
