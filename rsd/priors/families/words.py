"""A cache of prompt embeddings on disk, so that the large text encoders are rarely needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import torch

Words = dict[str, torch.Tensor]
"""The embedding of a prompt: "embeddings" [1, L, d], and for some networks "pooled" [1, k] and "mask" [1, L], which is
0 at padding."""


def _file(folder: Path | None, text: str, negative: bool) -> Path | None:
    mark = hashlib.sha256(f"{'negative' if negative else 'prompt'} {text}".encode()).hexdigest()[:32]
    return folder and folder / f"{mark}.safetensors"


def read(folder: Path | None, text: str, negative: bool) -> Words | None:
    """Return the cached embedding of a prompt, or None if ``folder`` has none that can be read."""
    file = _file(folder, text, negative)
    if file is None or not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(OSError, SafetensorError), safe_open(file, "pt") as held:
        if (held.metadata() or {}).get("prompt") == text:
            return {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118
    return None


def write(folder: Path | None, text: str, negative: bool, words: Words) -> None:
    """Write an embedding to ``folder`` atomically. If that fails, the prompt is embedded again next time."""
    file = _file(folder, text, negative)
    if file is None:
        return
    from safetensors.torch import save_file

    part = file.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in words.items()}, part, {"prompt": text})
        os.replace(part, file)
