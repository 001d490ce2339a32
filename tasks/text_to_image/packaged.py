"""The packaged settings for a drawing, and the options that follow from them. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from rsd.priors import is_built_in_flow, over_heads
from rsd.runs.prompts import PromptCommand
from rsd.runs.settings import Packaged, section

from .options import SAMPLERS, TextToImage

NO_PIXEL = (
    "engine",
    "resume", "shard", "dry_run", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk",
    "memory", "metrics", "clip_model", "aesthetic_weights", "fid_folder", "fid_features", "div_features",
)  # fmt: skip
"""Options that change no pixel except by rounding (device, chunk, memory): they may differ when a run is resumed, and
config.yaml does not contain them."""

ADDED = {
    "repel_every": 1, "interacting": None, "feature_size": None, "force_decoder": None, "autocast": False,
    "draw": None, "keep": None, "noise": "fresh", "inversion_steps": 4, "optimiser": "adam",
    "sample_below": 0.0, "clean": False, "size": None, "push_limit": None,
}  # fmt: skip
"""Options that older versions' config.yaml does not contain, with the values that their runs used."""


def packaged(method: str, prior: str) -> Packaged:
    """Return the packaged settings: tuned ones for the built-in priors, the paper's for others. A method without a
    section takes VSD's (distillations) or Ancestral's (samplers), without gamma."""
    files = ["heads.yaml" if over_heads(prior) else "sd.yaml"]
    if is_built_in_flow(prior):
        files.insert(0, f"{prior.replace('-', '_')}.yaml")
    nearest = "ancestral" if method in SAMPLERS else "vsd"
    own = [section("text_to_image", file, method) for file in files]
    near = [section("text_to_image", file, nearest, skip=("gamma",)) for file in files]  # gamma differs between methods
    found = next(filter(None, own + near), None)
    assert found, "every method has one"
    return found


class ImageCommand(PromptCommand):
    """``rsd text-to-image``."""

    def resolved(self, options: TextToImage) -> dict[str, Any]:
        """Return the options as plain values for config.yaml, with the gamma that applies."""
        return {**super().resolved(options), "gamma": options.strength}


COMMAND = ImageCommand("text-to-image", TextToImage, lambda o: packaged(o.method, o.prior), NO_PIXEL)
parse = COMMAND.parse
