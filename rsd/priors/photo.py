"""The prior of photographs: a small convolutional denoiser of pixels for pictures of any size, and its pipeline."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from rsd.priors.base import Condition, Prior, check_scheduler, count_backward, multiplying, network
from rsd.priors.index import MARKER, PHOTO, PHOTO_PIPELINE, Index
from rsd.priors.parts import load_network, load_scheduler
from rsd.priors.watch import Watch
from rsd.priors.windows import mirrored
from rsd.runs.words import with_article
from rsd.schedule import Schedule

MULTIPLE = 8
"""Sides of a picture are multiples of this: pixels are unshuffled 2 x 2, and the resolution is halved twice."""
SPREAD = 0.5
"""Standard deviation of photographs in [-1, 1], about."""


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions. The noise level scales and shifts the features between them.

    There is no normalisation, whose statistics would depend on the picture's size, and the second convolution starts
    at 0."""

    def __init__(self, width: int, embedded: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.film = nn.Linear(embedded, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        for value in (self.film.weight, self.film.bias, self.second.weight):
            nn.init.zeros_(value)

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Return features of x's shape [B, width, h, w]; ``level``: [B, embedded]."""
        scale, shift = self.film(level)[:, :, None, None].chunk(2, 1)
        return x + self.second(F.relu(torch.addcmul(shift, self.first(x), 1 + scale)))


class Stack(nn.ModuleList):
    """Blocks one after another."""

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Return features of x's shape; ``level``: [B, embedded]."""
        for block in self:
            x = block(x, level)
        return x


class PhotoNet(ModelMixin, ConfigMixin):
    """A UNet of convolutions that predicts the noise in a picture z_t = alpha z + sigma eps, alpha^2 + sigma^2 = 1.

    It works on 2 x 2 unshuffled pixels at three resolutions, so the sides of a picture are multiples of 8. It has no
    attention and no normalisation: one set of weights fits all sizes. ``widths``: channels of the three resolutions;
    ``blocks``: residual blocks at each of them, for the highest two once before and once after the lower ones.
    ``sample_size``: the default side of pictures in pixels.
    """

    @register_to_config
    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 192),
        blocks: tuple[int, ...] = (2, 2, 2),
        embedded: int = 128,
        sample_size: int = 256,
    ):
        super().__init__()
        self.level = nn.Sequential(nn.Linear(32, embedded), nn.SiLU(), nn.Linear(embedded, embedded), nn.SiLU())
        self.unshuffled = nn.Conv2d(12, widths[0], 3, padding=1, bias=False)
        pairs = list(zip(widths, widths[1:], strict=False))

        def stack(width: int, count: int) -> Stack:
            return Stack(Block(width, embedded) for _ in range(count))

        self.down = nn.ModuleList(stack(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.downsample = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.middle = stack(widths[-1], blocks[-1])
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in pairs)
        self.up = nn.ModuleList(stack(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.shuffled = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.shuffled.weight)
        nn.init.zeros_(self.shuffled.bias)  # type: ignore[arg-type]

    def forward(self, z_t: torch.Tensor, log_noise: torch.Tensor) -> torch.Tensor:
        """Predict the noise [B, 3, H, W] in z_t. ``log_noise``: log(sigma/alpha), [] or [B].

        The convolutions estimate what the best linear guess from single pixels misses, in units of the picture and not
        of the noise, so that they need no gain that grows as the noise falls. Raises ValueError if a side is not a
        multiple of 8.
        """
        check_sides(z_t.shape[-2:])
        noise = log_noise.to(z_t.device, torch.float32).expand(len(z_t)).clamp(-8, 8)
        s = noise.exp()[:, None, None, None]
        size = ((s**2 + SPREAD**2) / (s**2 + 1)) ** 0.5  # standard deviation of z_t
        linear = s / (s**2 + 1) ** 0.5 / size  # of the noise from z_t / size
        u = (z_t / size).to(z_t.dtype)
        missed = self._convolve(u, self.level(features(noise).to(z_t.dtype)))
        return (linear * u + SPREAD / s * missed).to(z_t.dtype)

    def _convolve(self, u: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        x = first = self.unshuffled(F.pixel_unshuffle(u, 2))
        kept = []
        for blocks, shrink in zip(self.down, self.downsample, strict=True):
            x = blocks(x, level)
            kept.append(x)
            x = shrink(x)
        x = self.middle(x, level)
        for blocks, enlarge in zip(list(self.up)[::-1], list(self.upsample)[::-1], strict=True):
            x = blocks(enlarge(x) + kept.pop(), level)
        return F.pixel_shuffle(self.shuffled(x + first), 2)


def features(log_noise: torch.Tensor) -> torch.Tensor:
    """Return sines and cosines of log(sigma/alpha) [B] at 16 frequencies, float32 [B, 32]."""
    frequencies = 0.125 * 1.35 ** torch.arange(16, device=log_noise.device, dtype=torch.float32)
    angle = log_noise.float()[:, None] * frequencies * math.pi
    return torch.cat([angle.sin(), angle.cos()], 1)


def check_sides(sides: Any, name: str = "photos", multiple: int = MULTIPLE) -> tuple[int, int]:
    """Return (height, width) of an int or two. Raise ValueError if one is not a positive ``multiple``."""
    height, width = (sides, sides) if isinstance(sides, int) else (int(side) for side in sides)
    if height < 1 or width < 1 or height % multiple or width % multiple:
        kind = f"multiples of {multiple} px" if multiple > 1 else "1 px or more"
        raise ValueError(
            f'Pictures of the prior "{name}" have sides that are {kind}; got {height} x {width}: pad or crop the '
            "picture."
        )
    return height, width


class PhotoPrior(Prior):
    """A :class:`PhotoNet` as a prior; latents are the pictures, [B, 3, H, W] in [-1, 1].

    The network is not copied, but frozen, set to evaluation mode and moved to ``device``. ``size``: a picture's side,
    or (height, width), in pixels; None: the network's. ``epsilon`` accepts all other sizes too; what is no multiple of
    8 is mirrored up to the next one, and the prediction cut back. ``image_size`` is the longer side. ``revision``: the
    model's commit, for the record. Raises ValueError for other networks, for schedulers that do not predict epsilon and
    for unsupported sizes.
    """

    any_size = True
    turn = 0
    """Which of the 8 turns and mirrors of a square the network sees; photographs turned are photographs."""

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        *,
        name: str = "pipeline",
        device: str | torch.device = "cpu",
        revision: str | None = None,
        size: int | tuple[int, int] | None = None,
    ):
        self.name, self.revision = name, revision
        kind = type(unet).__name__
        if kind not in PHOTO["unet"]:
            raise ValueError(f'The unet of the prior "{name}" is {with_article(kind)}; it must be a PhotoNet.')
        if check_scheduler(scheduler, name) != "epsilon":
            raise ValueError(f'The scheduler of the prior "{name}" predicts v, but a PhotoNet predicts epsilon.')
        self.schedule = Schedule.from_scheduler(scheduler)
        self.unet = unet.to(device).eval().requires_grad_(False)
        self.device, self._unet_dtype = self.unet.device, self.unet.dtype
        self.dtype = torch.float64 if self._unet_dtype == torch.float64 else torch.float32
        sides = unet.config.sample_size if size is None else size
        self.latent_shape = (3, *check_sides(sides, name, 1))
        self.image_size = max(self.latent_shape[1:])
        self.calls, self.watch = Counter(), Watch()

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.latent_shape

    @property
    def network(self) -> Any:
        """The network."""
        return self.unet

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Return a condition without text. Warns if a prompt is given, which has no effect."""
        if text := prompt or negative_prompt:
            warnings.warn(f'The prior "{self.name}" has no text: "{text}" has no effect.', stacklevel=2)
        return Condition(prompt, negative_prompt, guidance)

    def turned(self, k: int) -> PhotoPrior:
        """Return a copy with the same network and counts that sees pictures turned."""
        same = copy.copy(self)
        same.turn = k % 8
        return same

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise [B, 3, H, W] in z_t's dtype; t: an index 0..T-1 or [B]."""
        B = len(z_t)
        self.calls["unet_forward"] += B
        z_t = turn(z_t, self.turn)
        height, width = z_t.shape[-2:]
        whole = mirrored(z_t, height + -height % MULTIPLE, width + -width % MULTIPLE)
        log_noise = self.schedule.log_noise[torch.as_tensor(t).cpu()].to(self.device, torch.float32)
        with multiplying(self.device, self.autocast):
            out = self.unet(whole.to(self._unet_dtype), log_noise).to(z_t.dtype)[..., :height, :width]
        self.watch.see(network(self.name, "network", "unet"), out, z_t)
        return count_backward(turn_back(out, self.turn), self.calls, "unet_backward", B)


def turn(x: torch.Tensor, k: int) -> torch.Tensor:
    """Return pictures [..., H, W] turned by k % 4 quarters, and mirrored if k is 4 or more."""
    x = x.rot90(k % 4, (-2, -1))
    return x.flip(-1) if k >= 4 else x


def turn_back(x: torch.Tensor, k: int) -> torch.Tensor:
    """Undo :func:`turn`."""
    return (x.flip(-1) if k >= 4 else x).rot90(-(k % 4), (-2, -1))


def load_photo(
    found: Index,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    size: int | tuple[int, int] | None = None,
) -> PhotoPrior:
    """Load the pipeline ``found`` of a PhotoNet. Raises ValueError with the remedy."""
    if size is not None:
        check_sides(size, found.name, 1)
    unet = load_network(PhotoNet, found, "unet", dtype)
    scheduler = load_scheduler(found)
    return PhotoPrior(unet, scheduler, name=found.name, device=device, revision=found.commit, size=size)


def save_photo(unet: PhotoNet, scheduler: Any, folder: Path) -> None:
    """Save a network and its scheduler as a folder for :func:`rsd.priors.load_prior`."""
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    scheduler.save_pretrained(folder / "scheduler")
    listed = {
        "_class_name": PHOTO_PIPELINE,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["rsd", type(unet).__name__],
    }
    (folder / MARKER).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
