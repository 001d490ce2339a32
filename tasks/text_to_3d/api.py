"""Text to 3D as a Python API: ``rsd.text_to_3d(prompt)``, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.runs.api import Features, drive, resolve_options

from .distillation import Run
from .gallery import Gallery
from .head import settings
from .options import TextTo3D
from .packaged import packaged


@dataclass(frozen=True)
class Sculpture:
    """``gallery``: the scenes, which :meth:`Gallery.photographs` shows from any camera; ``images``: from the front,
    [N, 3, H, W] in [-1, 1]; the run's records, the options that it ran with, and ``source``: where they come from."""

    gallery: Gallery
    images: torch.Tensor
    records: list[Record]
    options: TextTo3D
    source: str


def text_to_3d(
    prompt: str,
    *,
    prior: Prior | str = "heads-pixels",
    features: Features | str = "auto",
    method: str = "sds",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Sculpture:
    """Make ``particles`` scenes of a prompt by score distillation, with repulsion.

    The arguments are those of :func:`rsd.text_to_image`, with the options of ``rsd text-to-3d``. Raises ValueError,
    before any model is loaded, for unknown names and settings and for values that cannot work; and for a run that
    diverged.
    """
    o, source, prior, embed = resolve_options(TextTo3D, packaged, prompt, prior, features, method, changes)
    run = Run(prior, prompt, settings(o), embed=embed, image=prompt)
    remedy = f"lower lr ({o.lr:g}), guidance ({o.guidance:g}) or gamma ({o.gamma:g})"
    images, records = drive(run, diverged=lambda where: f"The run diverged at {where}; {remedy}.", progress=progress)
    return Sculpture(run.particles, images, records, o, source)
