"""FLUX.2 klein: flow matching on 2x2 patches of latents, normalised by a batch norm."""

from __future__ import annotations

import torch

from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.words import Words


class Flux2Prior(FamilyPrior):
    """The prior of a Flux2KleinPipeline. Latents are the normalised patches, [B, 128, H / 16, W / 16]."""

    patch = 1
    latent_patch = 2

    def mu(self, tokens: int) -> float | None:
        """Return the shift that the pipeline has in 4 steps if the model is distilled for few, else in 50."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return compute_empirical_mu(tokens, 4 if self.distilled else 50)

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        return {"embeddings": self.pipeline.encode_prompt(text, device=device)[0]}

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        pipe, text = self.pipeline, words["embeddings"]
        out = self.network(
            hidden_states=pipe._pack_latents(z), timestep=time.to(z.dtype) / 1000, guidance=None,
            encoder_hidden_states=text, txt_ids=pipe._prepare_text_ids(text).to(z.device),
            img_ids=pipe._prepare_latent_ids(z).to(z.device), return_dict=False,
        )[0]  # fmt: skip
        return out.transpose(1, 2).reshape(z.shape)

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return (self.pipeline._patchify_latents(z) - mean) / deviation

    def unscaled(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments(z)
        return self.pipeline._unpatchify_latents(z * deviation + mean)

    def _moments(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        norm = self.vae.bn
        mean = norm.running_mean.view(1, -1, 1, 1).to(z)
        return mean, (norm.running_var.view(1, -1, 1, 1).to(z) + self.vae.config.batch_norm_eps).sqrt()
