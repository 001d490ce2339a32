"""Stable Diffusion 3 and 3.5: flow matching, two CLIP encoders and T5."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words

LENGTH = 256
"""Length of T5's token sequence, the pipeline's default."""


class SD3Prior(FamilyPrior):
    """The prior of a StableDiffusion3Pipeline. Without T5 its states are zeros, as in the pipeline. A network whose
    text input is only as wide as both CLIP encoders together was trained without T5 tokens and gets none."""

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        pipe = self.pipeline
        clips = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
        made_for_t5 = pipe.text_encoder_3 is not None or self.network.config.joint_attention_dim > clips
        embeddings, _, pooled, _ = pipe.encode_prompt(
            text, None, None, device=device, do_classifier_free_guidance=False,
            max_sequence_length=LENGTH if made_for_t5 else 0,
        )  # fmt: skip
        return {"embeddings": embeddings, "pooled": pooled}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        return self.network(
            hidden_states=z, timestep=time, encoder_hidden_states=words["embeddings"],
            pooled_projections=words["pooled"], return_dict=False,
        )[0]  # fmt: skip
