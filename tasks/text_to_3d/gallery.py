"""Scenes, each a field and a background, and their pictures from any camera."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from rsd.randomness import Stream

from .scene.backgrounds import Background
from .scene.cameras import Cameras, orbit
from .scene.field import Field
from .scene.lights import ambient_light
from .scene.occupancy import Occupancy, backend
from .scene.render import photograph
from .scene.settings import SceneSettings


class Scene(nn.Module):
    """A field, its background, and for the packed renderer its occupancy grid."""

    def __init__(self, settings: SceneSettings, stream: Stream, particle: int, *, device: torch.device):
        super().__init__()
        self.field = Field(settings, stream, particle, device=device)
        self.background = Background(settings.background, stream, particle).to(device)
        self.occupancy: Occupancy | None = None
        if settings.renderer == "packed":
            bound, samples = settings.bound, settings.samples + settings.fine
            self.occupancy = Occupancy(bound, step=2 * bound / samples).to(device)


class Gallery:
    """``scenes`` on one device, in one precision. ``image_size``: default side of their pictures in pixels."""

    def __init__(self, scenes: Sequence[Scene], settings: SceneSettings, *, image_size: int):
        self.scenes, self.settings, self.image_size = list(scenes), settings, image_size

    @property
    def device(self) -> torch.device:
        """The scenes' device."""
        return next(self.scenes[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The scenes' precision."""
        return next(self.scenes[0].parameters()).dtype

    @property
    def backends(self) -> dict[str, str]:
        """The backends of the encoding and the renderer: "torch" or a library's name."""
        packed = backend(self.device, self.dtype) if self.settings.renderer == "packed" else "torch"
        return {"encoding_backend": self.scenes[0].field.backend, "renderer_backend": packed}

    def rays(self, cameras: Cameras, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return origins and directions [V, size * size, 3] on the scenes' device."""
        origins, directions = cameras.rays(size or self.image_size)
        return origins.to(self.device, self.dtype), directions.to(self.device, self.dtype)

    def photographs(
        self, cameras: Cameras, *, size: int | None = None, scenes: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Render scenes (by index; None: all) in ambient light from ``cameras``, [N, V, 3, size, size] in [-1, 1]. A
        "random" background, which has no fixed colour, is grey."""
        origins, directions = self.rays(cameras, size)
        grey = torch.full((1, 3), 0.5, dtype=torch.float64)
        chosen = [self.scenes[s] for s in (range(len(self.scenes)) if scenes is None else scenes)]
        return torch.stack([
            photograph(
                scene.field, origins, directions, settings=self.settings, light=ambient_light(len(cameras)),
                backdrop=partial(scene.background, drawn=grey), occupancy=scene.occupancy,
            )
            for scene in chosen
        ])  # fmt: skip

    def images(self) -> torch.Tensor:
        """Return the scenes from the front, [N, 3, H, W]."""
        return self.photographs(orbit(self.settings, 1))[:, 0]
