"""N scenes as particles of the engine, whose rows are their pictures from V cameras, N V rows.

At each step all scenes share the cameras, the light and the timestep, so that pictures differ only in the scene they
show. There are two interactions:

    scenes   pictures of the N scenes from one camera repel one another: V groups of N rows, one after another
    views    pictures of one scene from its V cameras repel one another, as in the authors' released program: N groups
             of V rows

Memory does not grow with N: the engine gets pictures without gradient. Its residual r is followed scene by scene, in
one of two ways:

    adam     each scene is rendered again with the same random numbers, w(t) r is backpropagated, one step of Adam
    fit      each scene is fitted to the pictures D(z - sigma_t/alpha_t r), its denoised estimates, by several steps

With fixed cameras and carried noise, "fit" is the DDIM sampler of all views at once, in which at each step the
estimates are replaced by what one scene can show of them.
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
from .scene.fitting import DECAY, fit, leading, steps_of
from .scene.lights import Light, ambient_light, draw_light
from .scene.occupancy import EVERY
from .scene.regularisers import regularisers
from .scene.render import Rendering, as_images, jitter_width, render
from .scene.settings import SceneSettings

ENTRIES = 3 * 64 * 64
"""Number of entries of DreamFusion's picture: score gradients are scaled to it, so that the regularisers' weights do
not depend on the size."""


BACKENDS = ("torch", "tinycudann", "nerfacc")
"""Backends; checkpoints store the index."""


@dataclass(frozen=True)
class Shot:
    """The shared part of a step: V ``cameras``, their ``light``, and ``colours`` [V, 3] for backgrounds."""

    cameras: Cameras
    light: Light
    colours: torch.Tensor

    def __getitem__(self, views: slice) -> Shot:
        return Shot(self.cameras[views], self.light[views], self.colours[views])


def draw_shot(settings: SceneSettings, stream: Stream, *, steps: int, step: int = 0) -> Shot:
    """Draw the shot of step ``step`` of ``steps``; it depends on nothing else. Scenes that are fitted have ambient
    light."""
    cameras = draw_cameras(settings, settings.views, stream, step)
    if settings.optimiser == "fit":
        light = ambient_light(len(cameras))
    else:
        light = draw_light(settings, cameras, stream, steps=steps, step=step)
    return Shot(cameras, light, draw_colours(settings.views, stream, step))


def enlarge(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images [V, 3, s, s] at ``size`` pixels a side, interpolated if s is smaller."""
    return images if images.shape[-1] == size else F.interpolate(images, size=(size, size), mode="bilinear")


def row_ensemble(scenes: Ensemble, settings: SceneSettings) -> Ensemble:
    """Return the ensemble of the engine's rows, the scenes' pictures, see :attr:`Scenes.rows`."""
    N, V = scenes.total, settings.views
    if settings.interaction == "scenes":
        parts = tuple(tuple(v * N + s for v in range(V) for s in part) for part in scenes.parts)
    else:
        parts = tuple(tuple(s * V + v for s in part for v in range(V)) for part in scenes.parts)
    return Ensemble(parts, scenes.rank, scenes.bytes)


class Scenes(Gallery):
    """The particles: a scene for each id of ``scenes``, rendered at the size of ``prior``.

    ``scenes``: the distribution of the scenes over chunks and processes; ``spread``: the same for the engine's rows.
    ``steps``: of the whole run, for the schedules. A scene does not depend on N or on its position.
    """

    def __init__(self, prior: Prior, settings: SceneSettings, scenes: Spread, stream: Stream, *, steps: int):
        if prior.image_size < 1:
            raise ValueError(f"The prior {prior.name} is over points, not pictures; a scene needs a prior of pictures.")
        scene_list = [Scene(settings, stream, n, device=prior.device).to(prior.dtype) for n in scenes.ids]
        super().__init__(scene_list, settings, image_size=prior.image_size)
        self.prior, self.stream, self.numbers = prior, stream, scenes.ids
        self.resolution = prior.image_size if settings.resolution is None else settings.resolution
        self.total, self.done = steps, 0
        self.spread = Spread(self.ids, scenes.memory, row_ensemble(scenes.ensemble, settings))
        fields = [p for scene in self.scenes for p in scene.field.parameters()]
        backgrounds = [p for scene in self.scenes for p in scene.background.parameters()]
        groups = [{"params": fields, "lr": settings.lr}, {"params": backgrounds, "lr": settings.lr_background}]
        groups = [g for g in groups if g["params"]]
        self._lrs = [g["lr"] for g in groups]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
        self._z: torch.Tensor | None = None
        self._update_occupancy()

    @property
    def rows(self) -> torch.Tensor:
        """The engine's row of each scene and view, int64 [N, V]."""
        N, V = len(self.scenes), self.settings.views
        if self.settings.interaction == "scenes":
            return torch.arange(N * V).view(V, N).T
        return torch.arange(N * V).view(N, V)

    @property
    def ids(self) -> list[int]:
        """The id of each row for its noise, which depends only on the scene's number and the view."""
        V = self.settings.views
        ids = [0] * (len(self.scenes) * V)
        for number, rows in zip(self.numbers, self.rows.tolist(), strict=True):
            for view, row in enumerate(rows):
                ids[row] = number * V + view
        return ids

    @property
    def shot(self) -> Shot:
        """The shot of the next step; after the last step, its own again."""
        step = min(self.done, self.total - 1)
        return draw_shot(self.settings, self.stream, steps=self.total, step=step)

    def render(self) -> torch.Tensor:
        """Return z [N V, *latent_shape] of the next step, without gradient; it is kept until :meth:`step`."""
        if self._z is None:
            with torch.no_grad():
                shot = self.shot
                parts = [[z for _, _, z in self._render_views(s, shot)] for s in range(len(self.scenes))]
            z = torch.stack([torch.cat(views) for views in parts])  # [N, V, ...]
            self._z = torch.empty_like(z.flatten(0, 1))
            self._z[self.rows.flatten().to(z.device)] = z.flatten(0, 1)
        return self._z.clone()

    def step(self, r: torch.Tensor, t: int | torch.Tensor, average: Average) -> dict[str, float]:
        """Follow r [N V, *latent_shape] and the regularisers; t is an int or [N V]. Return the losses' means over
        scenes."""
        losses = self._fit(r, t) if self.settings.optimiser == "fit" else self._descend(r, t)
        self.done, self._z = self.done + 1, None
        if self.settings.optimiser == "fit" or self.done % EVERY == 0:
            self._update_occupancy()
        return losses

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1."""
        return self.done / max(self.total - 1, 1)

    def _descend(self, r: torch.Tensor, t: int | torch.Tensor) -> dict[str, float]:
        """Descend w(t) r, w = sigma_t^2, and the regularisers. Return the regularisers."""
        V, shot = self.settings.views, self.shot
        # The gradient of the pictures, scaled to DreamFusion's size and averaged over views.
        gradient = self.prior.schedule.weight(t, r) * r * (ENTRIES / r[0].numel() / V)
        losses: dict[str, float] = {}
        self.optimiser.zero_grad()
        # Render each scene again with gradient, and backpropagate.
        for s, rows in enumerate(self.rows.to(r.device)):
            for views, shown, z in self._render_views(s, shot):
                terms = regularisers(shown, self.settings, progress=self.progress)
                share = len(z) / V
                outputs = [z, *(share * term for term in terms.values())]
                torch.autograd.backward(outputs, [gradient[rows[views]], *(torch.ones_like(o) for o in outputs[1:])])
                for name, term in terms.items():
                    losses[name] = losses.get(name, 0.0) + share * float(term.detach()) / len(self.scenes)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return losses

    def _fit(self, r: torch.Tensor, t: int | torch.Tensor) -> dict[str, float]:
        """Fit each scene to its denoised estimates z - sigma_t/alpha_t r. Return the error of the pictures, and the
        regularisers."""
        alpha, sigma = self.prior.schedule.coefficients(t, r)
        clean = self.render() - sigma / alpha * r
        with torch.no_grad():
            targets = self.spread.cat(lambda rows: self.prior.decode(clean[rows]))
        origins, directions = self.rays(self.shot.cameras, self.resolution)
        if self.resolution != self.prior.image_size:
            targets = F.interpolate(targets, size=(self.resolution,) * 2, mode="area")
        count = steps_of(self.settings, step=self.done, steps=self.total)
        views = leading(self.shot.cameras, self.settings, progress=self.done / self.total)
        for group, lr in zip(self.optimiser.param_groups, self._lrs, strict=True):
            group["lr"] = lr * DECAY**self.progress
        losses: dict[str, float] = {}
        for s, rows in enumerate(self.rows.to(r.device)):
            scene, number = self.scenes[s], self.numbers[s]
            found = fit(
                scene.field, scene.background, self.optimiser, targets[rows[views]], origins[views], directions[views],
                settings=self.settings, count=count, occupancy=scene.occupancy, progress=self.progress,
                random=self.stream.generator("fit", step=self.done, particle=number),
            )  # fmt: skip
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value / len(self.scenes)
        return losses

    def _update_occupancy(self) -> None:
        """Update the packed renderer's grids; they depend only on the number of steps done and the scene."""
        for number, scene in zip(self.numbers, self.scenes, strict=True):
            if scene.occupancy is not None:
                scene.occupancy.update(scene.field, self.stream.generator("occupancy", step=self.done, particle=number))

    def _render_views(self, s: int, shot: Shot) -> Iterator[tuple[slice, Rendering, torch.Tensor]]:
        """Render scene s from ``views_at_once`` cameras at a time; yield the views, the rendering, and z."""
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
            yield views, shown, self.prior.encode(enlarge(as_images(shown.colour), self.prior.image_size))

    def _jitter(self, number: int, views: slice) -> torch.Tensor:
        """Draw the offsets of a scene's samples at this step, [views, R, ...] in [0, 1)."""
        shape = (self.resolution**2, jitter_width(self.settings))
        keys = [
            self.stream.generator("ray samples", step=self.done, particle=number * self.settings.views + view)
            for view in range(views.start, views.stop)
        ]
        drawn = torch.stack([torch.rand(*shape, generator=key) for key in keys])
        return drawn.to(self.prior.device, self.prior.dtype)

    def finish(self) -> torch.Tensor:
        """Return the result as pictures [N, 3, H, W]."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
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
                warnings.warn(
                    f"The run was started with {before} and continues with {by}: results differ by rounding.",
                    stacklevel=2,
                )
