"""Scenes that can be looked at: fields with what is behind them, and their pictures from any camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from rsd.randomness import Stream

from .names import BACKGROUNDS, INTERACTIONS, RENDERERS
from .scene.backgrounds import Background
from .scene.cameras import Cameras, CameraSettings, orbit
from .scene.field import Field, FieldSettings
from .scene.lights import LightSettings, no_shade
from .scene.occupancy import Occupancy, backend
from .scene.regularisers import RegulariserSettings
from .scene.render import RenderSettings, photograph


@dataclass(frozen=True)
class SceneSettings:
    """What scenes are made of and seen with. ``views``: cameras a step, V. ``views_at_once``: with gradient; None: all.
    ``resolution``: pixels a side that are rendered, and enlarged to the prior's; None: as many as the prior sees.

    ``lr`` and ``lr_background``: Adam's (0.9, 0.99), eps 1e-15.
    """

    field: FieldSettings = FieldSettings()
    background: str = "learned"
    renderer: str = "dense"
    render: RenderSettings = RenderSettings()
    cameras: CameraSettings = CameraSettings()
    lights: LightSettings = LightSettings()
    regularisers: RegulariserSettings = RegulariserSettings()
    views: int = 1
    views_at_once: int | None = None
    interaction: str = "scenes"
    resolution: int | None = None
    lr: float = 0.01
    lr_background: float = 0.001

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot run."""
        if self.views < 1:
            raise ValueError(f"views is {self.views}; a scene needs at least 1 camera.")
        for name in ("views_at_once", "resolution"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.interaction not in INTERACTIONS:
            raise ValueError(f'There is no interaction "{self.interaction}"; there are {", ".join(INTERACTIONS)}.')
        if self.background not in BACKGROUNDS:
            raise ValueError(f'There is no background "{self.background}"; there are {", ".join(BACKGROUNDS)}.')
        if self.renderer not in RENDERERS:
            raise ValueError(f'There is no renderer "{self.renderer}"; there are {", ".join(RENDERERS)}.')


class Scene(nn.Module):
    """A field, what is behind it, and for the packed renderer where it has something."""

    def __init__(self, settings: SceneSettings, stream: Stream, particle: int, *, device: torch.device):
        super().__init__()
        self.field = Field(settings.field, stream, particle, device=device)
        self.background = Background(settings.background, stream, particle).to(device)
        self.occupancy: Occupancy | None = None
        if settings.renderer == "packed":
            bound, each = settings.field.bound, settings.render
            self.occupancy = Occupancy(bound, step=2 * bound / (each.samples + each.fine)).to(device)


class Gallery:
    """``scenes`` on one device, in one precision. ``image_size``: pixels of their pictures, unless told otherwise."""

    def __init__(self, scenes: Sequence[Scene], settings: SceneSettings, *, image_size: int):
        self.scenes, self.settings, self.image_size = list(scenes), settings, image_size

    @property
    def device(self) -> torch.device:
        """Where the scenes are."""
        return next(self.scenes[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The scenes' precision."""
        return next(self.scenes[0].parameters()).dtype

    @property
    def backends(self) -> dict[str, str]:
        """What computes the encoding and the rendering, "torch" or a library's name."""
        packed = backend(self.device, self.dtype) if self.settings.renderer == "packed" else "torch"
        return {"encoding_backend": self.scenes[0].field.backend, "renderer_backend": packed}

    def rays(self, cameras: Cameras, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Origins and directions [V, size * size, 3] where the scenes are."""
        origins, directions = cameras.rays(size or self.image_size)
        return origins.to(self.device, self.dtype), directions.to(self.device, self.dtype)

    def photographs(
        self, cameras: Cameras, *, size: int | None = None, scenes: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Scenes (by place; None: all) in ambient light from ``cameras``, [N, V, 3, size, size] in [-1, 1]. In front of
        a "random" background, which has no colour of its own, they stand on grey."""
        origins, directions = self.rays(cameras, size)
        grey = torch.full((1, 3), 0.5, dtype=torch.float64)
        chosen = [self.scenes[s] for s in (range(len(self.scenes)) if scenes is None else scenes)]
        return torch.stack([
            photograph(
                scene.field, origins, directions, settings=self.settings.render, light=no_shade(len(cameras)),
                backdrop=partial(scene.background, drawn=grey), occupancy=scene.occupancy,
            )
            for scene in chosen
        ])  # fmt: skip

    def images(self) -> torch.Tensor:
        """The scenes from the front, [N, 3, H, W]."""
        return self.photographs(orbit(self.settings.cameras, 1))[:, 0]
