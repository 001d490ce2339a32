"""``rsd text-to-3d``: read flags, YAML files and prompts, then run. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import warnings
from typing import Any

from rsd.errors import plain_warnings
from rsd.priors import over_heads
from rsd.runs import flags
from rsd.runs.options import check_used, line_settings
from rsd.runs.prompts import PromptJob, list_prompts
from rsd.runs.settings import Packaged, layered, plain, section, tokens

from .names import VIEWS
from .options import TextTo3D

NO_SCENE = (
    "engine",
    "resume", "shard", "config", "out", "prompts", "allow_empty", "checkpoint_every", "device", "chunk", "memory",
    "views_at_once", "size", "turntable", "mp4", "mesh", "mesh_resolution", "mesh_threshold", "div_features",
)  # fmt: skip
"""Options that change no scene: a run may be resumed with others, and config.yaml leaves them out."""

ADDED = {
    "levels": 16, "log2_hashmap_size": 19, "per_level_scale": 1.447269237440378, "octaves": 6, "light_up": 0.0,
    "threshold": None, "repel_every": 1, "interacting": None, "feature_size": None, "force_decoder": None,
    "autocast": False,
}  # fmt: skip
"""Options that a run of an older version does not name in its config.yaml, and what it was made with."""


VIEW = rf"\b(?:{'|'.join(VIEWS)})[ -]view\b"
GOVERNING = {"a", "an", "the", "its", "his", "her", "their", "and", "or", "at", "from", "in", "no", "of", "to", "with"}
"""Words after which "side view" goes with what is before it, as in "a house with a side view"."""


def packaged(method: str, prior: str) -> Packaged:
    """The packaged settings: heads are tuned apart, all else is the paper's (VSD as SDS)."""
    file = "heads.yaml" if over_heads(prior) else "if.yaml"
    found = section("text_to_3d", file, method) or section("text_to_3d", file, "sds")
    assert found, "every method has one"
    return found


def parse(argv: list[str]) -> tuple[TextTo3D, str]:
    """Options from the packaged settings, then --config, then the flags; and the name of those settings."""
    options, name = layered(
        TextTo3D, argv, prog="rsd text-to-3d", positional="prompt",
        packaged=lambda options: packaged(options.method, options.prior),
    )  # fmt: skip
    assert name, "every method has one"
    if options.mp4 and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError("--mp4 needs imageio-ffmpeg: pip install '.[video]'.")
    return options, name


def resolved(options: TextTo3D) -> dict[str, Any]:
    """The options as plain values, as config.yaml holds them."""
    found = {k: plain(v) for k, v in dataclasses.asdict(options).items() if k not in NO_SCENE}
    return {**found, "features": options.features_name}


def split_view(prompt: str) -> tuple[str, str]:
    """A prompt without the view words at its end, and these, "" if there are none: in any case, with or without a comma
    or full stop before them and a full stop after."""
    found = re.fullmatch(rf"(.*?)([,;.]?) ?({VIEW})\.?", prompt, re.IGNORECASE)
    rest = found[1].rstrip() if found else ""
    if not found or (rest and not found[2] and rest.split()[-1].lower() in GOVERNING):
        return prompt, ""
    return rest, found[3]


def views_told(prompt: str) -> list[str]:
    """The view words anywhere in a prompt, as they are written."""
    return re.findall(VIEW, prompt, re.IGNORECASE)


def without_view(prompt: str, options: TextTo3D) -> str:
    """A prompt without view words at its end, of which it warns, as of others that stay: a scene is seen from all
    sides. Raises ValueError if nothing else is told, and that is not allowed."""
    rest, view = split_view(prompt)
    if view and not rest and not options.allow_empty:
        raise ValueError(
            f'The prompt "{prompt}" tells a view alone, and a scene is seen from all sides; say what to make, or '
            "--allow-empty to make it without a prompt."
        )
    own = "; each camera adds its own" if options.view_words else ""
    if view:
        warnings.warn(f'A scene is seen from all sides: "{view}" is left out of the prompt{own}.', stacklevel=2)
    for other in views_told(rest):
        warnings.warn(
            f'A scene is seen from all sides: "{other}" stays in the prompt "{rest}"; leave it out if it tells where '
            f"the camera is{own}.",
            stacklevel=2,
        )
    return rest


def list_jobs(options: TextTo3D, argv: list[str]) -> list[PromptJob]:
    """Return the prompts to run. ``argv``: the flags that a manifest's line with another method keeps."""
    return list_prompts(
        options, lambda choice: parse([*argv, *tokens(choice)])[0], line_settings(TextTo3D, NO_SCENE), without_view
    )


def main(argv: list[str]) -> int:
    """Make the scenes; returns the exit code."""
    with plain_warnings():
        options, name = parse(argv)
        check_used(flags.values(TextTo3D, argv, prog="rsd text-to-3d"), options.unread)
        jobs = list_jobs(options, argv)
        print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        from .head import run

        sys.stdout.flush()
        return run(options, jobs)
