"""``rsd text-to-3d``: from flags and YAML files to checked options, then the job."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from importlib.resources import files
from typing import Any

from rsd.priors import over_heads
from rsd.runs.settings import layered, plain

from .options import TextTo3D

NO_SCENE = (
    "resume", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "views_at_once",
    "size", "turntable", "mp4", "mesh", "mesh_resolution", "mesh_threshold", "div_features", "engine",
)  # fmt: skip
"""Options that change no scene: a run may be resumed with others, and config.yaml leaves them out."""

ADDED = {
    "levels": 16, "log2_hashmap_size": 19, "per_level_scale": 1.447269237440378, "octaves": 6, "light_up": 0.0,
    "threshold": None,
}  # fmt: skip
"""Options that a run of an older version does not name in its config.yaml, and what it was made with."""


def packaged(method: str, prior: str) -> str:
    """The name of the packaged configuration: heads are tuned apart, all else is the paper's (VSD as SDS)."""
    family = "heads" if over_heads(prior) else "if"
    folder = files("rsd.configs") / "text_to_3d"
    names = [f"{method}_{family}.yaml", f"sds_{family}.yaml"]
    return next(name for name in names if (folder / name).is_file())


def parse(argv: list[str]) -> tuple[TextTo3D, str]:
    """Options from the packaged configuration, then --config, then the flags; and that configuration's name."""

    def choose(options: TextTo3D) -> tuple[str, tuple[str, ...]]:
        return packaged(options.method, options.prior), ("method", "prior", "revision")

    options, name = layered(
        TextTo3D, argv, prog="rsd text-to-3d", positional="prompt", folder="text_to_3d", packaged=choose
    )
    assert name, "every method has one"
    if options.mp4 and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError("--mp4 needs imageio-ffmpeg: pip install '.[video]'.")
    return options, name


def resolved(options: TextTo3D) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_SCENE}
    return {**found, "features": options.features_name}


def check_use(argv: list[str], options: TextTo3D) -> None:
    """Raise ValueError for a flag that the encoding does not read; a settings file may hold such fields."""
    typed = {token[2:].split("=")[0].replace("-", "_") for token in argv if token[:2] == "--"}
    if idle := sorted(typed.intersection(options.idle)):
        raise ValueError(
            f"--{idle[0].replace('_', '-')} does nothing with --encoding {options.encoding}; leave it out."
        )


def main(argv: list[str]) -> int:
    """Make the scenes; returns the exit code."""
    options, name = parse(argv)
    check_use(argv, options)
    print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
    from .head import run

    sys.stdout.flush()
    return run(options)
