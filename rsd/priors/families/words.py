"""Embeddings of prompts, kept on disk, so that the large text encoders are seldom needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import torch

Words = dict[str, torch.Tensor]
"""What a network is told of one prompt: "embeddings" [1, L, d], and where it takes them "pooled" [1, k] and "mask"
[1, L], which is 0 where no token is."""


def _file(folder: Path | None, text: str, negative: bool) -> Path | None:
    mark = hashlib.sha256(f"{'negative' if negative else 'prompt'} {text}".encode()).hexdigest()[:32]
    return folder and folder / f"{mark}.safetensors"


def read(folder: Path | None, text: str, negative: bool) -> Words | None:
    """What ``folder`` holds for a prompt; None for nothing, or for a file that cannot be read."""
    file = _file(folder, text, negative)
    if file is None or not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(OSError, SafetensorError), safe_open(file, "pt") as held:
        if (held.metadata() or {}).get("prompt") == text:
            return {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118
    return None


def write(folder: Path | None, text: str, negative: bool, words: Words) -> None:
    """Into ``folder``, whole or not at all; where that cannot be, the prompt is embedded anew next time."""
    file = _file(folder, text, negative)
    if file is None:
        return
    from safetensors.torch import save_file

    part = file.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in words.items()}, part, {"prompt": text})
        os.replace(part, file)
