"""Volume rendering of samples along rays:

    colour = sum_k w_k c_k + (1 - sum_k w_k) background

Dense: a ray's samples are the midpoints of S intervals between S + 1 edges, with more where the first found density.
Packed: intervals of one length in the occupied cells of a grid. Weights, opacity and depth are defined as in nerfacc.
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
from .settings import RenderSettings

Backdrop = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rendering:
    """V rendered views of a scene. For each ray: ``colour`` [V, R, 3] in [0, 1]; ``opacity``, ``depth`` (mean distance
    of the visible samples) and ``z_variance`` (its variance) [V, R]; with a shaded light ``orientation`` [V, R], the
    share that faces away (DreamFusion's loss)."""

    colour: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    z_variance: torch.Tensor
    orientation: torch.Tensor | None = None


def render(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, jitter: torch.Tensor | None = None, occupancy: Occupancy | None = None,
) -> Rendering:  # fmt: skip
    """Render ``field`` along rays [V, R, 3] with unit ``directions``. ``backdrop``: directions to colours [V, R, 3].
    ``jitter``: :func:`jitter_width` numbers in [0, 1) for each ray, [V, R, ...]; None: even samples. ``occupancy``: for
    the packed renderer."""
    near, far = span(origins, directions, field.settings.bound)
    # Place the samples.
    samples: Samples
    if occupancy is None:
        samples = _dense(field, origins, directions, near, far, settings, jitter)
    else:
        step = 2 * field.settings.bound / (settings.samples + settings.fine)
        near = near if jitter is None else near + step * jitter[..., 0].to(near)
        samples = occupancy.samples(origins, directions, near, far, step)
    along = samples.expand(directions)
    x = samples.expand(origins) + samples.t[:, None] * along
    # Evaluate the field, and composite.
    density, albedo = field(x)
    weights = samples.composite(density)
    colour, orientation = albedo, None
    if light.shaded:
        views = samples.expand(torch.arange(len(near), device=x.device)[:, None].expand_as(near))
        colour, normals = _shade(field, x, albedo, weights.detach(), views, light, settings.shade_above)
        away = (normals * along).sum(-1).clamp(min=0)
        orientation = samples.total(weights.detach() * away**2)
    opacity = samples.total(weights)
    seen = opacity.clamp(min=1e-10)
    depth = samples.total(weights * samples.t) / seen
    z_variance = samples.total(weights * (samples.t - samples.expand(depth)) ** 2) / seen
    behind = (1 - opacity)[..., None] * backdrop(directions)
    return Rendering(samples.total(weights[:, None] * colour) + behind, opacity, depth, z_variance, orientation)


def _dense(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, near: torch.Tensor, far: torch.Tensor,
    settings: RenderSettings, jitter: torch.Tensor | None,
) -> DenseSamples:  # fmt: skip
    """Return stratified samples, and ``settings.fine`` more where these found density."""
    S = settings.samples
    edges = stratified(near, far, S, None if jitter is None else jitter[..., : S - 1])
    if not settings.fine:
        return DenseSamples(edges)
    coarse = DenseSamples(edges)
    with torch.no_grad():
        x = coarse.expand(origins) + coarse.t[:, None] * coarse.expand(directions)
        weights = coarse.composite(field(x)[0]).view(coarse.shape)
    return DenseSamples(refine(edges, weights, settings.fine, None if jitter is None else jitter[..., S - 1 :]))


def _shade(
    field: Field, x: torch.Tensor, albedo: torch.Tensor, weights: torch.Tensor, views: torch.Tensor, light: Light,
    least: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return shaded colours and normals [M, 3]; albedo and 0 where ``weights`` [M] are below ``least``."""
    (where,) = torch.nonzero(weights >= least, as_tuple=True)
    found = field.normals(x[where])
    shaded = light.shade(albedo[where], found, x[where], views[where])
    return albedo.index_put((where,), shaded), torch.zeros_like(x).index_put((where,), found)


@torch.no_grad()
def photograph(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, rays: int = 4096, occupancy: Occupancy | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return square images [V, 3, H, W] in [-1, 1] along rays [V, R, 3], without gradient or jitter, ``rays`` at a
    time."""
    images = []
    for view in range(len(origins)):
        one = slice(view, view + 1)
        parts = zip(origins[one].split(rays, 1), directions[one].split(rays, 1), strict=True)
        look = partial(render, field, settings=settings, light=light[one], backdrop=backdrop, occupancy=occupancy)
        shown = [look(o, d).colour for o, d in parts]
        images.append(as_images(torch.cat(shown, 1)))
    return torch.cat(images)


def as_images(colour: torch.Tensor) -> torch.Tensor:
    """Return colours [V, R, 3] in [0, 1], rows from the top, as square images [V, 3, H, W] in [-1, 1]."""
    side = round(colour.shape[1] ** 0.5)
    return 2 * colour.transpose(1, 2).unflatten(2, (side, side)) - 1


def jitter_width(settings: RenderSettings) -> int:
    """Return the number of random numbers per ray."""
    return max(settings.samples - 1 + settings.fine, 1)
