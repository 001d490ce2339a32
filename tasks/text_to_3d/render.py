"""Volume rendering of dense samples: stratified along each ray, then, if asked, more where the first found something.

    alpha_k = 1 - exp(-sigma_k delta_k),   w_k = alpha_k prod_{j<k} (1 - alpha_j)
    colour  = sum_k w_k c_k + (1 - sum_k w_k) background

A ray's samples are the midpoints of S intervals between S + 1 edges. Weights, opacity and depth are nerfacc's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .field import Field
from .lights import Light

Backdrop = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RenderSettings:
    """``samples``: intervals of equal mean length on a ray; ``fine``: intervals added where the first have weight.
    ``shade_above``: samples of less weight are not shaded, for normals cost ten times what the rest does; 0: all are.
    """

    samples: int = 32
    fine: int = 0
    shade_above: float = 1e-3

    def __post_init__(self) -> None:
        """Raise ValueError for no samples."""
        if self.samples < 1 or self.fine < 0:
            raise ValueError(f"samples is {self.samples} and fine {self.fine}; give at least 1 and 0.")


@dataclass(frozen=True)
class Rendering:
    """What V views of a scene show, for each ray: ``colour`` [V, R, 3] in [0, 1]; ``opacity``, ``depth`` (mean distance
    of what is seen), ``z_variance`` (of that distance) [V, R]. With a shaded light, ``normals`` [V, R, 3] and
    ``orientation`` [V, R], how much of what is seen faces away (DreamFusion's loss)."""

    colour: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    z_variance: torch.Tensor
    normals: torch.Tensor | None = None
    orientation: torch.Tensor | None = None


def render(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, jitter: torch.Tensor | None = None,
) -> Rendering:  # fmt: skip
    """Look at ``field`` along rays [V, R, 3] of unit ``directions``. ``backdrop``: directions to colours [V, R, 3].
    ``jitter``: :func:`jitter_width` numbers in [0, 1) for each ray, [V, R, ...]; None: samples evenly."""
    near, far = span(origins, directions, field.settings.bound)
    S = settings.samples
    edges = stratified(near, far, S, None if jitter is None else jitter[..., : S - 1])
    if settings.fine:
        with torch.no_grad():
            x = points(origins, directions, edges)
            weights = composite(field(x.flatten(0, -2))[0].view(x.shape[:-1]), edges)
        edges = refine(edges, weights, settings.fine, None if jitter is None else jitter[..., S - 1 :])
    x = points(origins, directions, edges)
    density, albedo = (value.view(*x.shape[:-1], *value.shape[1:]) for value in field(x.flatten(0, -2)))
    weights = composite(density, edges)
    colour, normals = albedo, None
    if light.shaded:
        colour, normals = _shade(field, x, albedo, weights.detach(), light, settings.shade_above)
    opacity = weights.sum(-1)
    t, seen = (edges[..., 1:] + edges[..., :-1]) / 2, opacity.clamp(min=1e-10)
    depth = (weights * t).sum(-1) / seen
    z_variance = (weights * (t - depth[..., None]) ** 2).sum(-1) / seen
    behind = (1 - opacity)[..., None] * backdrop(directions)
    shown = Rendering((weights[..., None] * colour).sum(-2) + behind, opacity, depth, z_variance)
    if normals is None:
        return shown
    away = (normals * directions[..., None, :]).sum(-1).clamp(min=0)
    orientation = (weights.detach() * away**2).sum(-1)
    return replace(shown, normals=(weights[..., None] * normals).sum(-2), orientation=orientation)


def _shade(
    field: Field, x: torch.Tensor, albedo: torch.Tensor, weights: torch.Tensor, light: Light, least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours and normals [V, R, S, 3]: shaded, or albedo and 0 where ``weights`` [V, R, S] are below ``least``."""
    where = torch.nonzero(weights >= least, as_tuple=True)
    found = field.normals(x[where])
    shaded = light.shade(albedo[where], found, x[where], where[0])
    return albedo.index_put(where, shaded), torch.zeros_like(x).index_put(where, found)


@torch.no_grad()
def photograph(
    field: Field, origins: torch.Tensor, directions: torch.Tensor, *, settings: RenderSettings, light: Light,
    backdrop: Backdrop, rays: int = 4096,
) -> torch.Tensor:  # fmt: skip
    """Square images [V, 3, H, W] in [-1, 1] along rays [V, R, 3], without gradient or jitter, ``rays`` at a time."""
    images = []
    for view in range(len(origins)):
        one = slice(view, view + 1)
        parts = zip(origins[one].split(rays, 1), directions[one].split(rays, 1), strict=True)
        shown = [render(field, o, d, settings=settings, light=light[one], backdrop=backdrop).colour for o, d in parts]
        images.append(as_images(torch.cat(shown, 1)))
    return torch.cat(images)


def as_images(colour: torch.Tensor) -> torch.Tensor:
    """Colours [V, R, 3] in [0, 1], rows from the top, as square images [V, 3, H, W] in [-1, 1]."""
    side = round(colour.shape[1] ** 0.5)
    return 2 * colour.transpose(1, 2).unflatten(2, (side, side)) - 1


def jitter_width(settings: RenderSettings) -> int:
    """How many random numbers a ray takes."""
    return settings.samples - 1 + settings.fine


def span(origins: torch.Tensor, directions: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays [..., 3] enter and leave the cube of half side ``bound``, distances [...]; equal where they miss."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (-bound - origins) / safe, (bound - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    return near, torch.maximum(torch.maximum(a, b).amin(-1), near)


def points(origins: torch.Tensor, directions: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """The intervals' midpoints [..., S, 3]."""
    t = (edges[..., 1:] + edges[..., :-1]) / 2
    return origins[..., None, :] + t[..., None] * directions[..., None, :]


def stratified(near: torch.Tensor, far: torch.Tensor, samples: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """Edges [..., samples + 1] from near to far [...]; the inner ones moved by up to half a step either way with
    ``jitter`` [..., samples - 1] in [0, 1)."""
    at = torch.arange(samples + 1, dtype=near.dtype, device=near.device).expand(*near.shape, -1)
    if jitter is not None:
        at = torch.cat([at[..., :1], at[..., 1:-1] + jitter.to(at) - 0.5, at[..., -1:]], -1)
    return near[..., None] + (far - near)[..., None] * at / samples


def composite(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Weights [..., S] of samples with ``density`` [..., S] between ``edges`` [..., S + 1]."""
    depth = density * edges.diff(dim=-1)
    before = torch.cat([torch.zeros_like(depth[..., :1]), depth.cumsum(-1)[..., :-1]], -1)
    return (-before).exp() * -torch.expm1(-depth)


def refine(edges: torch.Tensor, weights: torch.Tensor, count: int, jitter: torch.Tensor | None) -> torch.Tensor:
    """``edges`` [..., S + 1] and ``count`` more in order, [..., S + 1 + count], drawn by inverting the distribution
    that is constant in each interval, with masses ``weights`` [..., S] (a little more, so that none is empty).

    ``jitter`` [..., count] in [0, 1) places each draw in its stratum; None: at its centre.
    """
    S = weights.shape[-1]
    mass = weights + 1e-3 / S
    cdf = torch.cat([torch.zeros_like(mass[..., :1]), mass.cumsum(-1)], -1)
    cdf = cdf / cdf[..., -1:]
    place = 0.5 if jitter is None else jitter.to(cdf)
    u = (torch.arange(count, dtype=cdf.dtype, device=cdf.device) + place).expand(*cdf.shape[:-1], count) / count
    right = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, S)
    low, high = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    start, end = edges.gather(-1, right - 1), edges.gather(-1, right)
    new = start + (u - low) / (high - low) * (end - start)
    return torch.cat([edges, new], -1).sort(-1).values
