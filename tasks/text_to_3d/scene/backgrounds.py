"""Backgrounds: a fixed colour, a random colour at each step, one learned colour, or a learned colour for each
direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rsd.randomness import Stream

from .encodings import Frequency
from .field import network
from .settings import BACKGROUNDS

COLOURS = {"white": 1.0, "gray": 0.5, "black": 0.0}


class Background(nn.Module):
    """``kind``: a colour's name; "random", a colour for each view and step, the same in all scenes; "learned", a small
    network of the ray's direction, initially grey, for each scene (DreamFusion); or "plain", one such colour for all
    directions. Raises ValueError for others."""

    network: Any

    def __init__(self, kind: str, stream: Stream, particle: int = 0, *, octaves: int = 2, width: int = 16):
        super().__init__()
        if kind not in BACKGROUNDS:
            raise ValueError(f'There is no background "{kind}"; there are {", ".join(BACKGROUNDS)}.')
        self.kind = kind
        if kind == "plain":
            self.colour = nn.Parameter(torch.zeros(3))
        if kind == "learned":
            self.encoding = Frequency(octaves)
            random = stream.generator("initial background", particle=particle)
            self.network = network([self.encoding.outputs, width, 3], generator=random)
            with torch.no_grad():
                self.network[-1].weight.mul_(0.01)

    def forward(self, directions: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return colours [V, R, 3] in [0, 1] for unit ``directions`` [V, R, 3]; ``drawn`` [V, 3]: random colours."""
        if self.kind == "learned":
            flat = directions.flatten(0, -2)
            return self.network(self.encoding((flat + 1) / 2)).sigmoid().view_as(directions)
        if self.kind == "plain":
            return self.colour.sigmoid().expand_as(directions)
        if self.kind == "random":
            return drawn.to(directions)[:, None].expand_as(directions)
        return torch.full_like(directions, COLOURS[self.kind])


def draw_colours(views: int, stream: Stream, step: int = 0) -> torch.Tensor:
    """Draw a colour for each view of a step, uniform in [0, 1], float64 [V, 3]."""
    keys = [stream.generator("background", step=step, particle=v) for v in range(views)]
    return torch.stack([torch.rand(3, generator=key, dtype=torch.float64) for key in keys])
