"""Feature maps for the repulsion: differentiable modules from images [B, 3, H, W] in [-1, 1] to features [B, d]."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rsd.features import perceptual
from rsd.hub import built_in_folder, check_name, fetch, find_object, quietly, read_json
from rsd.hub.weights import load_model
from rsd.priors.base import Prior, multiplying
from rsd.priors.watch import MAX_FEATURE, MAX_INPUT, REMEDY, beyond, magnitude, watch_of

Embedding = Callable[[torch.Tensor], torch.Tensor]

BUILT_IN = ("pixels", "heads", "heads-layers", "lpips")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNCHANGED = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and standard deviation in [0, 1] that leave [-1, 1] unchanged."""
VITS = ("vit", "dinov2", "dinov2_with_registers")


class Pixels(nn.Module):
    """The image itself, [B, 3HW], for Euclidean distances between images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, 3HW]."""
        return x.flatten(1)


class ViT(nn.Module):
    """The CLS token [B, d] of a transformers ViTModel or Dinov2Model. Positions are interpolated, so images have any
    size.

    ``mean``, ``std``: the normalisation of images in [0, 1], per channel; 0.5 and 0.5 leave [-1, 1] unchanged.
    ``size``: resize images to size x size first (:func:`resized`); None leaves them unchanged.
    The model is frozen and in evaluation mode.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...] = UNCHANGED[0],
        std: tuple[float, ...] = UNCHANGED[1],
        size: int | None = None,
    ):
        super().__init__()
        self.model = model
        self.size = size
        self.options = (
            {"interpolate_pos_encoding": True}
            if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
            else {}
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [B, d] of x [B, 3, H, W] in [-1, 1], computed in the model's precision, in x's dtype."""
        return self._run(x).last_hidden_state[:, 0].to(x.dtype)

    def hidden(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tokens [B, 1 + P, D] after each block, the CLS token first; x as in :meth:`forward`."""
        return self._run(x, output_hidden_states=True).hidden_states[1:]

    def _run(self, x: torch.Tensor, **options: bool) -> Any:
        pixels = resized(x.to(self.mean.dtype), self.size)
        pixels = ((pixels + 1) / 2 - self.mean) / self.std
        return self.model(pixel_values=pixels, **self.options, **options)


def resized(x: torch.Tensor, size: int | None) -> torch.Tensor:
    """Resize images [B, 3, H, W] to size x size (antialiased bicubic); None leaves them unchanged."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bicubic", antialias=True)


class Resized(nn.Module):
    """A feature map of images resized to size x size."""

    def __init__(self, features: nn.Module, size: int):
        super().__init__()
        self.features, self.size = features, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [B, d]."""
        return self.features(resized(x, self.size))


class Function(nn.Module):
    """A user's feature map from x [B, 3, H, W] in [-1, 1] to [B, ...], flattened to [B, d]; a module is frozen."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], name: str):
        super().__init__()
        self.function, self.name = function, name
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [B, d]. Raise ValueError if the function does not return one row per image."""
        phi = self.function(x)
        if not isinstance(phi, torch.Tensor) or phi.ndim < 2 or len(phi) != len(x):
            found = list(phi.shape) if isinstance(phi, torch.Tensor) else type(phi).__name__
            raise ValueError(f"{self.name} returned {found} for {len(x)} images; return a tensor [{len(x)}, d].")
        return phi.flatten(1)


def check_features_name(name: str) -> None:
    """Raise ValueError if ``name`` is not a valid feature map. Loads nothing."""
    if not _is_function(name):
        check_name(name, what="feature map", built_in=BUILT_IN, marker="config.json", example="facebook/dino-vits16")


def load_features(
    name: str,
    *,
    device: str | torch.device = "cpu",
    normalise: bool = True,
    size: int | None = None,
    revision: str | None = None,
) -> nn.Module:
    """Load a frozen feature map in float32.

    ``name``: ``pixels``; ``heads`` (the built-in ViT, trained on images in [-1, 1]); ``heads-layers`` (all its layers,
    compared as in LPIPS); ``lpips`` (at least 32 px); a local folder or hub id of a ViTModel or Dinov2Model such as
    ``facebook/dino-vits16`` (safetensors only); or ``module:function``, the user's own (this runs the module's code).
    ``normalise``: as the model's preprocessor (ImageNet's if it has none); False passes [-1, 1], as the paper's code
    did. ``size``: resize images to it; default: the training size for the built-in ViT, no resizing for others.
    Raises ValueError or FileNotFoundError with the remedy, or ImportError if a package is missing or the user's module
    does not import.
    """
    check_features_name(name)
    found = _load(name, device, normalise=normalise, size=size, revision=revision)
    found.__dict__["name"] = name  # for messages
    return found


def _load(
    name: str, device: str | torch.device, *, normalise: bool, size: int | None, revision: str | None
) -> nn.Module:
    if name in ("pixels", "lpips") or _is_function(name):
        found = _load_other(name, device)
        return Resized(found, size) if size else found
    if name == "heads-layers":
        return perceptual.vit_features(_load_vit("heads", normalise=normalise, size=size, revision=None)).to(device)
    return _load_vit(name, normalise=normalise, size=size, revision=revision).to(device)


def _load_other(name: str, device: str | torch.device) -> nn.Module:
    if name == "pixels":
        return Pixels()
    if name == "lpips":
        return perceptual.lpips_features(perceptual.lpips_network(device=device)).to(device)
    function = find_object(name, what="feature map", example="my_features:embed")
    if isinstance(function, type) or not callable(function):
        raise ValueError(f'The feature map "{name}" is not a function; it must map images to features.')
    return Function(function, name).to(device)


def _load_vit(name: str, *, normalise: bool, size: int | None, revision: str | None) -> ViT:
    what = "feature map"
    folder = built_in_folder("features", marker="config.json") if name == "heads" else Path(name).expanduser()
    local = folder.is_dir()
    config = folder / "config.json" if local else fetch(name, "config.json", revision=revision, what=what)
    kind = read_json(config).get("model_type")
    if kind not in VITS:
        raise ValueError(f'The feature map "{name}" is a "{kind}"; give a ViT or a DINOv2 ({", ".join(VITS)}).')
    commit = None if local else config.parent.name
    pooling: dict[str, Any] = {"add_pooling_layer": False} if kind == "vit" else {}
    with quietly():
        from transformers import AutoModel
    model = load_model(
        AutoModel, name, folder if local else None, what=what, dtype=torch.float32, commit=commit,
        trust_remote_code=False, **pooling,
    )  # fmt: skip
    if name == "heads":
        return ViT(model, size=size or model.config.image_size)
    if not normalise:
        return ViT(model, size=size)
    mean, std = _normalisation(name, folder if local else None, commit)
    return ViT(model, mean=mean, std=std, size=size)


def _normalisation(name: str, folder: Path | None, commit: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the model's preprocessor; ImageNet's if it has none."""
    if folder is not None:
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return IMAGENET
    else:
        try:
            path = fetch(name, "preprocessor_config.json", revision=commit, what="feature map")
        except ValueError:
            return IMAGENET
    config = read_json(path)
    if "image_mean" not in config or "image_std" not in config:
        return IMAGENET
    return tuple(config["image_mean"]), tuple(config["image_std"])


def _is_function(name: str) -> bool:
    return ":" in name and not Path(name).expanduser().is_dir()


def on_cpu(features: Embedding, device: str | torch.device) -> Embedding:
    """Wrap ``features``: CPU images to CPU features, computed without gradients on ``device``."""

    @torch.no_grad()
    def embed(images: torch.Tensor) -> torch.Tensor:
        return features(images.to(device)).cpu()

    return embed


class Decoded:
    """phi = features(D(z_t)), [N, d], the paper's feature map of latents. ``decode``: a cheaper decoder instead of
    D."""

    lean = False

    def __init__(self, prior: Prior, features: Embedding, decode: Embedding | None = None):
        self.prior, self.features, self.decode = prior, features, decode

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Return features of latents [N, *latent_shape]. Raise ValueError, with the network's name, if the decoder or
        the feature map return implausible values for plausible inputs (rsd.priors.watch)."""
        with multiplying(z.device, self.prior.autocast):
            x = (self.decode or self.prior.decode)(z).to(z.dtype)
            phi = checkpoint(self.features, x, use_reentrant=False) if self.lean else self.features(x)
        phi = phi.to(x.dtype)
        if x.is_meta:  # a dry run
            return phi
        most = float(magnitude(phi)) if phi.numel() else 0.0
        if not most <= MAX_FEATURE:
            watch_of(self.prior).check()  # the decoder may be the cause
            if float(magnitude(x)) <= MAX_INPUT:  # otherwise the run has diverged, which is reported there
                name = getattr(self.features, "name", None)
                which = f'The feature map "{name}"' if name else "The feature map"
                raise ValueError(f"{which} {beyond(most)} for plausible images; {REMEDY} Or choose other --features.")
        return phi

    def save_memory(self, lean: bool) -> None:
        """Switch checkpointing of the feature map on or off."""
        self.lean = lean
