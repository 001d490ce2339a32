"""A prior for pictures of any size: one network in overlapping windows, whose predictions are blended.

    eps(z) = sum_k w_k eps_k(z in window k) / sum_k w_k

The weights w_k fall from 1 to 0 over the overlap of two windows, and are 0 within ``margin`` of a border that lies
inside the picture. A convolutional network whose answer depends on less than ``margin`` surroundings predicts the same
as on the whole picture. For others this is MultiDiffusion (Bar-Tal et al. 2023) with smooth weights.

Memory does not grow with the picture beyond a window, except for the pictures themselves: the graph of each window is
recomputed in the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from rsd.priors.base import Condition, Prior

SIDE, OVERLAP, MARGIN = 768, 96, 32
"""Windows of priors that take any size, in pixels. What is further away than MARGIN hardly changes the prediction."""

Sides = tuple[int, int]
Tile = tuple[int, int, int, int]
"""First row, last row (exclusive), and the columns, of a part of a picture that is predicted by itself."""
Part = tuple[Tile, torch.Tensor, torch.Tensor]
"""A window of the latents, and the weights of its rows and columns."""
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """Windows of at most ``side`` entries. ``overlap``: of two neighbours; ``margin``: see the module; ``fixed``: the
    network takes no other size, so smaller pictures are mirrored; ``step``: windows start at multiples of it."""

    side: int
    overlap: int
    margin: int = 0
    fixed: bool = False
    step: int = 1


def starts(length: int, layout: Layout) -> list[int]:
    """Return where windows start along a side of ``length`` entries, evenly spaced."""
    if length <= layout.side:
        return [0]
    number = -(-(length - layout.overlap) // (layout.side - layout.overlap))
    last = length - layout.side
    step = layout.step
    if step > 1 and -last % step:  # the last window starts later and is shorter
        last = -(-last // step) * step
    return sorted({min(round(k * last / (number - 1) / step) * step, last) for k in range(number)})


def ramps(length: int, layout: Layout) -> list[tuple[int, int, torch.Tensor]]:
    """Return (start, stop, weights [stop - start]) of windows along a side; the weights sum to 1 everywhere."""
    found = [(at, min(at + layout.side, length)) for at in starts(length, layout)]
    weights = []
    for k, (start, stop) in enumerate(found):
        own = torch.ones(stop - start, dtype=torch.float64)
        for edge, inside in ((0, k > 0), (1, k + 1 < len(found))):
            if not inside:
                continue
            shared = found[k - 1][1] - start if edge == 0 else stop - found[k + 1][0]
            margin = min(layout.margin, (shared - 1) // 2)
            place = torch.arange(shared, dtype=torch.float64) + 0.5 - margin
            ramp = (place / max(shared - 2 * margin, 1)).clamp(0, 1)
            own[:shared] *= ramp if edge == 0 else 1
            if edge == 1:
                own[stop - start - shared :] *= ramp.flip(0)
        weights.append(own)
    total = torch.zeros(length, dtype=torch.float64)
    for (start, stop), own in zip(found, weights, strict=True):
        total[start:stop] += own
    return [(a, b, own / total[a:b]) for (a, b), own in zip(found, weights, strict=True)]


def mirrored(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return x [..., h, w] continued to the right and below by reflections, [..., height, width]; also beyond a second
    edge, down to one pixel."""
    for dim, length in ((-2, height), (-1, width)):
        own = x.shape[dim]
        if own < length:
            place = torch.arange(length, device=x.device) % (2 * own)
            x = x.index_select(dim, torch.minimum(place, 2 * own - 1 - place))
    return x


class Windows(Prior):
    """``prior`` for pictures of ``sides`` (height, width) in pixels.

    ``layout``: its windows in entries of its latents. ``tiles``: parts of the picture that share nothing, each
    predicted by itself (default: the whole picture); their borders are multiples of the latents' pixels.
    """

    def __init__(self, prior: Prior, sides: Sides, layout: Layout, tiles: Sequence[Tile] = ()):
        self.inner, self.layout = prior, layout
        self.name, self.schedule, self.revision = prior.name, prior.schedule, prior.revision
        self.device, self.dtype, self.latent = prior.device, prior.dtype, prior.latent
        self.calls, self.autocast = prior.calls, prior.autocast
        self.watch = getattr(prior, "watch", None)
        self.factor = prior.image_size // prior.latent_shape[-1] if prior.latent else 1
        self.image_size = max(sides)
        self.sides = sides
        f = self.factor
        self.latent_shape = (prior.latent_shape[0], *(-(-side // f) for side in sides))
        tiles = tiles or [(0, sides[0], 0, sides[1])]
        assert all(edge % f == 0 or edge in sides for tile in tiles for edge in tile)
        boxes = [(-(-a // f), -(-b // f), -(-c // f), -(-d // f)) for a, b, c, d in tiles]
        self.parts = [part for box in boxes for part in _parts(box, layout)]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (3, *self.sides)

    @property
    def network(self) -> Any:
        return self.inner.network

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        return self.inner.condition(prompt, negative_prompt, guidance)

    def save_memory(self, lean: bool) -> None:
        self.inner.save_memory(lean)

    def turned(self, k: int) -> Prior:
        """Return the windows of the turned network: each window is turned by itself."""
        inner = self.inner.turned(k)
        if inner is self.inner:
            return self
        same = copy.copy(self)
        same.inner = inner
        return same

    def release_text_encoder(self) -> None:
        self.inner.release_text_encoder()

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise in z_t [B, *latent_shape]: the weighted mean over the windows."""
        return self._blend(z_t, lambda z: self.inner.epsilon(z, t, condition), 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode pictures [B, 3, H, W] window by window."""
        if not self.latent:
            return x
        _, height, width = self.latent_shape
        return self._blend(mirrored(x, height * self.factor, width * self.factor), self.inner.encode, -self.factor)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents to pictures [B, 3, H, W] window by window."""
        if not self.latent:
            return z
        return self._blend(z, self.inner.decode, self.factor)[..., : self.sides[0], : self.sides[1]]

    def _blend(self, given: torch.Tensor, network: Network, scale: int) -> torch.Tensor:
        """Return the blended results of ``network``. ``scale``: its entries for an entry of ``given``; -f for 1/f."""
        into, outof = max(-scale, 1), max(scale, 1)
        fixed = self.layout.side * into if self.layout.fixed else 0

        def part_of(x: torch.Tensor, part: Part) -> torch.Tensor:
            top, bottom, left, right = part[0]
            x = x[..., top * into : bottom * into, left * into : right * into]
            out = network(mirrored(x, fixed, fixed) if fixed else x)
            return out[..., : (bottom - top) * outof, : (right - left) * outof]

        if len(self.parts) == 1:
            return part_of(given, self.parts[0])
        sides = [side * outof for side in self.latent_shape[1:]]
        parts = self.parts[:1] if given.is_meta else self.parts  # a dry run: the others need the same memory again
        found: torch.Tensor = Blend.apply(given, parts, part_of, outof, sides)  # type: ignore[no-untyped-call]
        return found


class Blend(torch.autograd.Function):
    """The weighted sum of a network's results in windows. The backward pass computes each window again, so that at most
    one has a graph."""

    @staticmethod
    def forward(
        ctx: Any, given: torch.Tensor, parts: Sequence[Part], network: Callable[..., torch.Tensor], scale: int,
        sides: Sequence[int],
    ) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(given)
        ctx.parts, ctx.network, ctx.scale = parts, network, scale
        total = None
        for part in parts:
            out = network(given, part)
            if total is None:
                total = out.new_zeros(*out.shape[:2], *sides)
            window(total, part, scale).addcmul_(out, weights(part, scale).to(out))
        assert total is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (given,) = ctx.saved_tensors
        total = torch.zeros_like(given)
        for part in ctx.parts:
            with torch.enable_grad():
                x = given.detach().requires_grad_()
                out = ctx.network(x, part)
            pulled = window(gradient, part, ctx.scale) * weights(part, ctx.scale).to(gradient)
            total += torch.autograd.grad(out, x, pulled)[0]
        return total, None, None, None, None


def window(x: torch.Tensor, part: Part, scale: int) -> torch.Tensor:
    """Return a window of x, ``scale`` entries for an entry of the latents."""
    top, bottom, left, right = part[0]
    return x[..., top * scale : bottom * scale, left * scale : right * scale]


def weights(part: Part, scale: int) -> torch.Tensor:
    """Return the weights of a window, [h, w]."""
    _, rows, columns = part
    return _stretched(rows, scale)[:, None] * _stretched(columns, scale)


def _parts(box: Tile, layout: Layout) -> list[Part]:
    """Return the windows of a box with the weights of their rows and columns."""
    top, bottom, left, right = box
    return [
        ((top + a, top + b, left + c, left + d), rows, columns)
        for a, b, rows in ramps(bottom - top, layout)
        for c, d, columns in ramps(right - left, layout)
    ]


def _stretched(weights: torch.Tensor, factor: int) -> torch.Tensor:
    """Return weights for ``factor`` pixels an entry, interpolated linearly."""
    if factor == 1:
        return weights
    line = torch.nn.functional.interpolate(weights[None, None], scale_factor=factor, mode="linear")
    return line[0, 0]


def for_picture(prior: Prior, sides: Sides, tiles: Sequence[Tile] = ()) -> Prior:
    """Return the prior for pictures of ``sides`` (height, width): itself if it makes these, a copy with the same
    network if that takes any size and they fit into a window, else :class:`Windows`.

    ``tiles``: parts of the picture that share nothing. A prior that takes any size has ``any_size`` = True."""
    if len(tiles) <= 1 and tuple(getattr(prior, "image_shape", (3, prior.image_size, prior.image_size))) == (3, *sides):
        return prior
    if getattr(prior, "any_size", False):
        if max(sides) <= SIDE and len(tiles) <= 1:
            same = copy.copy(prior)
            same.latent_shape, same.image_size = (3, *sides), max(sides)
            return same
        return Windows(prior, sides, Layout(SIDE, OVERLAP, MARGIN, step=8), tiles)
    side = prior.latent_shape[-1]
    return Windows(prior, sides, Layout(side, side // 4, fixed=True), tiles)
