"""Volume rendering of samples along rays:

    colour = sum_k w_k c_k + (1 - sum_k w_k) background

Dense: a ray's samples are the midpoints of S intervals between S + 1 edges, more where the first found something.
Packed: intervals of one length, where an occupancy grid says that there is something. Weights, opacity and depth are
nerfacc's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from .field import Field
from .lights import Light
from .occupancy import Occupancy
from .samples import DenseSamples, Samples, refine, span, stratified
from .settings import RenderSettings as RenderSettings

Backdrop = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rendering:
    """What V views of a scene show, for each ray: ``colour`` [V, R, 3] in [0, 1]; ``opacity``, ``depth`` (mean distance
    of what is seen), ``z_variance`` (of that distance) [V, R]. With a shaded light, ``orientation`` [V, R], how much of
    what is seen faces away (DreamFusion's loss)."""

    colour: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    z_variance: torch.Tensor
    orientation: torch.Tensor | None = None


def render(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, jitter: torch.Tensor | None = None, occupancy: Occupancy | None = None,
) -> Rendering:  # fmt: skip
    """Look at ``field`` along rays [V, R, 3] of unit ``directions``. ``backdrop``: directions to colours [V, R, 3].
    ``jitter``: :func:`jitter_width` numbers in [0, 1) for each ray, [V, R, ...]; None: samples evenly.
    ``occupancy``: where there is something, for the packed renderer."""
    near, far = span(origins, directions, field.settings.bound)
    samples: Samples
    if occupancy is None:
        samples = _dense(field, origins, directions, near, far, settings, jitter)
    else:
        step = 2 * field.settings.bound / (settings.samples + settings.fine)
        near = near if jitter is None else near + step * jitter[..., 0].to(near)
        samples = occupancy.samples(origins, directions, near, far, step)
    along = samples.spread(directions)
    x = samples.spread(origins) + samples.t[:, None] * along
    density, albedo = field(x)
    weights = samples.composite(density)
    colour, orientation = albedo, None
    if light.shaded:
        views = samples.spread(torch.arange(len(near), device=x.device)[:, None].expand_as(near))
        colour, normals = _shade(field, x, albedo, weights.detach(), views, light, settings.shade_above)
        away = (normals * along).sum(-1).clamp(min=0)
        orientation = samples.total(weights.detach() * away**2)
    opacity = samples.total(weights)
    seen = opacity.clamp(min=1e-10)
    depth = samples.total(weights * samples.t) / seen
    z_variance = samples.total(weights * (samples.t - samples.spread(depth)) ** 2) / seen
    behind = (1 - opacity)[..., None] * backdrop(directions)
    return Rendering(samples.total(weights[:, None] * colour) + behind, opacity, depth, z_variance, orientation)


def _dense(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, near: torch.Tensor, far: torch.Tensor,
    settings: RenderSettings, jitter: torch.Tensor | None,
) -> DenseSamples:  # fmt: skip
    """Stratified samples, and ``settings.fine`` more where those found something."""
    S = settings.samples
    edges = stratified(near, far, S, None if jitter is None else jitter[..., : S - 1])
    if not settings.fine:
        return DenseSamples(edges)
    coarse = DenseSamples(edges)
    with torch.no_grad():
        x = coarse.spread(origins) + coarse.t[:, None] * coarse.spread(directions)
        weights = coarse.composite(field(x)[0]).view(coarse.shape)
    return DenseSamples(refine(edges, weights, settings.fine, None if jitter is None else jitter[..., S - 1 :]))


def _shade(
    field: Field, x: torch.Tensor, albedo: torch.Tensor, weights: torch.Tensor, views: torch.Tensor, light: Light,
    least: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Colours and normals [M, 3]: shaded, or albedo and 0 where ``weights`` [M] are below ``least``."""
    (where,) = torch.nonzero(weights >= least, as_tuple=True)
    found = field.normals(x[where])
    shaded = light.shade(albedo[where], found, x[where], views[where])
    return albedo.index_put((where,), shaded), torch.zeros_like(x).index_put((where,), found)


@torch.no_grad()
def photograph(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, rays: int = 4096, occupancy: Occupancy | None = None,
) -> torch.Tensor:  # fmt: skip
    """Square images [V, 3, H, W] in [-1, 1] along rays [V, R, 3], without gradient or jitter, ``rays`` at a time."""
    images = []
    for view in range(len(origins)):
        one = slice(view, view + 1)
        parts = zip(origins[one].split(rays, 1), directions[one].split(rays, 1), strict=True)
        look = partial(render, field, settings=settings, light=light[one], backdrop=backdrop, occupancy=occupancy)
        shown = [look(o, d).colour for o, d in parts]
        images.append(as_images(torch.cat(shown, 1)))
    return torch.cat(images)


def as_images(colour: torch.Tensor) -> torch.Tensor:
    """Colours [V, R, 3] in [0, 1], rows from the top, as square images [V, 3, H, W] in [-1, 1]."""
    side = round(colour.shape[1] ** 0.5)
    return 2 * colour.transpose(1, 2).unflatten(2, (side, side)) - 1


def jitter_width(settings: RenderSettings) -> int:
    """How many random numbers a ray takes."""
    return max(settings.samples - 1 + settings.fine, 1)
