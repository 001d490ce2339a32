"""Stable Diffusion pipelines as priors: 1.5, 2.1-base (epsilon), 2.1 (v, converted), and others of the same classes."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch

from rsd.hub import quietly
from rsd.priors.base import (
    Condition,
    Prior,
    as_epsilon,
    check_scheduler,
    count_backward,
    guided,
    multiplying,
    network,
)
from rsd.priors.index import LATENT, Index, square_side
from rsd.priors.parts import load_network, load_scheduler, load_tokenizer
from rsd.priors.watch import Watch
from rsd.runs.words import with_article
from rsd.schedule import Schedule

POSE = 16
"""Entries of a camera-to-world matrix."""


class LatentPrior(Prior):
    """The prior of a diffusers StableDiffusionPipeline.

    Its parts are not copied, but frozen, set to evaluation mode and moved to ``device``.
    A UNet with a class embedding of 16 numbers, by projection, reads the condition's pose, as in MVDream (Shi et al.
    2023).
    Latents are in the UNet's space (the autoencoder's times its scaling factor). The autoencoder stays in float32 if
    the pipeline is in half precision, since gradients of means (1e-7) underflow in float16.
    ``dtype``: of particles and images, float32, or float64 for a pipeline in float64.
    ``revision``: the model's commit, for the record. Raises ValueError for unsupported classes and predictions.
    """

    latent = True

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str = "pipeline",
        device: str | torch.device = "cpu",
        revision: str | None = None,
    ):
        self.name, self.revision = name, revision
        self.prediction_type = _check_parts(pipeline, name)
        self.schedule = Schedule.from_scheduler(pipeline.scheduler)
        self.tokenizer = pipeline.tokenizer
        self.unet, self.text_encoder, self.vae = (
            part.to(device).eval().requires_grad_(False)
            for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae)
        )
        if self.vae.dtype in (torch.float16, torch.bfloat16):
            self.vae.float()
        self.device = self.unet.device
        self.dtype = self.vae.dtype
        self._unet_dtype = self.unet.dtype  # kept, since diffusers walks through all modules to find it
        self.scaling_factor = float(self.vae.config.scaling_factor)
        side = square_side(self.unet.config.sample_size, name)
        self.latent_shape = (self.unet.config.in_channels, side, side)
        self.image_size = side * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.calls = Counter()
        self.posed = pipeline.unet.config.class_embed_type is not None
        self.watch = Watch()
        self._embeddings: dict[str, torch.Tensor] = {}

    @property
    def network(self) -> Any:
        """The UNet."""
        return self.unet

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Embed the prompts. ``guidance``: s of uncond + s (text - uncond), where the negative prompt replaces the
        unconditional one; 1 means none, at half the cost. Warns of a prompt that is too long or has no effect.

        Raises ValueError for a new prompt after :meth:`release_text_encoder`.
        """
        guided = guidance != 1
        if negative_prompt and not guided:
            warnings.warn("The negative prompt has no effect without guidance (guidance is 1).", stacklevel=2)
        negative = self._embed(negative_prompt) if guided else None
        return Condition(prompt, negative_prompt, guidance, self._embed(prompt), negative)

    def release_text_encoder(self) -> None:
        """Free the text encoder's memory; embedded prompts keep working."""
        self._embed("")
        self.text_encoder = None

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise [B, C, h, w] in z_t's dtype; t: an index 0..T-1 or [B]. Guidance is one call on 2B
        images."""
        c = condition or self.condition()
        assert c.embeddings is not None, "this condition was made by another prior"
        at = self.schedule.time(t, self.device)
        guess = guided(lambda texts: self._predict(z_t, at, texts, c.pose), c)
        return as_epsilon(guess, z_t, t, self.prediction_type, self.schedule)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode [B, 3, H, W] in [-1, 1] to the scaled mode of the posterior [B, C, h, w]; differentiable."""
        self.calls["encoder_forward"] += len(x)
        z = (self.scaling_factor * self.vae.encode(x.to(self.dtype)).latent_dist.mode()).to(x.dtype)
        self.watch.see(network(self.name, "encoder", "vae"), z, x)
        return count_backward(z, self.calls, "encoder_backward", len(x))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode [B, C, h, w] to [B, 3, H, W], about [-1, 1], not clamped; differentiable."""
        self.calls["decoder_forward"] += len(z)
        with multiplying(self.device, self.autocast):
            x = self.vae.decode(z.to(self.dtype) / self.scaling_factor).sample.to(z.dtype)
        self.watch.see(network(self.name, "decoder", "vae"), x, z)
        return count_backward(x, self.calls, "decoder_backward", len(z))

    def save_memory(self, lean: bool) -> None:
        """Switch checkpointing of the decoder's blocks on or off: about 1.4 times the time, a seventh of the graph, the
        same gradients."""
        self.vae.enable_gradient_checkpointing() if lean else self.vae.disable_gradient_checkpointing()

    def _predict(
        self, z_t: torch.Tensor, t: torch.Tensor, texts: list[torch.Tensor], pose: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the UNet's own prediction for z_t with each text embedding [1, L, d], [len(texts) * B, C, h, w]. A
        UNet that reads poses gets zeros where there is none."""
        n, B = len(texts), len(z_t)
        self.calls["unet_forward"] += n * B
        text = torch.cat([e.expand(B, -1, -1) for e in texts]).to(self.device, self._unet_dtype)
        steps = t.repeat(n) if t.ndim else t
        given: dict[str, torch.Tensor] = {}
        if self.posed:
            whole = torch.zeros(B, POSE) if pose is None else pose.expand(B, -1)
            given["class_labels"] = whole.to(self.device, self._unet_dtype).repeat(n, 1)
        with multiplying(self.device, self.autocast):
            out = self.unet(
                torch.cat([z_t] * n).to(self._unet_dtype), steps, encoder_hidden_states=text, **given
            ).sample
        self.watch.see(network(self.name, "UNet", "unet"), out, z_t)
        return count_backward(out.to(z_t.dtype), self.calls, "unet_backward", n * B)

    def _embed(self, text: str) -> torch.Tensor:
        """Return the text encoder's last hidden state, [1, L, d]; cached, so that a prompt is embedded once."""
        if text not in self._embeddings:
            if self.text_encoder is None:
                raise ValueError(f'The text encoder was released before the prompt "{text}" was embedded.')
            length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
            whole = self.tokenizer(text, truncation=False, verbose=False).input_ids
            if len(whole) > length:
                cut = self.tokenizer.decode(whole[length - 1 : -1]).strip()
                cut = cut if len(cut) <= 60 else f"{cut[:57]}..."
                warnings.warn(f'The prompt is longer than {length} tokens; this was cut off: "{cut}"', stacklevel=3)
            tokens = self.tokenizer(
                text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids
            with torch.no_grad():
                self._embeddings[text] = self.text_encoder(tokens.to(self.device))[0]
            self.watch.see(network(self.name, "text encoder", "text_encoder"), self._embeddings[text], None)
        return self._embeddings[text]


def load_latent(found: Index, *, device: str | torch.device, dtype: torch.dtype) -> LatentPrior:
    """Load the pipeline ``found``: only safetensors, only the classes of ``LATENT``, without safety checker. Raises
    ValueError with the remedy.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    precisions = {"unet": dtype, "vae": torch.float32 if half else dtype, "text_encoder": dtype}
    with quietly():
        from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts = {part: load_network(kind, found, part, precisions[part]) for part, kind in kinds.items()}
        pipeline = StableDiffusionPipeline(
            **parts, tokenizer=load_tokenizer(CLIPTokenizer, found), scheduler=load_scheduler(found),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    return LatentPrior(pipeline, name=found.name, device=device, revision=found.commit)


def _check_parts(pipeline: Any, name: str) -> str:
    """Return the prediction type of a supported pipeline. Raise ValueError for others."""
    for part, classes in LATENT.items():
        kind = type(getattr(pipeline, part, None)).__name__
        if kind not in classes:
            raise ValueError(
                f'The {part} of the prior "{name}" is {with_article(kind)}; it must be {with_article(classes[0])}.'
            )
    prediction = check_scheduler(pipeline.scheduler, name)
    channels, latent = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != latent:
        raise ValueError(
            f'The UNet of the prior "{name}" takes {channels} channels for latents of {latent}: an inpainting or depth '
            "model; use the plain text-to-image one."
        )
    unet = pipeline.unet.config
    known = (None, None), ("projection", POSE)
    if (unet.class_embed_type, unet.projection_class_embeddings_input_dim) not in known or unet.num_class_embeds:
        raise ValueError(
            f'The UNet of the prior "{name}" wants class labels; it must take none, or the {POSE} entries of a '
            "camera-to-world matrix."
        )
    return prediction
