"""Held-out figures for the model card: reconstruction, classification, features, and obedience to prompts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image

from rsd.heads.attributes import ATTRIBUTES, caption, visible
from rsd.heads.data import head_at
from scripts.heads.classifier import SIZES


def prompts(count: int, split: str = "test") -> list[tuple[str, dict[str, str]]]:
    """(prompt, the visible attributes it tells) of held-out heads; about two thirds of the attributes are told."""
    pairs = []
    for k in range(count):
        head, rng = head_at(split, k), np.random.default_rng([7, k])
        seen = visible(head.values, head.camera)
        told = {a for a in ATTRIBUTES if seen[a] and rng.random() < 0.65}
        pairs.append((caption(head.values, told, head.camera.view), {a: head[a] for a in told}))
    return pairs


@torch.no_grad()
def sample(
    pipe: StableDiffusionPipeline, texts: list[str], guidance: float = 3.0, steps: int = 50, seed: int = 0
) -> np.ndarray:
    """DDIM samples, uint8 [n, 64, 64, 3]."""
    pipe.set_progress_bar_config(disable=True)
    images = []
    for k in range(0, len(texts), 32):
        part = texts[k : k + 32]
        generators = [torch.Generator().manual_seed(seed * 100_000 + k + j) for j in range(len(part))]
        out = pipe(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
            height=64,
            width=64,
        )
        images.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(images)


@torch.no_grad()
def classify(classifier, images: np.ndarray) -> np.ndarray:
    """The classifier's value of every attribute, int64 [n, attributes]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    logits = torch.cat([classifier(F.interpolate(p, scale_factor=2, mode="bilinear")).logits for p in x.split(100)])
    return torch.stack([p.argmax(1) for p in logits.split(SIZES, dim=1)], dim=1).numpy()


def obedience(classifier, images: np.ndarray, told: list[dict[str, str]]) -> dict[str, float]:
    """Share of told attributes that the classifier finds in the pictures: for each attribute, and "all" together."""
    guesses = classify(classifier, images)
    right: dict[str, list[bool]] = {a: [] for a in ATTRIBUTES}
    for guess, values in zip(guesses, told, strict=True):
        for k, (a, options) in enumerate(ATTRIBUTES.items()):
            if a in values:
                right[a].append(options[guess[k]] == values[a])
    shares = {a: float(np.mean(v)) for a, v in right.items() if v}
    return {"all": float(np.mean([x for v in right.values() for x in v])), **shares}


def contact_sheet(images: np.ndarray, columns: int, scale: int = 2) -> Image.Image:
    """The pictures side by side."""
    rows = -(-len(images) // columns)
    size = images.shape[1]
    sheet = np.full((rows * size, columns * size, 3), 255, dtype=np.uint8)
    for k, image in enumerate(images):
        r, c = divmod(k, columns)
        sheet[r * size : (r + 1) * size, c * size : (c + 1) * size] = image
    return Image.fromarray(sheet).resize((columns * size * scale, rows * size * scale), Image.Resampling.NEAREST)
