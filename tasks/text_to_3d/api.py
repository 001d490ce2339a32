"""Text to 3D from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.runs.run import Features, Samples, draw

from .gallery import Gallery
from .head import SceneHead
from .options import TextTo3D
from .packaged import COMMAND


@dataclass(frozen=True)
class SceneSamples(Samples):
    """``images``: from the front. ``gallery``: the scenes; :meth:`Gallery.photographs` shows them from any camera."""

    gallery: Gallery


def text_to_3d(
    prompt: str,
    *,
    prior: Prior | str = "heads-views",
    features: Features | str = "auto",
    method: str = "sds",
    progress: Callable[[Record], None] | None = None,
    **changes: Any,
) -> SceneSamples:
    """Make ``particles`` scenes of a prompt by score distillation, with repulsion.

    The arguments and errors are those of :func:`rsd.text_to_image`, with the options of ``rsd text-to-3d``.
    """
    run, samples = draw(
        TextTo3D, COMMAND.packaged, prompt, prior, features, method, changes, progress,
        make_run=SceneHead.make_run, remedy=SceneHead.remedy,
    )  # fmt: skip
    return SceneSamples(**vars(samples), gallery=run.particles)
