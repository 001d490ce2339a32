"""The feature map: a small ViT trained without labels by DINO's self-distillation (Caron et al. 2021)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig, ViTModel

from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import fit

PROTOTYPES, WIDTH, LOCAL_CROPS = 512, 128, 3
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05


def build() -> ViTModel:
    config = ViTConfig(
        image_size=64, patch_size=8, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=6,
        num_attention_heads=4,
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


def crops(images: torch.Tensor, rng: np.random.Generator, size: int, area: tuple[float, float]) -> torch.Tensor:
    """Return one random square crop for the batch, resized to ``size``, with brightness, noise and blur per image."""
    edge = int(round(64 * float(rng.uniform(*area)) ** 0.5))
    top, left = rng.integers(0, 64 - edge + 1, size=2)
    x = images[..., top : top + edge, left : left + edge]
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    strength = torch.rand(len(x), 3, 1, 1, device=x.device)
    x = x * (0.8 + 0.4 * strength[:, :1]) + 0.2 * (strength[:, 1:2] - 0.5)
    return x + 0.5 * strength[:, 2:] ** 2 * torch.randn_like(x)


class Branch(nn.Module):
    """Backbone and DINO head: images [B, 3, h, w] to logits over prototypes [B, K]."""

    def __init__(self):
        super().__init__()
        self.backbone = build()
        self.backbone.set_attn_implementation("eager")  # in bf16 on CPUs twice as fast to train as the fused kernel
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(64, PROTOTYPES, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x):
        token = self.backbone(x, interpolate_pos_encoding=x.shape[-1] != 64).last_hidden_state[:, 0]
        return self.last(F.normalize(self.mlp(token), dim=-1))


class Dino(nn.Module):
    """Student and its moving-average teacher, whose outputs are centred and sharpened."""

    def __init__(self):
        super().__init__()
        self.student = Branch()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.center: torch.Tensor
        self.register_buffer("center", torch.zeros(PROTOTYPES))

    def forward(self, large: list[torch.Tensor], small: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            raw = [self.teacher(x).float() for x in large]
            aims = [((r - self.center) / TEACHER_TEMPERATURE).softmax(-1) for r in raw]
            self.center.mul_(0.9).add_(0.1 * torch.cat(raw).mean(0))
        guesses = [(self.student(x).float() / STUDENT_TEMPERATURE).log_softmax(-1) for x in [*large, *small]]
        pairs = [-(a * g).sum(-1).mean() for i, a in enumerate(aims) for j, g in enumerate(guesses) if i != j]
        return torch.stack(pairs).mean()


def train(images: np.ndarray, out: Path, steps: int, batch: int = 48, lr: float = 1e-3) -> ViTModel:
    """Train, and return the teacher's backbone after ``steps``."""

    def loss(model, rng, device):
        x = to_tensor(images[rng.integers(len(images), size=batch)], device)
        large = [crops(x, rng, 64, (0.5, 1.0)) for _ in range(2)]
        small = [crops(x, rng, 32, (0.15, 0.5)) for _ in range(LOCAL_CROPS)]
        return {"dino": model(large, small)}

    @torch.no_grad()
    def follow(model, step):
        momentum = 1 - 0.01 * (1 - step / steps)
        for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    model = fit("features", Dino(), loss, out=out, steps=steps, lr=lr, weight_decay=0.04, after_step=follow)
    return model.teacher.backbone


@torch.no_grad()
def nearest_neighbour(model: ViTModel, images: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the leave-one-out 1-NN accuracy (cosine) for each column of ``codes``, [attributes]."""
    x = to_tensor(images, model.device)
    phi = torch.cat([model(part).last_hidden_state[:, 0] for part in x.split(100)])
    similarity = F.normalize(phi, dim=-1) @ F.normalize(phi, dim=-1).T
    nearest = similarity.fill_diagonal_(-2).argmax(1).cpu().numpy()
    return (codes[nearest] == codes).mean(0)
