"""PixArt-Sigma: a transformer that predicts epsilon and a variance."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


class PixArtPrior(FamilyPrior):
    """The prior of a PixArtSigmaPipeline."""

    flow = False

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        embeddings, mask, _, _ = self.pipeline.encode_prompt(text, False, device=device)
        return {"embeddings": embeddings, "mask": mask}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        out = self.network(
            z, encoder_hidden_states=words["embeddings"], encoder_attention_mask=words["mask"], timestep=time,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
        )[0]  # fmt: skip
        return out[:, : z.shape[1]]  # the rest is a variance
