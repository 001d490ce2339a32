"""Distil the flow prior to four steps: each learns where the flow, with guidance, goes in a quarter of its path.

The solution of dz/ds = v(z, s) through z_1 = eps depends on eps alone. So the student's velocity at s_k is
(z_{s_{k+1}} - z_{s_k}) / (s_{k+1} - s_k), along the teacher's paths from pure noise, on which its own steps then are.
Its four Euler steps, without guidance, lead to what the teacher reaches in many with it. (Liu et al. 2022, "Flow
Straight and Fast", distil one segment; here there are four, so each is nearly straight.)
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from rsd.heads.data import head_at
from scripts.heads.fit import fit, hold, kept
from scripts.heads.flow.network import assemble, one_token, pooled_states, velocity
from scripts.heads.flow.train import optimiser, text_encoder
from scripts.heads.latent import sample_caption

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
"""s of the student's steps, those of ``Schedule.descending(4)`` and of FLUX's pipeline."""
SUBSTEPS = 2
"""Midpoint steps of the teacher in each of them. The end of its path is then 0.02 off (root mean square, of 1), by 28
Euler steps 0.03."""
SHARD = 250
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def path(v: Velocity, z: torch.Tensor, grid: tuple[float, ...] = GRID, substeps: int = SUBSTEPS) -> torch.Tensor:
    """Solve dz/ds = v(z, s [B]) from z [B, ...] at grid[0] by midpoint steps. Return the states [B, len(grid), ...]."""
    states = [z]
    for start, end in pairwise(grid):
        h = (end - start) / substeps
        for k in range(substeps):
            s = torch.full((len(z),), start + k * h)
            z = z + h * v(z + 0.5 * h * v(z, s), s + 0.5 * h)
        states.append(z)
    return torch.stack(states, 1)


def segments(paths: torch.Tensor, which: torch.Tensor, grid: tuple[float, ...] = GRID) -> tuple[torch.Tensor, ...]:
    """Return the student's inputs z [B, ...] and s [B] and its target velocities for the segments ``which`` [B] of
    paths [B, len(grid), ...]."""
    s, rows = torch.tensor(grid), torch.arange(len(paths))
    start, end = paths[rows, which], paths[rows, which + 1]
    length = (s[which + 1] - s[which]).view(-1, *[1] * (start.ndim - 1))
    return start, s[which], (end - start) / length


def steps(v: Velocity, z: torch.Tensor, grid: tuple[float, ...] = GRID) -> torch.Tensor:
    """Return z at grid[-1] after one Euler step for each segment."""
    for start, end in pairwise(grid):
        z = z + (end - start) * v(z, torch.full((len(z),), start))
    return z


class Paths:
    """The teacher's paths from noise, computed if missing: ``pooled`` [n, WIDTH], ``paths`` [n, 5, 4, 16, 16]."""

    def __init__(
        self, teacher: SD3Transformer2DModel, encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer,
        folder: Path, shards: int, guidance: float, count: int = SHARD,
    ):  # fmt: skip
        self.teacher, self.encoder, self.tokenizer = teacher, encoder, tokenizer
        self.folder, self.guidance, self.count = folder, guidance, count
        folder.mkdir(parents=True, exist_ok=True)
        parts = [self._shard(number) for number in range(shards)]
        self.pooled, self.paths = (torch.cat([part[name] for part in parts]) for name in ("pooled", "paths"))

    def _shard(self, number: int) -> dict[str, torch.Tensor]:
        return kept(self.folder / f"paths-{number:04d}.pt", lambda: self._made(number))

    @torch.no_grad()
    def _made(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([13, number])
        heads = (head_at("train", number * self.count + k) for k in range(self.count))
        captions = [sample_caption(head, rng)[0] for head in heads]
        empty = pooled_states(self.encoder, self.tokenizer, [""])
        noise = torch.randn(self.count, 4, 16, 16, generator=torch.Generator().manual_seed(number))
        pooled, paths = [], []
        for k in range(0, self.count, 50):
            texts = pooled_states(self.encoder, self.tokenizer, captions[k : k + 50])
            both = torch.cat([empty.expand_as(texts), texts])

            def guided(z: torch.Tensor, s: torch.Tensor, both: torch.Tensor = both) -> torch.Tensor:
                uncond, text = velocity(self.teacher, torch.cat([z, z]), torch.cat([s, s]), both).chunk(2)
                return uncond + self.guidance * (text - uncond)

            paths.append(path(guided, noise[k : k + 50]).half())
            pooled.append(texts.half())
        return {"pooled": torch.cat(pooled), "paths": torch.cat(paths)}


def distil(
    teacher: SD3Transformer2DModel, encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, out: Path,
    count: int, *, shards: int = 40, batch: int = 24, lr: float = 3e-4, guidance: float = 3.0, cooldown: int = 0,
    each: int = SHARD, every: int = 100,
) -> SD3Transformer2DModel:  # fmt: skip
    """Train a copy of ``teacher`` for ``count`` steps; resumes from ``out/flow-few.pt``. ``out/few-data`` has the
    paths, ``shards`` of ``each``, with the teacher's ``guidance``. ``cooldown``: as for the flow prior."""
    torch.set_flush_denormal(True)
    one_token(teacher)
    teacher.eval().requires_grad_(False)
    data = Paths(teacher, encoder, tokenizer, out / "few-data", shards, guidance, each)
    student = copy.deepcopy(teacher).requires_grad_(True)
    student.context_embedder.weight.requires_grad_(False)

    def loss(model: Any, rng: np.random.Generator, device: torch.device) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(rng.integers(len(data.paths), size=batch))
        which = torch.from_numpy(rng.integers(len(GRID) - 1, size=batch))
        z, s, target = (x.to(device) for x in segments(data.paths[rows].float(), which))
        error = velocity(model, z, s, data.pooled[rows].float().to(device)).float() - target
        return {"segments": error.square().mean()}

    return fit(
        "flow-few", student, loss, out=out, steps=count, lr=lr, ema=0.999, every=every,
        schedule=functools.partial(hold, cooldown=cooldown), optimiser=optimiser(student, lr),
        layout=torch.contiguous_format,
    )  # fmt: skip


def train(heads: Path, teacher: Path, out: Path, count: int, **settings: Any) -> StableDiffusion3Pipeline:
    """Distil the flow prior in the folder ``teacher``. ``heads``: folder of the latent pipeline, ``settings``: of
    :func:`distil`."""
    transformer = SD3Transformer2DModel.from_pretrained(teacher / "transformer", torch_dtype=torch.float32)
    encoder = text_encoder(heads, out, init=teacher)
    tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
    return assemble(distil(transformer, encoder, tokenizer, out, count, **settings), heads, encoder)
