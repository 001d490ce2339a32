"""Prompts to the text embeddings of DeepFloyd IF, cached on disk, so that its large T5 encoder is seldom needed."""

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
"""Tokens of a prompt: IF was trained with that many, though T5 can read more."""

Load = Callable[[], tuple[Any, Any]]


class T5Embedder:
    """T5's last hidden states [1, 77, d] of a prompt, its padding masked: those of ``IFPipeline.encode_prompt``.

    ``load``: gives the tokenizer and the encoder, when the first prompt comes that is not cached. The encoder goes to
    ``device`` if it fits into what is free there, else it stays on the CPU.
    ``cache``: folder of files that hold one prompt's embedding each; None keeps them in memory only.
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
        """The embedding of a prompt, on ``device``; warns of what was cut off a long one."""
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
        """Free the encoder's memory. Prompts seen before keep working; a new one loads it again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _embed(self, text: str) -> tuple[torch.Tensor, str]:
        """The embedding, and what of the text was cut off."""
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
        """What the cache holds for a text; a file that cannot be read counts as none."""
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
        """Into the cache, whole or not at all; where it cannot be written the prompt is embedded anew next time."""
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
    """``device``, or the CPU where a GPU has no room for the encoder beside what it holds."""
    if device.type != "cuda":
        return device
    size = sum(p.numel() * p.element_size() for p in encoder.parameters())
    free, _ = torch.cuda.mem_get_info(device)
    return device if 1.1 * size < free else torch.device("cpu")
