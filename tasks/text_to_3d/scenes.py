"""N scenes as particles of the engine: what it sees are their pictures from V cameras, N V rows.

At a step all scenes share the cameras, the light and the timestep, so that what differs between pictures is what they
show. Two ways to interact:

    scenes   pictures of the N scenes from one camera repel one another: V groups of N rows, one after another
    views    pictures of one scene from its V cameras repel one another, as in the authors' released program: N groups
             of V rows

Memory does not grow with N: the engine gets pictures without gradient; its answer is pulled back scene by scene, each
rendered once more with the same random numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from rsd.distributed import Ensemble
from rsd.engine import Average
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.spread import Spread

from .gallery import Gallery, Scene
from .scene.backgrounds import draw_colours
from .scene.cameras import Cameras, draw_cameras
from .scene.lights import Light, draw_light
from .scene.occupancy import EVERY
from .scene.regularisers import regularisers
from .scene.render import Rendering, as_images, jitter_width, render
from .scene.settings import SceneSettings

ENTRIES = 3 * 64 * 64
"""Entries of DreamFusion's picture: score gradients are scaled to its number, so that the regularisers' weights mean
the same at any size."""


BACKENDS = ("torch", "tinycudann", "nerfacc")
"""What may compute a scene, as checkpoints count it."""


@dataclass(frozen=True)
class Shot:
    """What all scenes share at a step: V ``cameras``, their ``light``, and ``colours`` [V, 3] for backgrounds."""

    cameras: Cameras
    light: Light
    colours: torch.Tensor

    def __getitem__(self, views: slice) -> Shot:
        return Shot(self.cameras[views], self.light[views], self.colours[views])


def draw_shot(settings: SceneSettings, stream: Stream, *, steps: int, step: int = 0) -> Shot:
    """The shot of step ``step`` of ``steps``; it depends on nothing else."""
    cameras = draw_cameras(settings, settings.views, stream, step)
    light = draw_light(settings, cameras, stream, steps=steps, step=step)
    return Shot(cameras, light, draw_colours(settings.views, stream, step))


def enlarged(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images [V, 3, s, s] at ``size`` pixels a side, interpolated where s is less."""
    return images if images.shape[-1] == size else F.interpolate(images, size=(size, size), mode="bilinear")


def in_rows(scenes: Ensemble, settings: SceneSettings) -> Ensemble:
    """The engine's rows, pictures, of scenes: see :attr:`Scenes.rows`."""
    N, V = scenes.total, settings.views
    if settings.interaction == "scenes":
        parts = tuple(tuple(v * N + s for v in range(V) for s in part) for part in scenes.parts)
    else:
        parts = tuple(tuple(s * V + v for s in part for v in range(V)) for part in scenes.parts)
    return Ensemble(parts, scenes.rank, scenes.bytes)


class Scenes(Gallery):
    """The particles: a scene for each number of ``scenes``, seen by ``prior`` at its size.

    ``scenes``: how the scenes are spread; ``spread``: the same of the engine's rows, their pictures. ``steps``: of the
    whole run, for the schedules. A scene depends neither on how many there are nor on where it stands among them.
    """

    def __init__(self, prior: Prior, settings: SceneSettings, scenes: Spread, stream: Stream, *, steps: int):
        if prior.image_size < 1:
            raise ValueError(f"The prior {prior.name} is over points, not pictures; a scene needs a prior of pictures.")
        made = [Scene(settings, stream, n, device=prior.device).to(prior.dtype) for n in scenes.ids]
        super().__init__(made, settings, image_size=prior.image_size)
        self.prior, self.stream, self.numbers = prior, stream, scenes.ids
        self.resolution = prior.image_size if settings.resolution is None else settings.resolution
        self.total, self.done = steps, 0
        self.spread = Spread(self.ids, scenes.memory, in_rows(scenes.ensemble, settings))
        fields = [p for scene in self.scenes for p in scene.field.parameters()]
        backgrounds = [p for scene in self.scenes for p in scene.background.parameters()]
        groups = [{"params": fields, "lr": settings.lr}, {"params": backgrounds, "lr": settings.lr_background}]
        self.optimiser = torch.optim.Adam([g for g in groups if g["params"]], betas=(0.9, 0.99), eps=1e-15, fused=True)
        self._z: torch.Tensor | None = None
        self._look_for_something()

    @property
    def rows(self) -> torch.Tensor:
        """The engine's row of each scene and view, int64 [N, V]."""
        N, V = len(self.scenes), self.settings.views
        if self.settings.interaction == "scenes":
            return torch.arange(N * V).view(V, N).T
        return torch.arange(N * V).view(N, V)

    @property
    def ids(self) -> list[int]:
        """Each row's number for its noise, which depends on the scene's number and the view alone."""
        V = self.settings.views
        ids = [0] * (len(self.scenes) * V)
        for number, rows in zip(self.numbers, self.rows.tolist(), strict=True):
            for view, row in enumerate(rows):
                ids[row] = number * V + view
        return ids

    @property
    def shot(self) -> Shot:
        """The shot of the step to come; after the last step, that of the last again."""
        step = min(self.done, self.total - 1)
        return draw_shot(self.settings, self.stream, steps=self.total, step=step)

    def render(self) -> torch.Tensor:
        """z [N V, *latent_shape] of the step to come, without gradient; kept until :meth:`step`."""
        if self._z is None:
            with torch.no_grad():
                shot = self.shot
                parts = [[z for _, _, z in self._look(s, shot)] for s in range(len(self.scenes))]
            z = torch.stack([torch.cat(views) for views in parts])  # [N, V, ...]
            self._z = torch.empty_like(z.flatten(0, 1))
            self._z[self.rows.flatten().to(z.device)] = z.flatten(0, 1)
        return self._z.clone()

    def step(self, r: torch.Tensor, t: int | torch.Tensor, average: Average) -> dict[str, float]:
        """Descend w(t) r, w = sigma_t^2, with r [N V, *latent_shape], and the regularisers, whose values, means over
        scenes, are returned; t is an int or [N V]."""
        V, shot = self.settings.views, self.shot
        pull = self.prior.schedule.weight(t, r) * r * (ENTRIES / r[0].numel() / V)
        losses: dict[str, float] = {}
        progress = self.done / max(self.total - 1, 1)
        self.optimiser.zero_grad()
        for s, rows in enumerate(self.rows.to(r.device)):
            for views, shown, z in self._look(s, shot):
                terms = regularisers(shown, self.settings, progress=progress)
                share = len(z) / V
                outputs = [z, *(share * term for term in terms.values())]
                torch.autograd.backward(outputs, [pull[rows[views]], *(torch.ones_like(o) for o in outputs[1:])])
                for name, term in terms.items():
                    losses[name] = losses.get(name, 0.0) + share * float(term.detach()) / len(self.scenes)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done, self._z = self.done + 1, None
        if self.done % EVERY == 0:
            self._look_for_something()
        return losses

    def _look_for_something(self) -> None:
        """Update the packed renderer's grids; what they become depends on the steps done and their scenes alone."""
        for number, scene in zip(self.numbers, self.scenes, strict=True):
            if scene.occupancy is not None:
                scene.occupancy.update(scene.field, self.stream.generator("occupancy", step=self.done, particle=number))

    def _look(self, s: int, shot: Shot) -> Iterator[tuple[slice, Rendering, torch.Tensor]]:
        """Scene s from ``views_at_once`` cameras at a time: which, its rendering, and z."""
        V, scene = self.settings.views, self.scenes[s]
        size = self.settings.views_at_once or V
        for first in range(0, V, size):
            views = slice(first, min(first + size, V))
            part, origins, directions = shot[views], *self.rays(shot.cameras[views], self.resolution)
            jitter = self._jitter(self.numbers[s], views)
            shown = render(
                scene.field, origins, directions, settings=self.settings, light=part.light, jitter=jitter,
                backdrop=partial(scene.background, drawn=part.colours), occupancy=scene.occupancy,
            )  # fmt: skip
            yield views, shown, self.prior.encode(enlarged(as_images(shown.colour), self.prior.image_size))

    def _jitter(self, number: int, views: slice) -> torch.Tensor:
        """Where a scene's samples lie at this step, [views, R, ...]."""
        shape = (self.resolution**2, jitter_width(self.settings))
        keys = [
            self.stream.generator("ray samples", step=self.done, particle=number * self.settings.views + view)
            for view in range(views.start, views.stop)
        ]
        drawn = torch.stack([torch.rand(*shape, generator=key) for key in keys])
        return drawn.to(self.prior.device, self.prior.dtype)

    def finish(self) -> torch.Tensor:
        """The result as pictures [N, 3, H, W]."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "done": self.done,
            "scenes": [{k: v.clone() for k, v in scene.state_dict().items()} for scene in self.scenes],
            "scenes_optimiser": self.optimiser.state_dict()["state"],
            "backends": {name: BACKENDS.index(by) for name, by in self.backends.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.done, self._z = int(state["done"]), None
        for scene, values in zip(self.scenes, state["scenes"], strict=True):
            scene.load_state_dict(values)
        moments = {int(k): v for k, v in state["scenes_optimiser"].items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for name, by in self.backends.items():
            if int(state["backends"][name]) != BACKENDS.index(by):
                before = BACKENDS[int(state["backends"][name])]
                warnings.warn(f"{before} began this run, {by} goes on: the same but for rounding.", stacklevel=2)
