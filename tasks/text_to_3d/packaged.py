"""The packaged settings for scenes, and the options that follow from them. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from rsd.priors import over_heads
from rsd.runs.settings import Packaged, layered, plain, section

from .options import TextTo3D

NO_SCENE = (
    "engine",
    "resume", "shard", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "memory",
    "views_at_once", "size", "turntable", "mp4", "mesh", "mesh_resolution", "mesh_faces", "texture",
    "mesh_threshold", "div_features",
)  # fmt: skip
"""Options that change no scene: they may differ when a run is resumed, and config.yaml does not contain them."""

ADDED = {
    "levels": 16, "log2_hashmap_size": 19, "per_level_scale": 1.447269237440378, "octaves": 6, "light_up": 0.0,
    "threshold": None, "repel_every": 1, "interacting": None, "feature_size": None, "force_decoder": None,
    "autocast": False, "noise": "fresh", "inversion_steps": 4, "timesteps": "uniform",
}  # fmt: skip
"""Options that older versions' config.yaml does not contain, with the values that their runs used."""


NEEDS = (
    ("mp4", "imageio-ffmpeg", "imageio_ffmpeg", "video"), ("texture", "xatlas", "xatlas", "mesh"),
    ("mesh_faces", "fast-simplification", "fast_simplification", "mesh"),
)  # fmt: skip
"""Flags that need a package that is not always installed: its name, its module, and the extra that has it."""


def packaged(method: str, prior: str) -> Packaged:
    """Return the packaged settings: tuned ones for heads, the paper's for other priors (VSD's are SDS's)."""
    file = "heads.yaml" if over_heads(prior) else "if.yaml"
    found = section("text_to_3d", file, method) or section("text_to_3d", file, "sds")
    assert found, "every method has one"
    return found


def parse(argv: list[str]) -> tuple[TextTo3D, str]:
    """Return the options from the packaged settings, then --config, then the flags; and these settings' name."""
    options, name = layered(
        TextTo3D, argv, prog="rsd text-to-3d", positional="prompt",
        packaged=lambda options: packaged(options.method, options.prior),
    )  # fmt: skip
    assert name, "every method has one"
    for flag, needed, package, extra in NEEDS:
        if getattr(options, flag) and importlib.util.find_spec(package) is None:
            raise ImportError(f"--{flag.replace('_', '-')} needs {needed}: pip install '.[{extra}]'.")
    return options, name


def resolved(options: TextTo3D) -> dict[str, Any]:
    """Return the options as plain values for config.yaml."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_SCENE}
    return {**found, "features": options.features_name}
