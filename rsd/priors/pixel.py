"""Diffusion models of pixels as priors: DeepFloyd IF's first stage, and unconditional DDPM pipelines."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from pathlib import Path
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
    thresholded,
)
from rsd.priors.index import BUILT_IN, PIXEL, PLAIN_PIXEL, Index, square_side
from rsd.priors.parts import load_network, load_scheduler, load_tokenizer
from rsd.priors.t5 import T5Embedder
from rsd.priors.watch import Watch
from rsd.runs.words import with_article
from rsd.schedule import Schedule


class PixelPrior(Prior):
    """A pixel-space UNet; latents are the images, [B, 3, s, s] in [-1, 1].

    The UNet is not copied, but frozen, set to evaluation mode and moved to ``device``. A predicted variance is dropped,
    and thresholding is up to the sampler. ``text``: embeds prompts; None for a model without text. ``dtype``: of
    particles and images, float32, or float64 for a UNet in float64. ``revision``: the model's commit, for the record.
    Raises ValueError for unsupported UNets and schedulers.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        text: T5Embedder | None = None,
        *,
        name: str = "pipeline",
        device: str | torch.device = "cpu",
        revision: str | None = None,
    ):
        self.name, self.revision, self.text = name, revision, text
        self.prediction_type = _check_parts(unet, scheduler, text is not None, name)
        self.schedule = Schedule.from_scheduler(scheduler)
        self.unet = unet.to(device).eval().requires_grad_(False)
        self.device = self.unet.device
        self._unet_dtype = self.unet.dtype
        self.dtype = torch.float64 if self._unet_dtype == torch.float64 else torch.float32
        self.image_size = square_side(unet.config.sample_size, name)
        self.latent_shape = (3, self.image_size, self.image_size)
        self.calls = Counter()
        self.watch = Watch()

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, device: str | torch.device = "cpu", **options: Any) -> PixelPrior:
        """Create the prior of an IFPipeline or a DDPMPipeline in memory; ``options``: ``name`` and ``revision``."""
        text = None
        if getattr(pipeline, "text_encoder", None) is not None:
            parts = pipeline.tokenizer, pipeline.text_encoder
            text = T5Embedder(lambda: parts, device=device)
        return cls(pipeline.unet, pipeline.scheduler, text, device=device, **options)

    @property
    def network(self) -> Any:
        """The UNet."""
        return self.unet

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Embed the prompts. ``guidance``: s of uncond + s (text - uncond), where the negative prompt replaces the
        unconditional one; 1 means none, at half the cost. Warns if a prompt is too long or has no effect.
        """
        if self.text is None:
            if prompt or negative_prompt:
                text = prompt or negative_prompt
                warnings.warn(f'The prior "{self.name}" has no text: "{text}" has no effect.', stacklevel=2)
            return Condition(prompt, negative_prompt, guidance)
        guided = guidance != 1
        if negative_prompt and not guided:
            warnings.warn("The negative prompt has no effect without guidance (guidance is 1).", stacklevel=2)
        negative = self.text(negative_prompt) if guided else None
        return Condition(prompt, negative_prompt, guidance, self.text(prompt), negative)

    def release_text_encoder(self) -> None:
        """Free the text encoder's memory; embedded prompts keep working, a new prompt loads it again."""
        if self.text is not None:
            if self.text.loaded:
                self.text("")  # the default condition
            self.text.release()

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise [B, 3, s, s] in z_t's dtype; t: an index 0..T-1 or [B]. Guidance is one call on 2B
        images."""
        c = condition or self.condition()
        at = self.schedule.time(t, self.device)
        guess = guided(lambda texts: self._predict(z_t, at, texts), c)
        eps = as_epsilon(guess, z_t, t, self.prediction_type, self.schedule)
        return eps if c.threshold is None else thresholded(eps, z_t, t, c.threshold, self.schedule)

    def _predict(self, z_t: torch.Tensor, t: torch.Tensor, texts: list[torch.Tensor | None]) -> torch.Tensor:
        """Return the UNet's own prediction for z_t with each text embedding [1, L, d], [len(texts) * B, 3, s, s]."""
        n, B = len(texts), len(z_t)
        self.calls["unet_forward"] += n * B
        z, steps = torch.cat([z_t] * n).to(self._unet_dtype), t.repeat(n) if t.ndim else t
        given = {}
        if self.text is not None:
            rows = [e.expand(B, -1, -1) for e in texts if e is not None]
            assert len(rows) == n, "the condition is from another prior"
            for row in rows:
                self.watch.see(network(self.name, "text encoder", "text_encoder"), row, None)
            given["encoder_hidden_states"] = torch.cat(rows).to(self.device, self._unet_dtype)
        with multiplying(self.device, self.autocast):
            out = self.unet(z, steps, **given).sample[:, :3].to(z_t.dtype)
        self.watch.see(network(self.name, "UNet", "unet"), out, z_t)
        return count_backward(out, self.calls, "unet_backward", n * B)


def load_pixel(found: Index, *, device: str | torch.device, dtype: torch.dtype) -> PixelPrior:
    """Load the pipeline ``found``: only safetensors, only the classes of ``PIXEL`` or ``PLAIN_PIXEL``, without safety
    checker and watermark. The text encoder is loaded when a prompt needs it; embeddings are cached in
    :func:`cache_folder`. Raises ValueError with the remedy.
    """
    with quietly():
        import diffusers

    scheduler = load_scheduler(found)
    unet = load_network(getattr(diffusers, found.parts["unet"][0]), found, "unet", dtype)
    text = None
    if "text_encoder" in found.parts:
        text = T5Embedder(lambda: _load_text(found, dtype), device=device, cache=cache_folder(found, dtype))
    return PixelPrior(unet, scheduler, text, name=found.name, device=device, revision=found.commit)


def cache_folder(found: Index, dtype: torch.dtype) -> Path | None:
    """Return the folder of a model's prompt embeddings: inside HF_HOME, one for each precision and commit (or state of
    a local folder). None for the built-in ones, whose encoder is small."""
    if found.name in BUILT_IN:
        return None
    from huggingface_hub.constants import HF_HOME

    if found.folder is None:
        assert found.commit is not None, "a model on the hub has a commit"
        model, state = found.name.replace("/", "--"), found.commit
    else:
        model, state = f"local--{found.folder.resolve().name}", text_state(found.folder)
    return Path(HF_HOME) / "rsd" / "embeddings" / model / state / str(dtype).removeprefix("torch.")


def text_state(folder: Path) -> str:
    """Return a hash of the text encoders in a pipeline's folder: of the path, the configuration, and names, sizes and
    modification times of the encoders' and the tokenizers' files. The weights are not read."""
    files = sorted(file for part in ("text_encoder", "tokenizer") for file in folder.glob(f"{part}*/*"))
    config = folder / "text_encoder" / "config.json"
    parts = [str(folder.resolve()), config.read_text(encoding="utf-8") if config.is_file() else ""]
    for file in files:
        about = file.stat()
        parts.append(f"{file.relative_to(folder)} {about.st_size} {about.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def _load_text(found: Index, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load the tokenizer and the T5 encoder."""
    from transformers import T5EncoderModel, T5Tokenizer

    return load_tokenizer(T5Tokenizer, found), load_network(T5EncoderModel, found, "text_encoder", dtype)


def _check_parts(unet: Any, scheduler: Any, text: bool, name: str) -> str:
    """Return the prediction type of a supported model. Raise ValueError for others."""
    kind, classes = type(unet).__name__, (PIXEL if text else PLAIN_PIXEL)["unet"]
    if kind not in classes:
        raise ValueError(
            f'The unet of the prior "{name}" is {with_article(kind)}; it must be {with_article(classes[0])}.'
        )
    taken, given = unet.config.in_channels, unet.config.out_channels
    if taken != 3:
        raise ValueError(
            f'The UNet of the prior "{name}" takes {taken} channels; it must take 3, a colour picture (of IF, the '
            "first stage)."
        )
    if given not in (3, 6):
        raise ValueError(
            f'The UNet of the prior "{name}" gives {given} channels; it must give 3, or 6 with a variance.'
        )
    return check_scheduler(scheduler, name)
