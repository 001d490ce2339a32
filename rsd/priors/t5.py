"""Text embeddings of DeepFloyd IF, cached on disk, so that its large T5 encoder is rarely loaded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LENGTH = 77
"""Tokens of a prompt in IF's training; T5 can read more."""

Load = Callable[[], tuple[Any, Any]]


class T5Embedder:
    """Embeds prompts as ``IFPipeline.encode_prompt``: T5's last hidden states [1, 77, d] with masked padding.

    ``load``: returns the tokenizer and the encoder, called for the first prompt that is not cached. The encoder goes to
    ``device`` if there is enough free memory, otherwise it stays on the CPU.
    ``cache``: the folder with a file per embedding; None keeps them in memory only.
    """

    def __init__(self, load: Load, *, device: str | torch.device = "cpu", cache: Path | None = None):
        self.device, self.cache = torch.device(device), cache
        self._load = load
        self._loaded: tuple[Any, Any] | None = None
        self._known: dict[str, torch.Tensor] = {}

    @property
    def loaded(self) -> bool:
        """Whether the encoder is in memory."""
        return self._loaded is not None

    def __call__(self, prompt: str) -> torch.Tensor:
        """Return the embedding of a prompt on ``device``. Warn if a long prompt is cut."""
        text = prompt.lower().strip()  # as IFPipeline does
        if text not in self._known:
            found = self._read(text)
            if found is None:
                found = self._embed(text)
                self._write(text, *found)
            embedding, cut = found
            if cut:
                cut = cut if len(cut) <= 60 else f"{cut[:57]}..."
                warnings.warn(f'The prompt is longer than {LENGTH} tokens; this was cut off: "{cut}"', stacklevel=4)
            self._known[text] = embedding.to(self.device)
        return self._known[text]

    def release(self) -> None:
        """Free the encoder's memory. Embedded prompts keep working; a new one loads it again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _embed(self, text: str) -> tuple[torch.Tensor, str]:
        """Return the embedding, and the part of the text that was cut off."""
        if self._loaded is None:
            tokenizer, encoder = self._load()
            self._loaded = tokenizer, encoder.eval().requires_grad_(False).to(roomy(encoder, self.device))
        tokenizer, encoder = self._loaded
        whole = tokenizer(text, truncation=False, verbose=False).input_ids
        cut = tokenizer.decode(whole[LENGTH - 1 : -1]).strip() if len(whole) > LENGTH else ""
        tokens = tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        ids, mask = tokens.input_ids.to(encoder.device), tokens.attention_mask.to(encoder.device)
        return encoder(ids, attention_mask=mask)[0], cut

    def _file(self, text: str) -> Path | None:
        return self.cache and self.cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def _read(self, text: str) -> tuple[torch.Tensor, str] | None:
        """Read the cached embedding of a text; None if there is none or it is unreadable."""
        file = self._file(text)
        if file is None or not file.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        with contextlib.suppress(OSError, SafetensorError), safe_open(file, "pt") as held:
            about = held.metadata() or {}
            if about.get("prompt") == text:
                return held.get_tensor("embedding"), about.get("cut", "")
        return None

    def _write(self, text: str, embedding: torch.Tensor, cut: str) -> None:
        """Write an embedding to the cache atomically; if that fails, the prompt is embedded again next time."""
        file = self._file(text)
        if file is None:
            return
        from safetensors.torch import save_file

        part = file.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"embedding": embedding.cpu().contiguous()}, part, {"prompt": text, "cut": cut})
            os.replace(part, file)


def roomy(encoder: torch.nn.Module, device: torch.device) -> torch.device:
    """Return ``device``, or the CPU if the GPU has not enough free memory for the encoder."""
    if device.type != "cuda":
        return device
    size = sum(p.numel() * p.element_size() for p in encoder.parameters())
    free, _ = torch.cuda.mem_get_info(device)
    return device if 1.1 * size < free else torch.device("cpu")
