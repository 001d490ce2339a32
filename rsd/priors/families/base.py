"""The base class of all families: a diffusers pipeline as a prior."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rsd.priors.base import (
    Condition,
    Prior,
    as_epsilon,
    check_scheduler,
    count_backward,
    flow_state,
    multiplying,
    network,
    without,
)
from rsd.priors.families import BY_PIPELINE, Family, image_side, scale_factor
from rsd.priors.families.words import Words, read, write
from rsd.priors.watch import MAX_FEATURE, Watch
from rsd.runs.words import with_article
from rsd.schedule import Schedule

Size = int | tuple[int, int]


class FamilyPrior(Prior):
    """A diffusers text-to-image pipeline as a prior.

    Latents [B, C, h, w] are in the network's space, with alpha^2 + sigma^2 = 1 at every noise level. For a flow they
    are divided by alpha + sigma before they enter the network, and its velocity is converted to epsilon. The
    pipeline's parts are used in place, frozen and in evaluation mode. The autoencoder runs in float32 if the network
    is in half precision.

    ``size``: side of the images in pixels, or (height, width); None: the pipeline's default. ``epsilon``, ``encode``
    and ``decode`` accept other sizes too; ``image_size`` is the longer side.
    ``device``: where the parts are moved; None leaves them in place, for a pipeline with offloading or quantised parts.
    ``load_text``: loads the text encoders into the pipeline for a new prompt. ``cache``: folder of embeddings.
    Raises ValueError for other classes of pipelines and schedulers, and for unsupported sizes.
    """

    latent = True
    flow = True
    """Whether the models are flow-matching models; otherwise the scheduler says epsilon or v."""
    patch = 2
    """The sides of a latent are multiples of this."""

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str = "pipeline",
        device: str | torch.device | None = "cpu",
        revision: str | None = None,
        size: Size | None = None,
        load_text: Callable[[FamilyPrior], None] | None = None,
        cache: Path | None = None,
    ):
        self.name, self.revision, self.pipeline = name, revision, pipeline
        self.family = check_pipeline(pipeline, name)
        self.prediction_type = check_scheduler(pipeline.scheduler, name, flow=self.flow)
        self.vae = pipeline.vae
        net = self.network
        for part in (net, self.vae):
            part.eval().requires_grad_(False)
        if self.vae.dtype in (torch.float16, torch.bfloat16):
            self.vae.float()
        if device is not None:
            net.to(device)
            self.vae.to(device)
        self.device = net.device if device is not None else torch.device(pipeline._execution_device)
        self.dtype = self.vae.dtype
        self._net_dtype = net.dtype
        self.factor = scale_factor(self.vae.config) * self.latent_patch
        self.latent_shape = self._shape(size or image_side(self.family, net.config, self.vae.config))
        self.image_size = max(self.latent_shape[1:]) * self.factor
        tokens = self.latent_shape[1] * self.latent_shape[2] // self.patch**2
        self.schedule = Schedule.from_scheduler(pipeline.scheduler, tokens=tokens, mu=self.mu(tokens))
        self.calls = Counter()
        self.watch = Watch()
        self._load_text, self._cache = load_text, cache
        self._known: dict[tuple[str, bool], Words] = {}

    # Overridden by families.

    latent_patch = 1
    """Entries of the autoencoder's latent per entry of the network's, along a side."""

    @property
    def channels(self) -> int:
        """Number of latent channels."""
        return int(self.network.config.in_channels)

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is an input of the network instead of a combination of two predictions."""
        return bool(self.network.config.get("guidance_embeds", False))

    @property
    def distilled(self) -> bool:
        """Whether the model has no unconditional prediction, so that guidance is impossible."""
        return bool(self.pipeline.config.get("is_distilled", False))

    def mu(self, tokens: int) -> float | None:
        """Return the pipeline's own logarithm of the shift for an image of ``tokens``; None: the scheduler's rule."""
        return None

    def embed(self, text: str, device: torch.device, negative: bool) -> Words:
        """Embed a prompt with the pipeline's own encode_prompt. ``negative``: as a negative prompt."""
        raise NotImplementedError

    def predict(self, z: torch.Tensor, time: torch.Tensor, words: Words, guidance: float) -> torch.Tensor:
        """Return the network's prediction for z [B, C, h, w] at ``time`` [B], 1000 s for a flow; ``words``: B rows."""
        raise NotImplementedError

    def guided(self, uncond: torch.Tensor, text: torch.Tensor, guidance: float) -> torch.Tensor:
        """Combine the predictions without and with text."""
        return uncond + guidance * (text - uncond)

    def encoded(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images to the posterior's mode, in the autoencoder's space."""
        return self.vae.encode(x).latent_dist.mode()

    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents in the autoencoder's space."""
        return self.vae.decode(z, return_dict=False)[0]

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Convert latents from the autoencoder's space to the network's."""
        return (z - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor

    def unscaled(self, z: torch.Tensor) -> torch.Tensor:
        """Convert latents from the network's space to the autoencoder's."""
        return z / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)

    # The interface of a prior.

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(3, H, W), which need not be square."""
        return 3, self.latent_shape[1] * self.factor, self.latent_shape[2] * self.factor

    @property
    def network(self) -> Any:
        """The transformer, or SDXL's UNet."""
        return getattr(self.pipeline, self.family.network)

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Embed the prompts. ``guidance``: s of uncond + s (text - uncond), with the negative prompt as uncond; 1 means
        no guidance, at half the cost. If the network takes guidance as an input (FLUX.1 dev), s is that input. Warns if
        a setting has no effect. Raises ValueError for a new prompt after :meth:`release_text_encoder`, unless the
        encoders can be loaded again.
        """
        takes = guidance != 1 and not self.takes_guidance and not self.distilled
        if self.distilled and guidance != 1:
            warnings.warn(f'The prior "{self.name}" is distilled: guidance has no effect; leave it at 1.', stacklevel=2)
        if negative_prompt and not takes:
            why = "without guidance (guidance is 1)" if guidance == 1 else f'on the prior "{self.name}"'
            warnings.warn(f"The negative prompt has no effect {why}.", stacklevel=2)
        text = self._words(prompt, not prompt)
        other: Words = self._words(negative_prompt, True) if takes else {}
        return Condition(
            prompt, negative_prompt, guidance, text["embeddings"], other.get("embeddings"), pooled=text.get("pooled"),
            mask=text.get("mask"), negative_pooled=other.get("pooled"), negative_mask=other.get("mask"),
        )  # fmt: skip

    def release_text_encoder(self) -> None:
        """Free the memory of the text encoders. Prompts that are already embedded keep working."""
        self._words("", True)
        for part in self.family.texts:
            if part.startswith("text_encoder"):
                setattr(self.pipeline, part, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise [B, C, h, w], in z_t's dtype. t: an index 0..T-1 or [B]. Guidance takes a second call,
        Perp-Neg a third."""
        c = condition or self.condition()
        assert c.embeddings is not None, "this condition was made by another prior"
        time = self.schedule.time(t, self.device).expand(len(z_t))
        z = flow_state(z_t, t, self.schedule) if self.prediction_type == "flow" else z_t
        guess = self._predict(z, time, {"embeddings": c.embeddings, "pooled": c.pooled, "mask": c.mask}, c.guidance)
        if c.negative is not None:
            other = {"embeddings": c.negative, "pooled": c.negative_pooled, "mask": c.negative_mask}
            uncond = self._predict(z, time, other, c.guidance)
            if (free := c.unconditional) is not None:
                other = {"embeddings": free.embeddings, "pooled": free.pooled, "mask": free.mask}
                negative, uncond = uncond, self._predict(z, time, other, c.guidance)
                guess = without(guess, negative, uncond, c.perp_neg)
            guess = self.guided(uncond, guess, c.guidance)
        return as_epsilon(guess, z_t, t, self.prediction_type, self.schedule)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images [B, 3, H, W] in [-1, 1] to the posterior's mode [B, C, h, w], in the network's space.
        Differentiable.

        Raises ValueError for unsupported sides."""
        self._shape((x.shape[-2], x.shape[-1]))
        self.calls["encoder_forward"] += len(x)
        z = self.scaled(self.encoded(x.to(self.dtype))).to(x.dtype)
        self.watch.see(network(self.name, "encoder", "vae"), z, x)
        return count_backward(z, self.calls, "encoder_backward", len(x))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents [B, C, h, w] to images [B, 3, H, W], about [-1, 1] but not clamped. Differentiable."""
        self.calls["decoder_forward"] += len(z)
        with multiplying(self.device, self.autocast):
            x = self.decoded(self.unscaled(z.to(self.dtype))).to(z.dtype)
        self.watch.see(network(self.name, "decoder", "vae"), x, z)
        return count_backward(x, self.calls, "decoder_backward", len(z))

    def save_memory(self, lean: bool) -> None:
        """Use gradient checkpointing in the decoder if ``lean``; see LatentPrior.save_memory. No effect on autoencoders
        without it (Qwen-Image, SANA)."""
        if not self.vae._supports_gradient_checkpointing:
            return
        self.vae.enable_gradient_checkpointing() if lean else self.vae.disable_gradient_checkpointing()

    def _predict(self, z: torch.Tensor, time: torch.Tensor, words: dict[str, Any], guidance: float) -> torch.Tensor:
        B = len(z)
        self.calls["unet_forward"] += B
        rows = {k: v.expand(B, *v.shape[1:]).to(self.device) for k, v in words.items() if v is not None}
        rows = {k: v.to(self._net_dtype) if v.is_floating_point() else v for k, v in rows.items()}
        with multiplying(self.device, self.autocast):
            out = self.predict(z.to(self._net_dtype), time, rows, guidance).to(z.dtype)
        self.watch.see(network(self.name, self.family.network, self.family.network), out, z)
        return count_backward(out, self.calls, "unet_backward", B)

    def _shape(self, size: Size) -> tuple[int, int, int]:
        """Return the shape of the latents of images of ``size``. Raise ValueError for unsupported sizes."""
        sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        step = self.factor * self.patch
        if any(side < step or side % step for side in sides):
            raise ValueError(
                f'Pictures of the prior "{self.name}" have sides that are multiples of {step} px; got '
                f"{sides[0]} x {sides[1]}."
            )
        return self.channels, sides[0] // self.factor, sides[1] // self.factor

    def _words(self, text: str, negative: bool) -> Words:
        """Return a prompt's embedding from memory, the cache or the encoders."""
        key = text, negative
        if key not in self._known:
            found = read(self._cache, text, negative)
            if found is None:
                found = self._embedded(text, negative)
                write(self._cache, text, negative, found)
            self._known[key] = {k: v.to(self.device) for k, v in found.items()}
            part = network(self.name, "text encoder", "text_encoder")
            self.watch.see(part, self._known[key]["embeddings"], None, MAX_FEATURE)
        return self._known[key]

    @torch.no_grad()
    def _embedded(self, text: str, negative: bool) -> Words:
        if self.pipeline.text_encoder is None:
            if self._load_text is None:
                raise ValueError(f'The text encoder was released before the prompt "{text}" was embedded.')
            self._load_text(self)
        for part in self.family.texts:
            if part.startswith("text_encoder") and getattr(self.pipeline, part) is not None:
                getattr(self.pipeline, part).eval().requires_grad_(False)
        return self.embed(text, self.pipeline.text_encoder.device, negative)


def check_pipeline(pipeline: Any, name: str) -> Family:
    """Return the family of a pipeline in memory. Raise ValueError if it or one of its parts is not supported."""
    kind = type(pipeline).__name__
    if kind not in BY_PIPELINE:
        raise ValueError(f'The prior "{name}" is {with_article(kind)}; it must be one of {", ".join(BY_PIPELINE)}.')
    family = BY_PIPELINE[kind]
    for part, classes in family.parts.items():
        there = type(getattr(pipeline, part, None)).__name__
        if there not in classes and not (there == "NoneType" and part in family.texts):
            raise ValueError(
                f'The {part} of the prior "{name}" is {with_article(there)}; it must be {with_article(classes[0])}.'
            )
    return family
