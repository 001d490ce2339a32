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

PROTOTYPES, WIDTH = 256, 128
SPREAD = 0.1  # weight of the KoLeo regulariser
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05


def build() -> ViTModel:
    config = ViTConfig(
        image_size=64, patch_size=8, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=6,
        num_attention_heads=4,
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


def recolour(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each image's own hue (+-36 degrees), saturation, contrast and brightness; one in five goes grey."""
    n = len(x)
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = luma.expand(3, 3)
    axis = torch.ones(3) / 3**0.5
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3)).T
    angle = torch.tensor(rng.uniform(-0.63, 0.63, n), dtype=torch.float32)[:, None, None]
    turn = angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * torch.outer(axis, axis)
    saturation = torch.tensor(rng.uniform(0.5, 1.5, n) * (rng.random(n) > 0.2), dtype=torch.float32)[:, None, None]
    contrast = torch.tensor(rng.uniform(0.6, 1.4, n), dtype=torch.float32)[:, None, None]
    matrix = contrast * (saturation * turn + (1 - saturation) * grey)
    shift = torch.tensor(rng.uniform(-0.3, 0.3, n), dtype=torch.float32)[:, None, None, None]
    return torch.einsum("nij,njhw->nihw", matrix.to(x), x) + shift.to(x)


def crops(images: torch.Tensor, rng: np.random.Generator, size: int, area: tuple[float, float]) -> torch.Tensor:
    """Each image's own square crop, colours and noise: [B, 3, 64, 64] to [B, 3, size, size]."""
    n = len(images)
    edge = rng.uniform(*area, n) ** 0.5
    middle = rng.uniform(-1, 1, (n, 2)) * (1 - edge)[:, None]
    zoom = torch.zeros(n, 2, 3)
    zoom[:, 0, 0] = zoom[:, 1, 1] = torch.tensor(edge, dtype=torch.float32)
    zoom[:, :, 2] = torch.tensor(middle, dtype=torch.float32)
    grid = F.affine_grid(zoom.to(images), [n, 3, size, size], align_corners=False)
    x = recolour(F.grid_sample(images, grid, padding_mode="reflection", align_corners=False), rng)
    return x + torch.rand(n, 1, 1, 1, device=x.device) ** 2 * 0.4 * torch.randn_like(x)


class Branch(nn.Module):
    """Backbone and DINO head: images [B, 3, 64, 64] to logits over prototypes [B, K] and class tokens [B, d]."""

    def __init__(self):
        super().__init__()
        self.backbone = build()
        self.backbone.set_attn_implementation("eager")  # on CPUs twice as fast to train in bf16 as the fused kernel
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(64, PROTOTYPES, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x):
        token = self.backbone(x).last_hidden_state[:, 0]
        return self.last(F.normalize(self.mlp(token), dim=-1)), token


def sinkhorn(logits: torch.Tensor, rounds: int = 3) -> torch.Tensor:
    """Soft assignment of images to prototypes, [B, K] to [B, K], rows of sum 1, that uses every prototype alike.

    DINO's running centre does this in the long run; a short training collapses to a few prototypes without it.
    """
    q = (logits / TEACHER_TEMPERATURE).exp()
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def koleo(tokens: torch.Tensor) -> torch.Tensor:
    """-mean log distance to the nearest other image of the batch, on the unit sphere; tokens [B, d]."""
    phi = F.normalize(tokens.float(), dim=-1)
    nearest = (phi @ phi.T).fill_diagonal_(-2).detach().argmax(1)
    return -((phi - phi[nearest]).norm(dim=-1) + 1e-4).log().mean()


class Dino(nn.Module):
    """Student and its moving-average teacher, with DINOv2's Sinkhorn assignments and KoLeo regulariser (Oquab et al.
    2023)."""

    def __init__(self):
        super().__init__()
        self.student = Branch()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, views: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses of two views, each [B, 3, 64, 64]: every view's student guesses the other view's teacher."""
        with torch.no_grad():
            aims = [sinkhorn(self.teacher(x)[0].float()) for x in views]
        guesses, tokens = zip(*(self.student(x) for x in views), strict=True)
        logs = [(g.float() / STUDENT_TEMPERATURE).log_softmax(-1) for g in guesses]
        cross = [-(aims[1 - i] * log).sum(-1).mean() for i, log in enumerate(logs)]
        return {"dino": sum(cross) / 2, "koleo": SPREAD * sum(koleo(t) for t in tokens) / 2}


def train(images: np.ndarray, out: Path, steps: int, batch: int = 48, lr: float = 1e-3) -> ViTModel:
    """The teacher's backbone after ``steps``.

    Only large views: what tells heads apart (glasses, a mouth, an ear-ring) is small, and a small crop shares none of
    it with the whole.
    """

    def loss(model, rng, device):
        x = to_tensor(images[rng.integers(len(images), size=batch)], device)
        return model([crops(x, rng, 64, (0.5, 1.0)) for _ in range(2)])

    @torch.no_grad()
    def follow(model, step):
        momentum = 1 - 0.01 * (1 - step / steps)
        for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    model = fit("features", Dino(), loss, out=out, steps=steps, lr=lr, weight_decay=0.04, after_step=follow)
    return model.teacher.backbone


@torch.no_grad()
def nearest_neighbour(model: ViTModel, images: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Leave-one-out 1-NN accuracy (cosine) for each column of ``codes``, [attributes]."""
    x = to_tensor(images, model.device)
    phi = torch.cat([model(part).last_hidden_state[:, 0] for part in x.split(100)])
    similarity = F.normalize(phi, dim=-1) @ F.normalize(phi, dim=-1).T
    nearest = similarity.fill_diagonal_(-2).argmax(1).cpu().numpy()
    return (codes[nearest] == codes).mean(0)
