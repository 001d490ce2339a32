"""SANA: flow matching with linear attention on latents of an autoencoder with factor 32."""

from __future__ import annotations

import inspect

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


class SanaPrior(FamilyPrior):
    """The prior of a SanaPipeline. Prompts get the pipeline's instruction as a prefix; negative and empty prompts do
    not."""

    patch = 1

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        instruction = inspect.signature(type(self.pipeline).__call__).parameters["complex_human_instruction"].default
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            text, False, device=device, complex_human_instruction=None if negative else instruction
        )
        return {"embeddings": embeddings, "mask": mask}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        out = self.network(
            z, encoder_hidden_states=words["embeddings"], encoder_attention_mask=words["mask"],
            timestep=time * self.network.config.timestep_scale, return_dict=False,
        )[0]  # fmt: skip
        return out[:, : z.shape[1]]  # the rest is a variance

    def encoded(self, x: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(x, return_dict=False)[0]
