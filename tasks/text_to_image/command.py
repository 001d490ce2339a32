"""``rsd text-to-image``: from flags and YAML files to checked options, then the job."""

from __future__ import annotations

import dataclasses
import sys
from importlib.resources import files
from typing import Any

from rsd.priors import over_heads
from rsd.runs.settings import layered, plain

from .names import SAMPLERS
from .options import TextToImage

NO_PIXEL = (
    "resume", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "memory", "metrics",
    "clip_model", "aesthetic_weights", "fid_folder", "fid_features", "div_features",
    "engine",
)  # fmt: skip
"""Options that change no pixel, but for rounding (device, chunk, memory): a run may be resumed with others, and
config.yaml leaves them out."""


def packaged(method: str, prior: str) -> str:
    """The name of the packaged configuration: heads are tuned apart, all else is the paper's, where the distillations
    share VSD's and the samplers Ancestral's."""
    own = method.replace("-", "_")
    family = "heads" if over_heads(prior) else "sd"
    nearest = "ancestral" if method in SAMPLERS else "vsd"
    folder = files("rsd.configs") / "text_to_image"
    names = [f"{own}_{family}.yaml", f"{nearest}_{family}.yaml"]
    return next(name for name in names if (folder / name).is_file())


def parse(argv: list[str]) -> tuple[TextToImage, str]:
    """Options from the packaged configuration, then --config, then the flags; and that configuration's name."""

    def choose(options: TextToImage) -> tuple[str, tuple[str, ...]]:
        name = packaged(options.method, options.prior)
        # another method's gamma would not do
        borrowed = not name.startswith(options.method.replace("-", "_"))
        return name, ("method", "prior", "revision", *(["gamma"] if borrowed else []))

    options, name = layered(
        TextToImage, argv, prog="rsd text-to-image", positional="prompt", folder="text_to_image", packaged=choose
    )
    assert name, "every method has one"
    return options, name


def resolved(options: TextToImage) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    return {**found, "gamma": options.strength, "features": options.features_name}


def check_use(argv: list[str], options: TextToImage) -> None:
    """Raise ValueError for a flag that does nothing with the method; a settings file may hold such fields."""
    typed = {token[2:].split("=")[0].replace("-", "_").removeprefix("no_") for token in argv if token[:2] == "--"}
    if idle := sorted(typed.intersection(options.idle)):
        score = " --score unet" if options.method == "vsd" else ""
        raise ValueError(f"--{idle[0].replace('_', '-')} does nothing with {options.method}{score}; leave it out.")


def main(argv: list[str]) -> int:
    """Draw; returns the exit code."""
    options, name = parse(argv)
    check_use(argv, options)
    print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
    from .head import run

    sys.stdout.flush()
    return run(options)
