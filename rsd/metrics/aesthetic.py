"""The aesthetic score: a small network on CLIP's image embedding that predicts how people rate an image, about 1 to 10.

The predictors of Schuhmann et al. (LAION, 2022) are linear layers without activations on the normalised embedding of
CLIP ViT-L/14. The weights are not downloaded by default: the user names a file, a folder or a hub id.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rsd.hub import HUB_ID
from rsd.hub.weights import find_weights
from rsd.metrics import CLIP, load_clip
from rsd.runs.words import with_article

WEIGHTS = "model.safetensors"
_KEY = re.compile(r"(?:(?:layers|predictor|mlp)\.)?(?:(\d+)\.)?(weight|bias)")

Rate = Callable[[torch.Tensor], torch.Tensor]


def load_aesthetic(
    weights: str | None, *, clip: str = CLIP, device: str | torch.device = "cpu", revision: str | None = None
) -> Rate:
    """Load the score as a function of images [N, 3, H, W] in [-1, 1] (clamped) that returns [N].

    ``weights``: a file (.safetensors, or a state dict .pth, which is read without running code), or a folder or hub id
    with model.safetensors. ``clip``: the CLIP model that the predictor was trained on (see ``rsd.metrics.load_clip``).
    Raises FileNotFoundError or ValueError with the remedy.
    """
    if not weights:
        raise FileNotFoundError(
            "The aesthetic score needs a predictor's weights, which are not included: give --aesthetic-weights FILE, "
            "e.g. sac+logos+ava1-l14-linearMSE.pth from github.com/christophschuhmann/improved-aesthetic-predictor."
        )
    head = _head(_read(weights, revision), weights)
    model, _, pixels = load_clip(clip, device=device)
    if head[0].in_features != model.config.projection_dim:
        raise ValueError(
            f'The aesthetic weights "{weights}" take embeddings of {head[0].in_features} numbers, but "{clip}" has '
            f"{model.config.projection_dim}; give the CLIP model they were trained on."
        )
    head = head.to(device)

    @torch.no_grad()
    def rate(images: torch.Tensor) -> torch.Tensor:
        pooled = model.vision_model(pixel_values=pixels(images)).pooler_output
        return head(F.normalize(model.visual_projection(pooled), dim=1)).flatten().cpu()

    return rate


def _read(weights: str, revision: str | None) -> dict[str, Any]:
    """Read the state dict of a file, a folder or a hub id."""
    path = Path(weights).expanduser()
    what = "aesthetic predictor"
    files: tuple[Path, ...] = (path,)
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            raise FileNotFoundError(f'The folder "{weights}" contains no {WEIGHTS}; give the file of the weights.')
        files = find_weights(weights, path, what=what).files
    elif not path.is_file():
        if path.suffix in (".pth", ".pt", ".bin", ".safetensors") or not HUB_ID.fullmatch(weights):
            raise FileNotFoundError(f'There is no file "{weights}" of aesthetic weights; check the path.')
        files = find_weights(weights, None, what=what, commit=revision).files
    path = files[0]
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {key: value for file in files for key, value in load_file(file).items()}
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, _safetensor_error()) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f'The aesthetic weights "{weights}" cannot be read: {line}') from error
    if not isinstance(found, dict):
        raise ValueError(
            f'The aesthetic weights "{weights}" are {with_article(type(found).__name__)}; give a state dict.'
        )
    return found


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def _head(state: dict[str, Any], name: str) -> nn.Sequential:
    """Create the linear layers of a state dict in order; other networks in it (CLIP's) are ignored."""
    parts: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match and isinstance(value, torch.Tensor):
            parts.setdefault(int(match[1] or 0), {})[match[2]] = value.float()
    layers: list[nn.Module] = []
    width = None
    for _, part in sorted(parts.items()):
        weight, bias = part.get("weight"), part.get("bias")
        if weight is None or bias is None or weight.ndim != 2 or width not in (None, weight.shape[1]):
            raise ValueError(
                f'The aesthetic weights "{name}" are not a chain of linear layers; give a LAION predictor.'
            )
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        width = weight.shape[0]
    if width != 1:
        raise ValueError(f'The aesthetic weights "{name}" contain no linear layers that end in one score.')
    return nn.Sequential(*layers).eval().requires_grad_(False)
