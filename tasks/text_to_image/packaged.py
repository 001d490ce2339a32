"""The packaged settings for a drawing, and the options that follow from them. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import Any

from rsd.priors import over_heads
from rsd.runs.settings import Packaged, layered, plain, section

from .names import SAMPLERS
from .options import TextToImage

NO_PIXEL = (
    "engine",
    "resume", "shard", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "memory",
    "metrics", "clip_model", "aesthetic_weights", "fid_folder", "fid_features", "div_features",
)  # fmt: skip
"""Options that change no pixel, but for rounding (device, chunk, memory): a run may be resumed with others, and
config.yaml leaves them out."""

ADDED = {
    "repel_every": 1, "interacting": None, "feature_size": None, "force_decoder": None, "autocast": False,
}  # fmt: skip
"""Options that a run of an older version does not name in its config.yaml, and what it was made with."""


def packaged(method: str, prior: str) -> Packaged:
    """The packaged settings: heads are tuned apart, all else is the paper's. A method without its own takes VSD's
    (distillations) or Ancestral's (samplers), but for gamma."""
    file = "heads.yaml" if over_heads(prior) else "sd.yaml"
    nearest = "ancestral" if method in SAMPLERS else "vsd"
    own = section("text_to_image", file, method)
    found = own or section("text_to_image", file, nearest, skip=("gamma",))  # another method's gamma would not do
    assert found, "every method has one"
    return found


def parse(argv: list[str]) -> tuple[TextToImage, str]:
    """Options from the packaged settings, then --config, then the flags; and the name of those settings."""
    options, name = layered(
        TextToImage, argv, prog="rsd text-to-image", positional="prompt",
        packaged=lambda options: packaged(options.method, options.prior),
    )  # fmt: skip
    assert name, "every method has one"
    return options, name


def resolved(options: TextToImage) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    return {**found, "gamma": options.strength, "features": options.features_name}
