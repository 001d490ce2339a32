"""Held-out figures for the model card: reconstruction, classification, features, and agreement with prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image

from rsd import metrics
from rsd.heads.attributes import ATTRIBUTES, VIEWS, caption, visible
from rsd.heads.data import head_at
from scripts.heads.classifier import SIZES


def prompts(count: int, split: str = "test", view: str = "any") -> list[tuple[str, dict[str, str]]]:
    """Return (prompt, its visible attributes) of held-out heads; a prompt names about two thirds of the attributes, and
    always the view."""
    pairs = []
    for k in range(count):
        head, rng = head_at(split, k, view), np.random.default_rng([7, k])
        seen = visible(head.values, head.camera)
        named = {a for a in ATTRIBUTES if seen[a] and rng.random() < 0.65}
        pairs.append((caption(head.values, named, head.camera.view), {a: head[a] for a in named}))
    return pairs


@torch.no_grad()
def sample(
    pipe: DiffusionPipeline, texts: list[str], guidance: float = 3.0, steps: int = 50, seed: int = 0, **options: Any
) -> np.ndarray:
    """Sample by the pipeline's own scheduler, uint8 [n, H, W, 3]; ``options`` are passed to the pipeline."""
    pipe.set_progress_bar_config(disable=True)
    images = []
    for k in range(0, len(texts), 32):
        part = texts[k : k + 32]
        generators = [torch.Generator().manual_seed(seed * 100_000 + k + j) for j in range(len(part))]
        out = pipe(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np", **options
        )
        images.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(images)


def classifier_input(images: np.ndarray) -> torch.Tensor:
    """Return pictures uint8 [n, H, W, 3] as the classifier's input [n, 3, 128, 128]. It was trained on 64 px, doubled
    because its stem halves twice; pictures of 32 px are first enlarged to 64 px bicubically."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if images.shape[1] != 64:
        x = F.interpolate(x, size=64, mode="bicubic").clamp(-1, 1)
    return F.interpolate(x, scale_factor=2, mode="bilinear")


@torch.no_grad()
def classify(classifier, images: np.ndarray) -> np.ndarray:
    """Return the classifier's value of every attribute, int64 [n, attributes]."""
    parts = np.array_split(images, max(len(images) // 100, 1))
    logits = torch.cat([classifier(classifier_input(part)).logits for part in parts])
    return torch.stack([p.argmax(1) for p in logits.split(SIZES, dim=1)], dim=1).numpy()


class Reader:
    """Ridge regression of ``targets`` [n, k] on the classifier's last features of pictures."""

    def __init__(self, classifier, images: np.ndarray, targets: torch.Tensor):
        self.classifier = classifier
        x = self._features(images)
        self.weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ targets.float())

    def read(self, images: np.ndarray) -> torch.Tensor:
        """Return the estimates [n, k] for pictures uint8 [n, H, W, 3]."""
        return self._features(images) @ self.weights

    @torch.no_grad()
    def _features(self, images: np.ndarray) -> torch.Tensor:
        """Return the last feature map's means over its four quarters, and a constant, [n, d]."""
        rows = []
        for part in np.array_split(images, max(len(images) // 100, 1)):
            last = self.classifier.resnet(classifier_input(part)).last_hidden_state
            rows.append(F.adaptive_avg_pool2d(last, 2).flatten(1))
        x = torch.cat(rows)
        return torch.cat([x, torch.ones(len(x), 1)], dim=1)


class ViewReader(Reader):
    """Classifies the view of a picture."""

    def __init__(self, classifier, images: np.ndarray, views: list[str]):
        super().__init__(classifier, images, torch.tensor([[float(view == v) for v in VIEWS] for view in views]))

    def __call__(self, images: np.ndarray) -> list[str]:
        """Return one of ``VIEWS`` for each picture, uint8 [n, H, W, 3]."""
        return [VIEWS[k] for k in self.read(images).argmax(1)]


class AzimuthReader(Reader):
    """Estimates the azimuth of a picture's camera."""

    def __init__(self, classifier, images: np.ndarray, azimuths: np.ndarray):
        at = torch.from_numpy(np.radians(azimuths))
        super().__init__(classifier, images, torch.stack([at.cos(), at.sin()], 1))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return degrees [n] for pictures uint8 [n, H, W, 3]."""
        cos, sin = self.read(images).unbind(1)
        return torch.atan2(sin, cos).rad2deg().numpy()


def obedience(classifier, images: np.ndarray, named: list[dict[str, str]]) -> dict[str, float]:
    """Return the share of the prompts' attributes that the classifier finds, for each attribute and "all" together."""
    guesses = classify(classifier, images)
    right: dict[str, list[bool]] = {a: [] for a in ATTRIBUTES}
    for guess, values in zip(guesses, named, strict=True):
        for k, (a, options) in enumerate(ATTRIBUTES.items()):
            if a in values:
                right[a].append(options[guess[k]] == values[a])
    shares = {a: float(np.mean(v)) for a, v in right.items() if v}
    return {"all": float(np.mean([x for v in right.values() for x in v])), **shares}


@torch.no_grad()
def frechet(classifier, images: np.ndarray, renders: np.ndarray) -> float:
    """Return the Frechet distance between two sets of pictures in the classifier's 128 pooled features."""

    def features(pictures: np.ndarray) -> torch.Tensor:
        parts = np.array_split(pictures, max(len(pictures) // 100, 1))
        return torch.cat([classifier.resnet(classifier_input(part)).pooler_output.flatten(1) for part in parts])

    return metrics.frechet(features(images), features(renders))


def contact_sheet(images: np.ndarray, columns: int, scale: int = 2) -> Image.Image:
    """Return the pictures in a grid."""
    rows = -(-len(images) // columns)
    size = images.shape[1]
    sheet = np.full((rows * size, columns * size, 3), 255, dtype=np.uint8)
    for k, image in enumerate(images):
        r, c = divmod(k, columns)
        sheet[r * size : (r + 1) * size, c * size : (c + 1) * size] = image
    return Image.fromarray(sheet).resize((columns * size * scale, rows * size * scale), Image.Resampling.NEAREST)
