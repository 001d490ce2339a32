"""View words in prompts, such as "front view": a scene is seen from all sides. Imports nothing heavy."""

from __future__ import annotations

import re
import warnings

from .options import VIEWS, TextTo3D

VIEW = rf"\b(?:{'|'.join(VIEWS)})[ -]view\b"
GOVERNING = {"a", "an", "the", "its", "his", "her", "their", "and", "or", "at", "from", "in", "no", "of", "to", "with"}
"""Words after which "side view" belongs to the phrase before it, as in "a house with a side view"."""


def split_view(prompt: str) -> tuple[str, str]:
    """Split view words off the end of a prompt; return the rest and these words ("" if there are none). Case does not
    matter, nor do a comma or full stop before them and a full stop after."""
    found = re.fullmatch(rf"(.*?)([,;.]?) ?({VIEW})\.?", prompt, re.IGNORECASE)
    rest = found[1].rstrip() if found else ""
    if not found or (rest and not found[2] and rest.split()[-1].lower() in GOVERNING):
        return prompt, ""
    return rest, found[3]


def view_words_in(prompt: str) -> list[str]:
    """Return all view words in a prompt, as written."""
    return re.findall(VIEW, prompt, re.IGNORECASE)


def without_view(prompt: str, options: TextTo3D) -> str:
    """Return a prompt without view words at its end, since a scene is seen from all sides. Warn of these and of view
    words that stay. Raise ValueError if the prompt is then empty and --allow-empty is not set."""
    rest, view = split_view(prompt)
    if view and not rest and not options.allow_empty:
        raise ValueError(
            f'The prompt "{prompt}" is only a view, but a scene is seen from all sides; give a prompt, or '
            "--allow-empty to run without one."
        )
    own = "; each camera adds its own" if options.view_words else ""
    if view:
        warnings.warn(f'A scene is seen from all sides: "{view}" is left out of the prompt{own}.', stacklevel=2)
    for other in view_words_in(rest):
        warnings.warn(
            f'A scene is seen from all sides: "{other}" stays in the prompt "{rest}"; leave it out if it says where '
            f"the camera is{own}.",
            stacklevel=2,
        )
    return rest
