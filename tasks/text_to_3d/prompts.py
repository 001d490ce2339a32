"""Prompts with the view of each camera ("..., back view"); without it every side gets a face (Janus)."""

from __future__ import annotations

from dataclasses import replace

import torch

from rsd.heads.reading import from_view
from rsd.priors import over_heads
from rsd.priors.base import Condition, Prior, joined

from .options import VIEWS, PromptSettings
from .scene.cameras import Cameras


def view_of(settings: PromptSettings, azimuth: float, elevation: float) -> str:
    """Return which of :data:`VIEWS` a camera has; angles in degrees."""
    away = abs((azimuth + 180) % 360 - 180)
    if elevation >= settings.overhead:
        return "overhead"
    return "front" if away <= settings.front else "back" if away >= 180 - settings.back else "side"


def views_of(settings: PromptSettings, cameras: Cameras) -> list[str]:
    """Return the view of each camera, [V]."""
    angles = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
    return [view_of(settings, *angle) for angle in angles]


class ViewPrompts:
    """A prompt, embedded once for every view; the prior's text encoder may be released afterwards."""

    def __init__(self, prior: Prior, prompt: str, settings: PromptSettings):
        self.settings, self.heads = settings, over_heads(prior.name)
        self.texts = {view: self._text(prompt, view) for view in VIEWS}
        scale = settings.guidance + (settings.guidance_convention == "dreamfusion")
        negative = settings.negative_prompt if scale != 1 else ""
        self.conditions: dict[str, Condition] = {}
        for view, text in self.texts.items():
            first = self.conditions.get(VIEWS[0])
            without_text = first is not None and first.embeddings is None  # one condition and one warning suffice
            self.conditions[view] = first if first and without_text else prior.condition(text, negative, scale)

    def _text(self, prompt: str, view: str) -> str:
        s = self.settings
        if view in s.own_prompts:
            return s.own_prompts[view]
        words = s.backdrop.split()
        if words and words[-1] not in prompt.split():
            prompt = f"{prompt}, {s.backdrop}".removeprefix(", ")
        if not s.view_words:
            return prompt
        if self.heads and view != "overhead":
            return from_view(prompt, f"{view} view")
        return f"{prompt}, {view} view".removeprefix(", ")

    def condition(self, cameras: Cameras, rows: torch.Tensor, *, guided: bool = True, unit: float = 1.0) -> Condition:
        """Return the condition of pictures from ``cameras``, one embedding per row; ``rows`` [N, V] are the rows of
        each scene and view. ``guided``: False for a learned reference, which takes no guidance, but the cameras' poses
        in ``unit``s of length."""
        own = [self.conditions[view] for view in views_of(self.settings, cameras)]
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
