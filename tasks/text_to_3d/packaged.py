"""The packaged settings for scenes, and the options that follow from them. Imports nothing heavy."""

from __future__ import annotations

from rsd.priors import over_heads
from rsd.runs.prompts import PromptCommand
from rsd.runs.settings import Packaged, presets, section

from .options import TextTo3D
from .view_words import without_view

NO_SCENE = (
    "engine", "dry_run",
    "resume", "shard", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "memory",
    "views_at_once", "size", "turntable", "mp4", "mesh", "mesh_resolution", "mesh_faces", "texture",
    "mesh_threshold", "div_features",
)  # fmt: skip
"""Options that change no scene: they may differ when a run is resumed, and config.yaml does not contain them."""

ADDED = {
    "levels": 16, "log2_hashmap_size": 19, "per_level_scale": 1.447269237440378, "octaves": 6, "light_up": 0.0,
    "threshold": None, "repel_every": 1, "interacting": None, "feature_size": None, "force_decoder": None,
    "autocast": False, "noise": "fresh", "inversion_steps": 4, "timesteps": "uniform",
    "cameras": "drawn", "optimiser": "adam", "fit_steps": 10, "fit_rays": 2048, "fit_lead": 0.25,
    "view_noise": "own", "blob": 1.0, "preset": None, "scene_words": "", "perp_neg": None,
    "push_limit": None,
}  # fmt: skip
"""Options that older versions' config.yaml does not contain, with the values that their runs used."""


FILES = {"heads-pixels": ("heads_pixels.yaml",), "heads-views": ("heads_views.yaml", "heads.yaml")}
"""The files of packaged settings of priors with their own, in order."""


def packaged(method: str, prior: str, preset: str | None = None) -> Packaged:
    """Return the packaged settings: tuned ones for heads, the paper's for other priors (VSD's are SDS's). Raise
    ValueError for an unknown preset."""
    own = FILES.get(prior, ("heads.yaml",) if over_heads(prior) else ("if.yaml",))
    places = [(file, method) for file in own] + [(file, "sds") for file in own]
    found = next(held for place in places if (held := section("text_to_3d", *place)))
    if preset is None:
        return found
    chosen = section("text_to_3d", found.file, found.method, preset)
    if chosen is None:
        known = ", ".join(presets("text_to_3d", found.file, found.method)) or "none"
        raise ValueError(f'There is no preset "{preset}" for {method} with {prior}; there are: {known}.')
    return chosen


COMMAND = PromptCommand(
    "text-to-3d", TextTo3D, lambda o: packaged(o.method, o.prior, o.preset), NO_SCENE, tidy=without_view
)
parse = COMMAND.parse
