"""The attribute classifier: it scores pictures of heads and is never used to guide them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from rsd.heads.attributes import ATTRIBUTES, visible
from rsd.heads.data import head_from_row
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import fit

SIZES = [len(options) for options in ATTRIBUTES.values()]


def build() -> ResNetForImageClassification:
    labels = [f"{a}={v}" for a, options in ATTRIBUTES.items() for v in options]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[48, 64, 96, 128], depths=[1, 1, 1, 1], layer_type="basic",
            id2label=dict(enumerate(labels)), label2id={label: k for k, label in enumerate(labels)},
        )
    )  # fmt: skip


def targets(data: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes int64 and visibility bool, each [n, attributes]."""
    heads = [head_from_row(row) for row in data["heads"]]
    seen = [list(visible(h.values, h.camera).values()) for h in heads]
    return torch.tensor(np.stack([h.codes for h in heads])), torch.tensor(seen)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Add random blur, noise and shifts of up to 2 px, since scored pictures are not perfect renders."""
    if rng.random() < 0.3:
        x = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="area"), scale_factor=2, mode="bilinear")
    shift = rng.integers(-2, 3, size=2)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + shift[0] : 66 + shift[0], 2 + shift[1] : 66 + shift[1]]
    return x + rng.uniform(0, 0.1) * torch.randn_like(x)


def train(
    data: dict[str, np.ndarray], out: Path, steps: int, batch: int = 64, lr: float = 2e-3
) -> ResNetForImageClassification:
    """Train by cross-entropy over the values of each visible attribute."""
    codes, seen = targets(data)

    def loss(model, rng, device):
        rows = rng.integers(len(codes), size=batch)
        x = augment(to_tensor(data["images"][rows], device), rng)
        x = F.interpolate(x, scale_factor=2, mode="bilinear")  # the network's stem halves twice
        logits = model(x).logits.float().split(SIZES, dim=1)
        total = torch.zeros((), device=device)
        for k, part in enumerate(logits):
            each = F.cross_entropy(part, codes[rows, k].to(device), reduction="none", label_smoothing=0.02)
            total = total + (each * seen[rows, k].to(device)).mean()
        return {"ce": total}

    return fit("classifier", build(), loss, out=out, steps=steps, lr=lr, ema=0.998)


@torch.no_grad()
def accuracy(model: ResNetForImageClassification, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the accuracy of each attribute where it is visible."""
    codes, seen = targets(data)
    guesses = []
    for part in np.array_split(data["images"], max(len(codes) // 100, 1)):
        x = F.interpolate(to_tensor(part, model.device), scale_factor=2, mode="bilinear")
        guesses.append(torch.stack([p.argmax(1) for p in model(x).logits.split(SIZES, dim=1)], dim=1).cpu())
    right = torch.cat(guesses) == codes
    return {a: float(right[:, k][seen[:, k]].float().mean()) for k, a in enumerate(ATTRIBUTES)}
