"""``rsd text-to-image``: from flags and YAML files to checked options, then the job."""

from __future__ import annotations

import dataclasses
import sys
from importlib.resources import as_file, files
from typing import Any

import tyro

from rsd.settings import plain, read_yaml
from rsd.settings import tokens as settings_tokens

from .names import SAMPLERS
from .options import TextToImage

NO_PIXEL = (
    "resume", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "metrics", "clip_model",
    "aesthetic_weights", "fid_folder", "fid_features", "div_features",
)  # fmt: skip
"""Options that change no pixel: a run may be resumed with others, and config.yaml leaves them out."""


def tokens(settings: dict[str, Any]) -> list[str]:
    """A YAML file's fields as flags; the prompt of a run's own config.yaml says nothing here."""
    return settings_tokens(settings, skip=("prompt",))


def packaged(method: str, prior: str) -> str:
    """The name of the packaged configuration: heads are tuned apart, all else is the paper's, where the distillations
    share VSD's and the samplers Ancestral's."""
    own = method.replace("-", "_")
    family = "heads" if prior == "heads" else "sd"
    nearest = "ancestral" if method in SAMPLERS else "vsd"
    folder = files("rsd.configs") / "text_to_image"
    names = [f"{own}_{family}.yaml", f"{nearest}_{family}.yaml"]
    return next(name for name in names if (folder / name).is_file())


def _parse(arguments: list[str]) -> TextToImage:
    return tyro.cli(TextToImage, args=arguments, prog="rsd text-to-image")


def parse(argv: list[str]) -> tuple[TextToImage, str]:
    """Options from the packaged configuration, then --config, then the flags; and that configuration's name."""
    options = _parse(argv)
    own = tokens(read_yaml(options.config)) if options.config else []
    if own:  # ends in a flag of one value, lest a list take the prompts that follow for its own
        own += ["--config", str(options.config)]
    options = _parse(own + argv)
    options.check()
    name = packaged(options.method, options.prior)
    with as_file(files("rsd.configs") / "text_to_image" / name) as path:
        defaults = read_yaml(path)
    for key in ("method", "prior", "revision"):  # already decided
        defaults.pop(key, None)
    if not name.startswith(options.method.replace("-", "_")):  # another method's gamma
        defaults.pop("gamma", None)
    options = _parse([*tokens(defaults), "--method", options.method, *own, *argv])
    options.check()
    return options, name


def resolved(options: TextToImage) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_PIXEL}
    return {**found, "gamma": options.strength, "features": options.features_name}


def main(argv: list[str]) -> int:
    """Draw; returns the exit code."""
    options, name = parse(argv)
    print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
    from .job import run

    sys.stdout.flush()
    return run(options)
