"""Regression of a scene on its pictures from several cameras: Adam on the squared error of rays drawn from all."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from .backgrounds import Background
from .cameras import Cameras
from .field import Field
from .lights import ambient_light
from .occupancy import Occupancy
from .regularisers import regularisers
from .render import jitter_width, render
from .settings import SceneSettings

FIRST, LAST = 4, 6
"""The first set of pictures gets so many times the steps, since the scene is far from it, and the last, which stays."""


STRAIGHT = 5.0
"""Degrees from the front or the back within which a camera looks straight at it."""
DECAY = 0.4
"""Adam's learning rate at the end of the run, as a share of that at its start."""


def steps_of(settings: SceneSettings, *, step: int, steps: int) -> int:
    """Return the number of Adam's steps for the pictures of step ``step`` of ``steps``."""
    return settings.fit_steps * (LAST if step == steps - 1 else FIRST if step == 0 else 1)


def leading(cameras: Cameras, settings: SceneSettings, *, progress: float) -> torch.Tensor:
    """Return the views that are fitted at this progress of the run: all, or at first those within a few degrees of the
    front and the back, if there are any. int64 [n]."""
    views = torch.arange(len(cameras))
    away = (cameras.azimuth % 180).minimum(180 - cameras.azimuth % 180)
    straight = views[away <= STRAIGHT]
    return straight if progress < settings.fit_lead and len(straight) else views


def fit(
    field: Field, background: Background, optimiser: torch.optim.Optimizer, targets: torch.Tensor,
    origins: torch.Tensor, directions: torch.Tensor, *, settings: SceneSettings, count: int, random: torch.Generator,
    occupancy: Occupancy | None = None, progress: float = 1.0,
) -> dict[str, float]:  # fmt: skip
    """Take ``count`` steps on ``targets`` [V, 3, s, s] in [-1, 1], clamped, along rays [V, s * s, 3]. Return the mean
    squared error "fit" of colours in [0, 1] and the regularisers in the last step. The light is ambient.

    ``random``: a generator on the CPU, which draws the rays and their samples."""
    colours = (targets.clamp(-1, 1) + 1).flatten(2).transpose(1, 2).flatten(0, 1) / 2
    origins, directions = origins.flatten(0, 1), directions.flatten(0, 1)
    rays, width = min(settings.fit_rays, len(colours)), jitter_width(settings)
    losses: dict[str, float] = {}
    for _ in range(count):
        at = torch.randint(len(colours), (rays,), generator=random).to(colours.device)
        jitter = torch.rand(1, rays, width, generator=random).to(colours)
        shown = render(
            field, origins[at][None], directions[at][None], settings=settings, light=ambient_light(1), jitter=jitter,
            backdrop=partial(background, drawn=torch.full((1, 3), 0.5)), occupancy=occupancy,
        )  # fmt: skip
        error = F.mse_loss(shown.colour[0], colours[at])
        terms = {"fit": error, **regularisers(shown, settings, progress=progress)}
        optimiser.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        optimiser.step()
        losses = {name: float(term.detach()) for name, term in terms.items()}
    optimiser.zero_grad()
    return losses
