"""Train the flow prior by rectified flow, z_s = (1 - s) z + s eps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from scripts.heads.fit import averaged, fit, hold
from scripts.heads.flow import words
from scripts.heads.flow.data import LIVE, SHARD, Shards
from scripts.heads.flow.network import assemble, build_transformer, one_token, start_from, velocity
from scripts.heads.muon import MuonAdam

WORD_STEPS = 600


def optimiser(model: SD3Transformer2DModel, lr: float) -> MuonAdam:
    """Return Muon for the matrices of the image's stream, and Adam for the rest: modulations, embeddings, and the
    stream of the one text token."""
    inner = {p for b in model.transformer_blocks for m in (b.attn, b.ff) for p in m.parameters()}
    added = {p for name, p in model.named_parameters() if ".add_" in name or "to_add_out" in name}
    free = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in free if p in inner - added and p.ndim == 2]
    return MuonAdam(matrices, [p for p in free if not any(p is q for q in matrices)], lr)


def train(
    heads: Path,
    out: Path,
    steps: int,
    *,
    shards: int = 40,
    batch: int = 24,
    lr: float = 1e-3,
    cooldown: int = 0,
    count: int = SHARD,
    every: int = 100,
    word_steps: int = WORD_STEPS,
    held: int = 300,
    init: Path | None = None,
) -> StableDiffusion3Pipeline:
    """Train the pooled text and then the transformer. ``heads``: folder of the latent pipeline. ``out``: folder of the
    shards (``count`` heads each) and checkpoints. ``cooldown``: final steps over which the learning rate, otherwise
    constant, falls to 0. ``held``: see :func:`.words.train`. ``init``: folder of a flow prior with the initial weights
    and the text encoder, which is not trained then; the weights are ignored if ``out`` has a checkpoint."""
    torch.set_flush_denormal(True)
    encoder = text_encoder(heads, out, word_steps, init, held=held)
    torch.manual_seed(0)
    model = build_transformer()
    if init and not (out / "flow.pt").exists():
        start_from(model, init / "transformer")
    one_token(model)
    data = Shards(heads, encoder, out / "flow-data", shards, count)

    def loss(model: Any, rng: np.random.Generator, device: torch.device) -> dict[str, torch.Tensor]:
        z_s, s, pooled, target = (x.to(device) for x in data.draw(rng, batch))
        error = ((velocity(model, z_s, s, pooled).float() - target) ** 2).mean((1, 2, 3))
        live = batch - int(LIVE * batch)
        return {"teacher": error[:live].sum() / batch, "flow": error[live:].sum() / batch}

    model = fit(
        "flow", model, loss, out=out, steps=steps, lr=lr, ema=0.999, every=every, before_step=data.at,
        schedule=functools.partial(hold, cooldown=cooldown), optimiser=optimiser(model, lr),
        layout=torch.contiguous_format,
    )  # fmt: skip
    return assemble(model, heads, encoder)


def text_encoder(
    heads: Path, out: Path, steps: int = WORD_STEPS, init: Path | None = None, **settings: Any
) -> CLIPTextModelWithProjection:
    """Return the text encoder of the flow prior in ``init``, or, without it, the trained one (:func:`.words.train`)."""
    if init is None:
        return words.train(heads, out, steps, **settings)
    encoder = CLIPTextModelWithProjection.from_pretrained(init / "text_encoder", dtype=torch.float32)
    return encoder.eval().requires_grad_(False)


def export(
    heads: Path, out: Path, word_steps: int = WORD_STEPS, init: Path | None = None
) -> tuple[StableDiffusion3Pipeline, int]:
    """Return a pipeline with the EMA weights of the checkpoint in ``out``, and its step; see :func:`averaged`."""
    transformer, step = averaged("flow", build_transformer(), out)
    return assemble(transformer, heads, text_encoder(heads, out, word_steps, init)), step
