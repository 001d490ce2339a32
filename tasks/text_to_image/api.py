"""Text to image from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rsd.engine import Record
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.metrics.scoring import Scorers
from rsd.metrics.selection import Fit
from rsd.priors import over_heads
from rsd.priors.base import Prior
from rsd.runs.run import Features, Samples, draw

from .head import ImageHead
from .options import TextToImage
from .packaged import COMMAND
from .scores import prompt_fit


def text_to_image(
    prompt: str,
    *,
    prior: Prior | str = "heads",
    features: Features | str = "auto",
    method: str = "auto",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> Samples:
    """Draw ``particles`` pictures of a prompt by a distillation or a sampler, with repulsion.

    ``prior`` and ``features``: objects, or names as for ``rsd text-to-image``. ``changes``: fields of its options, such
    as ``gamma=20``; they win over the packaged settings of the method and the prior.
    With ``draw=8, keep=4`` it draws 8 and returns the 4 that differ most among those that follow the prompt.
    Raises ValueError for unknown names, unknown settings and invalid values before any model is loaded, and for a run
    that diverged.
    """
    return draw(
        TextToImage, COMMAND.packaged, prompt, prior, features, method, changes, progress,
        make_run=ImageHead.make_run, remedy=ImageHead.remedy, fit=fit,
    )[1]  # fmt: skip


def fit(images: torch.Tensor, prompt: str, options: TextToImage) -> Fit | None:
    """Return how well pictures of heads follow the prompt (:func:`prompt_fit`); None for other priors."""
    if not over_heads(options.prior):
        return None
    return prompt_fit(images.cpu(), prompt, Scorers(judge=HeadsClassifier.load(), face=FaceReader.load()))
