"""Prompts with the view of each camera ("..., back view"); without it every side gets a face (Janus)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from rsd.heads.reading import from_view, read
from rsd.priors import over_heads
from rsd.priors.base import Condition, Prior, joined
from rsd.randomness import Stream

from .options import ALTERNATIVES, VIEWS, PromptSettings
from .scene.cameras import Cameras

SECTOR = 30
"""The azimuths at which priors that read poses have texts of their own, in degrees."""


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


def with_scene_words(prompt: str, settings: PromptSettings, *, seed: int, number: int) -> str:
    """Return the prompt of the scene with this number, with its own choice of the scene words' alternatives. An
    alternative comes again only after all others. A part is left out if the prompt has its last word, or tells one of
    its attributes of heads."""
    said, told, stream = set(re.findall(r"\w+", prompt.lower())), set(read(prompt).values), Stream(seed, prompt)
    added = []
    for place, part in enumerate(settings.scene_words.split(",")):
        for choice, found in enumerate(ALTERNATIVES.findall(part)):
            options = found.split("|")
            turn, at = divmod(number, len(options))
            order = torch.randperm(
                len(options), generator=stream.generator(f"scene words {place}, {choice}", step=turn)
            )
            part = part.replace("{" + found + "}", options[order[at]], 1)
        words = part.split()
        if words and words[-1].lower() not in said and not told & set(read(part).values):
            added.append(" ".join(words))
    return ", ".join([text for text in (prompt, *added) if text])


class ViewPrompts:
    """The prompts of scenes, embedded once for every view; the prior's text encoder may be released afterwards.

    ``numbers``: of the scenes, which choose their scene words. ``texts``: of each scene, by view, and by the camera's
    azimuth too if the prior is over heads and reads poses. ``conditions``: by text.
    """

    def __init__(
        self, prior: Prior, prompt: str, settings: PromptSettings, *, seed: int = 0, numbers: Sequence[int] = (0,)
    ):
        self.settings, self.heads, self.posed = settings, over_heads(prior.name), getattr(prior, "posed", False)
        prompts = [with_scene_words(prompt, settings, seed=seed, number=number) for number in numbers]
        self.exact = self.heads and self.posed  # then words follow the camera, not only its view
        places = list(VIEWS)
        if self.exact:
            places = [self._place(azimuth, elevation) for elevation in (-90, 90) for azimuth in range(0, 360, SECTOR)]
        self.texts = [{place: self._text(one, place) for place in places} for one in prompts]
        scale = settings.guidance + (settings.guidance_convention == "dreamfusion")
        negative = settings.negative_prompt if scale != 1 else ""
        self.conditions: dict[str, Condition] = {}
        for text in dict.fromkeys(text for scene in self.texts for text in scene.values()):
            first = next(iter(self.conditions.values()), None)
            without_text = first is not None and first.embeddings is None  # one condition and one warning suffice
            self.conditions[text] = first if first and without_text else prior.condition(text, negative, scale)
        if negative and settings.perp_neg is not None:
            empty, weight = prior.condition(), settings.perp_neg
            self.conditions = {
                text: replace(c, unconditional=empty, perp_neg=weight) for text, c in self.conditions.items()
            }

    def _place(self, azimuth: float, elevation: float) -> str:
        """Return the key of a camera's text: its view, such as "side", or with the nearest azimuth, "side 90"."""
        if not self.exact or elevation >= self.settings.overhead:
            return view_of(self.settings, azimuth, elevation)
        nearest = round(azimuth / SECTOR) * SECTOR % 360
        return f"{view_of(self.settings, nearest, elevation)} {nearest}"

    def _text(self, prompt: str, place: str) -> str:
        s, (view, _, azimuth) = self.settings, place.partition(" ")
        if view in s.own_prompts:
            return s.own_prompts[view]
        if not s.view_words:
            return prompt
        if self.heads and view != "overhead":
            return from_view(prompt, f"{view} view", float(azimuth) if azimuth else None)
        return f"{prompt}, {view} view".removeprefix(", ")

    def condition(self, cameras: Cameras, rows: torch.Tensor, *, guided: bool = True, unit: float = 1.0) -> Condition:
        """Return the condition of pictures from ``cameras``, one embedding per row; ``rows`` [N, V] are the rows of
        each scene and view. ``guided``: False for a learned reference, which takes no guidance. It gets the cameras'
        poses, in ``unit``s of length, and so do priors that read them."""
        angles = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
        views = [self._place(*angle) for angle in angles]
        order = rows.flatten().argsort().tolist()  # the scene and view of each row
        chosen = [self.conditions[self.texts[k // len(views)][views[k % len(views)]]] for k in order]
        first = self.conditions[self.texts[0][views[0]]]
        if self.posed or not guided:
            first = replace(first, pose=cameras.pose(unit).flatten(1)[[k % len(views) for k in order]].float())
        if guided:
            first = replace(first, threshold=self.settings.threshold)
        else:
            first = replace(first, guidance=1.0, negative=None, negative_prompt="")
        if first.embeddings is None:
            return first
        texts = joined(chosen)
        return replace(first, embeddings=texts.embeddings, mask=texts.mask, pooled=texts.pooled)
