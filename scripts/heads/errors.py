"""Measure models without sampling: errors of the pixel model's noise and of the flow prior's denoised estimates, on
held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import IFPipeline, StableDiffusion3Pipeline

from rsd.heads.attributes import ATTRIBUTES, VIEWS, Head, caption, visible
from rsd.heads.data import head_from_row, make_shard
from scripts.heads import pixel
from scripts.heads.autoencoder import to_tensor
from scripts.heads.flow import data as flow_data
from scripts.heads.flow.network import one_token, pooled_states, velocity

WRONG = ("mouth", "left_eye", "left_cheek", "left_ear")


def text_of(head: Head, wrong: str | None = None) -> str:
    """Return the caption of all visible attributes and the view; the attribute ``wrong`` has its next value."""
    values = dict(head.values)
    named = {a for a, seen in visible(head.values, head.camera).items() if seen}
    if wrong:
        options = ATTRIBUTES[wrong]
        values[wrong] = options[(options.index(values[wrong]) + 1) % len(options)]
    return caption(values, named, head.camera.view)


@torch.no_grad()
def held_out_errors(
    pipe: IFPipeline, count: int = 32, timesteps: Sequence[int] = (200, 300, 400, 500), heads: int = 140
) -> dict[str, list[float]]:
    """Return mean squared errors at each of ``timesteps``, for up to ``count`` front views among ``heads`` held-out
    heads, with the same noise for every model: over the picture, in the face, and the increase in the face by a wrong
    word for a visible attribute. The increase is 0 if a model ignores the word; it grows long before samples follow the
    word."""
    data = pixel.make_pixel_shard("validation", 0, heads)
    every = [head_from_row(row) for row in data["heads"]]
    rows = [k for k, head in enumerate(every) if head.camera.view == VIEWS[0]][:count]
    shown = [every[k] for k in rows]
    x, face = to_tensor(data["images"][rows], torch.device("cpu")), pixel.face_map()
    abar, generator = pixel.build_scheduler().alphas_cumprod, torch.Generator().manual_seed(0)
    noises = [torch.randn(x.shape, generator=generator) for _ in timesteps]

    def errors(wrong: str | None = None) -> torch.Tensor:
        """Return the error of each pixel, [timesteps, pictures, SIZE, SIZE]."""
        texts = [text_of(head, wrong) for head in shown]
        tokens = pipe.tokenizer(
            texts, padding="max_length", max_length=pixel.LENGTH, truncation=True, return_tensors="pt"
        )
        text = pipe.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        found = []
        for t, eps in zip(timesteps, noises, strict=True):
            z_t = abar[t].sqrt() * x + (1 - abar[t]).sqrt() * eps
            found.append(((pipe.unet(z_t, t, text).sample[:, :3] - eps) ** 2).mean(1))
        return torch.stack(found)

    right = errors()
    in_face = (right * face).sum((2, 3)) / face.sum()
    table = {"picture": right.mean((1, 2, 3)), "face": in_face.mean(1)}
    for a in WRONG:
        seen = torch.tensor([visible(head.values, head.camera)[a] for head in shown])
        added = (errors(a) * face).sum((2, 3)) / face.sum() - in_face
        table[f"wrong {a}"] = added[:, seen].mean(1)
    return {"timesteps": [float(t) for t in timesteps], **{k: v.tolist() for k, v in table.items()}}


@torch.no_grad()
def flow_errors(
    heads: Path, pipe: StableDiffusion3Pipeline, count: int = 32, ratios: Sequence[float] = (0.1, 0.2, 0.5, 1, 2)
) -> dict[str, list[float]]:
    """Return the mean squared error of the denoised latents without a prompt at each σ/α of ``ratios``, by the latent
    pipeline in the folder ``heads`` and by the flow prior ``pipe``, and the flow's over the other's. ``count`` held-out
    heads, with the same noise for both. ``pipe`` takes one text token afterwards, see :func:`one_token`."""
    teacher = flow_data.Teacher(heads)
    z = pipe.vae.config.scaling_factor * flow_data.encode(pipe.vae, make_shard("validation", 0, count)["images"])
    captions, generator = [""] * count, torch.Generator().manual_seed(0)
    pooled = pooled_states(pipe.text_encoder, pipe.tokenizer, captions)
    one_token(pipe.transformer)
    ours: list[float] = []
    theirs: list[float] = []
    for ratio in ratios:
        s = torch.full((count,), ratio / (1 + ratio))
        s = teacher.levels[(teacher.levels - s[:, None]).abs().argmin(1)]  # a timestep of the latent pipeline
        eps = torch.randn(z.shape, generator=generator)
        at = s[:, None, None, None]
        z_s = torch.lerp(z, eps, at)
        clean = (
            z_s - at * v for v in (teacher.velocity(z, eps, s, captions), velocity(pipe.transformer, z_s, s, pooled))
        )
        for found, z_0 in zip((theirs, ours), clean, strict=True):
            found.append(float(((z_0 - z) ** 2).mean()))
    return {
        "sigma/alpha": list(map(float, ratios)), "heads": theirs, "flow": ours,
        "flow / heads": [a / b for a, b in zip(ours, theirs, strict=True)],
    }  # fmt: skip
