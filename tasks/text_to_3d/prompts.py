"""Prompts that say from where a scene is seen ("..., back view"), without which every side grows a face (Janus)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from rsd.heads.reading import from_view
from rsd.priors import over_heads
from rsd.priors.base import Condition, Prior, joined

from .names import CONVENTIONS, VIEWS
from .scene.cameras import Cameras

VIEW = rf"\b(?:{'|'.join(VIEWS)})[ -]view\b"
GOVERNING = {"a", "an", "the", "its", "his", "her", "their", "and", "or", "at", "from", "in", "no", "of", "to", "with"}
"""Words after which "side view" goes with what is before it, as in "a house with a side view"."""


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


@dataclass(frozen=True)
class PromptSettings:
    """``view_words``: append ", front view" and so on to the prompt. ``front``, ``back``: half widths of these sectors
    in degrees of azimuth; ``overhead``: from this elevation on. ``own``: a whole prompt for a view, instead.

    ``guidance``: s, of uncond + s (text - uncond) in ``convention`` "diffusers", of text + s (text - uncond) in
    "dreamfusion", whose 20 is 21 of diffusers'. ``threshold``: of :class:`~rsd.priors.base.Condition`.
    """

    view_words: bool = True
    front: float = 45.0
    back: float = 45.0
    overhead: float = 60.0
    negative_prompt: str = ""
    guidance: float = 20.0
    convention: str = "dreamfusion"
    threshold: float | None = None
    own: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for unknown views and conventions, and for sectors that overlap."""
        for view in self.own:
            if view not in VIEWS:
                raise ValueError(f'There is no view "{view}"; there are {", ".join(VIEWS)}.')
        if self.convention not in CONVENTIONS:
            raise ValueError(f'There is no guidance convention "{self.convention}"; use {" or ".join(CONVENTIONS)}.')
        if self.front < 0 or self.back < 0 or self.front + self.back > 180:
            raise ValueError(f"front is {self.front} and back {self.back}; together they must not exceed 180 degrees.")

    def view(self, azimuth: float, elevation: float) -> str:
        """Which of :data:`VIEWS` a camera has; angles in degrees."""
        away = abs((azimuth + 180) % 360 - 180)
        if elevation >= self.overhead:
            return "overhead"
        return "front" if away <= self.front else "back" if away >= 180 - self.back else "side"

    def views(self, cameras: Cameras) -> list[str]:
        """The view of each camera, [V]."""
        return [self.view(*at) for at in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)]


class ViewPrompts:
    """A prompt, embedded once for every view: the prior's text encoder may be released afterwards."""

    def __init__(self, prior: Prior, prompt: str, settings: PromptSettings):
        self.settings, self.heads = settings, over_heads(prior.name)
        self.texts = {view: self._text(prompt, view) for view in VIEWS}
        scale = settings.guidance + (settings.convention == "dreamfusion")
        negative = settings.negative_prompt if scale != 1 else ""
        self.conditions: dict[str, Condition] = {}
        for view, text in self.texts.items():
            told = self.conditions.get(VIEWS[0])
            without_text = told is not None and told.embeddings is None  # then one will do, and one warning
            self.conditions[view] = told if told and without_text else prior.condition(text, negative, scale)

    def _text(self, prompt: str, view: str) -> str:
        s = self.settings
        if view in s.own:
            return s.own[view]
        if not s.view_words:
            return prompt
        if self.heads and view != "overhead":
            return from_view(prompt, f"{view} view")
        return f"{prompt}, {view} view".removeprefix(", ")

    def condition(self, cameras: Cameras, rows: torch.Tensor, *, guided: bool = True, unit: float = 1.0) -> Condition:
        """The condition of pictures from ``cameras``, one embedding a row; ``rows`` [N, V]: each scene's and view's.
        ``guided``: False for a learned reference, which takes no guidance but is told the cameras' poses, in
        ``unit``s of length."""
        own = [self.conditions[view] for view in self.settings.views(cameras)]
        if guided:
            first = replace(own[0], threshold=self.settings.threshold)
        else:
            first = replace(own[0], guidance=1.0, negative=None, negative_prompt="")
        view_of = torch.empty(rows.numel(), dtype=torch.int64)
        view_of[rows.flatten()] = torch.arange(rows.shape[1]).repeat(rows.shape[0])
        chosen = [own[view] for view in view_of.tolist()]
        if not guided:
            first = replace(first, extra=cameras.pose(unit).flatten(1)[view_of].float())
        if first.embeddings is None:
            return first
        texts = joined(chosen)
        return replace(first, embeddings=texts.embeddings, mask=texts.mask, pooled=texts.pooled)
