"""The training data of the flow prior, computed once: latents, pooled texts, and the velocities that `heads` predicts.

The velocity eps - z of rectified flow is a random target: its mean given z_s is the flow. `heads` predicts that mean at
the same state, divided by r = sqrt((1 - s)^2 + s^2). So most targets are its prediction, which has no noise, and small
batches are enough; the others are eps - z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from rsd.heads.data import head_from_row, make_shard
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import kept
from scripts.heads.flow.network import pooled_states
from scripts.heads.latent import LENGTH, sample_caption

SHARD = 500  # heads per shard
EACH = 4  # captions, noise levels and noises per head
FIRST_SHARDS, STEPS_PER_SHARD = 2, 100  # shards at the start, and steps per further shard
LIVE = 0.125  # share of a batch with targets eps - z
EMPTY = 0.25  # share of targets without a caption
LOW = -0.5  # mean of the logit of s: below 0 low noise is drawn more often


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Return the means of the latents, float32 [n, 4, 16, 16], unscaled. Not in bfloat16, which may be emulated."""
    parts = torch.from_numpy(images).split(50)
    return torch.cat([vae.encode(to_tensor(part.numpy(), vae.device)).latent_dist.mean for part in parts])


def sample_times(count: int) -> torch.Tensor:
    """Draw s in (0, 1): logit-normal (Esser et al. 2024), and 20% uniform to cover both ends."""
    even = torch.rand(count)
    return torch.where(torch.rand(count) < 0.2, even, (torch.randn(count) + LOW).sigmoid())


def noise(number: int, shape: tuple[int, ...] = (4, 16, 16)) -> torch.Tensor:
    """Return the noise of the target ``number``, so that it need not be stored."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


class Teacher:
    """The velocity that `heads` predicts."""

    def __init__(self, heads: Path):
        self.unet = UNet2DConditionModel.from_pretrained(heads / "unet", torch_dtype=torch.float32).eval()
        self.encoder = CLIPTextModel.from_pretrained(heads / "text_encoder", dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
        abar = DDIMScheduler.from_pretrained(heads / "scheduler").alphas_cumprod.double()
        self.levels = ((1 - abar).sqrt() / (abar.sqrt() + (1 - abar).sqrt())).float()
        """s of each timestep, ascending: 0.03 to 0.94."""

    @torch.no_grad()
    def velocity(self, z: torch.Tensor, eps: torch.Tensor, s: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Return v [n, 4, 16, 16] at (1 - s) z + s eps for s [n]. Where `heads` has no timestep of this noise, its
        estimate of z at the nearest one, from the same z and eps, is used."""
        texts = self.tokenizer(captions, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        t = (self.levels - s[:, None]).abs().argmin(1)
        s_t, s = self.levels[t].view(-1, 1, 1, 1), s.view(-1, 1, 1, 1)
        inside = (s >= self.levels[0]) & (s <= self.levels[-1])
        at = torch.where(inside, s, s_t)
        z_s = torch.lerp(z, eps, at)
        guess = self.unet(z_s / ((1 - at) ** 2 + at**2).sqrt(), t, self.encoder(texts)[0]).sample
        v = (guess - z_s) / (1 - at)
        clean = z_s - at * v
        return torch.where(s > self.levels[-1], (torch.lerp(z, eps, s) - clean) / s, v)


class Shards:
    """The training shards, rendered and computed if missing: tensors of n heads with ``EACH`` targets.

    ``latents`` [n, 4, 16, 16], scaled; ``pooled`` [n, EACH, WIDTH]; ``s`` [n, EACH]; ``velocity`` [n, EACH, 4, 16, 16].
    The number of shards depends on the step alone, so a resumed run uses the same data. ``seen``: number of heads that
    the current step draws from.
    """

    def __init__(
        self, heads: Path, encoder: CLIPTextModelWithProjection, folder: Path, shards: int, count: int = SHARD
    ):
        self.heads, self.encoder, self.folder, self.shards, self.count = heads, encoder, folder, shards, count
        self.parts: list[dict[str, torch.Tensor]] = []
        self.teacher: Teacher | None = None
        self.seen = 0
        folder.mkdir(parents=True, exist_ok=True)

    def at(self, step: int) -> None:
        """Load the shards that ``step`` draws from."""
        wanted = min(self.shards, FIRST_SHARDS + step // STEPS_PER_SHARD)
        while len(self.parts) < wanted:
            self.parts.append(self._shard(len(self.parts)))
        self.seen = wanted * self.count

    def draw(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, ...]:
        """Draw z_s [size, 4, 16, 16], s [size], pooled [size, WIDTH] and the target velocities; of the last ``LIVE``
        of them s and noise are new, by torch's random numbers, and the targets eps - z."""
        rows, which = rng.integers(self.seen, size=size), rng.integers(EACH, size=size)

        def gather(name: str) -> torch.Tensor:
            found = (self.parts[k // self.count][name][k % self.count] for k in rows)
            return torch.stack([x if name == "latents" else x[j] for x, j in zip(found, which, strict=True)]).float()

        z, s, pooled, v = (gather(name) for name in ("latents", "s", "pooled", "velocity"))
        eps = torch.stack([noise(int(k) * EACH + int(j)) for k, j in zip(rows, which, strict=True)])
        live = slice(size - int(LIVE * size), size)
        s[live], eps[live] = sample_times(len(s[live])), torch.randn_like(z[live])
        v[live] = eps[live] - z[live]
        return torch.lerp(z, eps, s[:, None, None, None]), s, pooled, v

    def _shard(self, number: int) -> dict[str, torch.Tensor]:
        return kept(self.folder / f"targets-{number:04d}.pt", lambda: self._made(number))

    def _made(self, number: int) -> dict[str, torch.Tensor]:
        """Render, encode and ask `heads`."""
        if self.teacher is None:
            self.teacher = Teacher(self.heads)
            self.vae = AutoencoderKL.from_pretrained(self.heads / "vae", torch_dtype=torch.float32).eval()
        made, rng = make_shard("train", number, self.count), np.random.default_rng([11, number])
        torch.manual_seed(number)
        z = self.vae.config.scaling_factor * encode(self.vae, made["images"])
        captions = [sample_caption(head_from_row(row), rng, EMPTY)[0] for row in made["heads"] for _ in range(EACH)]
        s, first = sample_times(len(captions)), number * self.count * EACH
        pooled, velocity = [], []
        for k in range(0, len(captions), 50):
            rows = slice(k, min(k + 50, len(captions)))
            eps = torch.stack([noise(first + j) for j in range(rows.start, rows.stop)])
            clean = z[torch.arange(rows.start, rows.stop) // EACH]
            velocity.append(self.teacher.velocity(clean, eps, s[rows], captions[rows]).half())
            pooled.append(pooled_states(self.encoder, self.teacher.tokenizer, captions[rows]).half())
        return {
            "latents": z.half(), "s": s.view(-1, EACH), "pooled": torch.cat(pooled).unflatten(0, (-1, EACH)),
            "velocity": torch.cat(velocity).unflatten(0, (-1, EACH)),
        }  # fmt: skip
