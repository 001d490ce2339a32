"""Text to image as a Python API: ``rsd.text_to_image(prompt)``, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.runs.api import Features, drive, resolve_options
from rsd.runs.flags import fields_of

from . import distillation, samplers
from .names import SAMPLERS
from .options import TextToImage
from .packaged import packaged


@dataclass(frozen=True)
class Drawing:
    """``images`` [N, 3, H, W] in [-1, 1] (not clamped), the run's records, the options that it ran with, and
    ``source``: where they come from."""

    images: torch.Tensor
    records: list[Record]
    options: TextToImage
    source: str


def text_to_image(
    prompt: str,
    *,
    prior: Prior | str = "heads",
    features: Features | str = "auto",
    method: str = "vsd",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Drawing:
    """Draw ``particles`` pictures of a prompt by a distillation or a sampler, with repulsion.

    ``prior`` and ``features``: objects, or names as of ``rsd text-to-image``. ``changes``: fields of its options, such
    as ``gamma=20``; they win over the packaged settings of the method and the prior.
    Raises ValueError, before any model is loaded, for unknown names and settings and for values that cannot work; and
    for a run that diverged.
    """
    o, source, prior, embed = resolve_options(TextToImage, packaged, prompt, prior, features, method, changes)
    module: Any = samplers if o.method in SAMPLERS else distillation
    settings = module.Settings(**{name: getattr(o, name) for name in fields_of(module.Settings)})
    run = module.Run(prior, prompt, settings, embed=embed, image=prompt)
    remedy = f"lower guidance ({o.guidance:g}) or gamma ({o.strength:g})"
    images, records = drive(run, diverged=lambda where: f"The run diverged at {where}; {remedy}.", progress=progress)
    return Drawing(images, records, o, source)
