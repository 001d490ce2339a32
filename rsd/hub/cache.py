"""Weights in PyTorch's own cache, which is not the hub's."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch


def cached_weights(url: str, what: str, *, check_hash: bool = False) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, which is downloaded if PyTorch's cache does not have it. ``what``: the beginning of
    the error's sentence, "LPIPS needs AlexNet's weights, which are". Raises FileNotFoundError if it cannot be had."""
    try:
        found: dict[str, torch.Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=check_hash, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(f"{what} not available: put {url} into {folder} ({error}).") from error
    return found
