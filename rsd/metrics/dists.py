"""DISTS (Ding et al. 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity").

It is 0 for equal pictures and up to 1, and forgives another patch of the same texture, which LPIPS and PSNR do not.

With x_0 the picture in [0, 1] and x_1 ... x_5 the activations of VGG16 at relu1_2 ... relu5_3 (pooling by the root mean
square under a Hann window), channel by channel with means m, variances v and covariance c over positions:

    1 - sum_ij [ alpha_ij (2 m_x m_y + k) / (m_x^2 + m_y^2 + k) + beta_ij (2 c + k) / (v_x + v_y + k) ],   k = 1e-6

alpha and beta are learnt and sum to 1. Pictures whose shorter side exceeds 256 px are shrunk to it, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from rsd.hub.cache import cached_weights

VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"
DISTS = "https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The channels of the convolutions between two poolings."""
LARGEST = 256
SMALL = 1e-6


class Dists(nn.Module):
    """DISTS of pictures x and y [N, 3, H, W] in [0, 1], [N]. The convolutions carry torchvision's numbers."""

    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        number, channels = 0, 3
        self.stages: list[list[str]] = []
        for widths in STAGES:
            stage = []
            for width in widths:
                self.features[str(number)] = nn.Conv2d(channels, width, 3, padding=1)
                stage.append(str(number))
                number, channels = number + 2, width  # the ReLU has a number too
            self.stages.append(stage)
            number += 1  # and so has the pooling
        total = 3 + sum(widths[-1] for widths in STAGES)
        self.register_buffer("alpha", torch.zeros(1, total, 1, 1))
        self.register_buffer("beta", torch.zeros(1, total, 1, 1))

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield x_0 to x_5."""
        yield x
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = (x - mean) / std
        for k, stage in enumerate(self.stages):
            x = pooled(x) if k else x
            for number in stage:
                x = self.features[number](x).relu()
            yield x

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        side = min(x.shape[-2:])
        if side > LARGEST:
            x, y = (
                F.interpolate(v, scale_factor=LARGEST / side, mode="bilinear", recompute_scale_factor=False)
                for v in (x, y)
            )
        structure, texture = [], []
        for a, b in zip(self.maps(x), self.maps(y), strict=True):
            m, n = a.mean((2, 3)), b.mean((2, 3))
            v, w = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
            both = (a * b).mean((2, 3)) - m * n
            structure.append((2 * m * n + SMALL) / (m**2 + n**2 + SMALL))
            texture.append((2 * both + SMALL) / (v + w + SMALL))
        alpha, beta = self.alpha.flatten(), self.beta.flatten()
        alike = torch.cat(structure, 1) @ alpha + torch.cat(texture, 1) @ beta
        return 1 - alike / (alpha.sum() + beta.sum())


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of x [N, C, H, W] under 3 x 3 Hann windows, at every second position."""
    window = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype) / 4
    kernel = (window[:, None] * window).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def dists_network(*, device: str | torch.device = "cpu") -> Dists:
    """Load DISTS, frozen. Raise FileNotFoundError with the remedy if one of its two files of weights is missing."""
    network = Dists()
    what = "DISTS needs weights that are"
    vgg, own = cached_weights(VGG16, what, check_hash=True), cached_weights(DISTS, what)
    for number, layer in network.features.items():
        layer.load_state_dict({k: vgg[f"features.{number}.{k}"] for k in layer.state_dict()})
    network.alpha, network.beta = own["alpha"].detach(), own["beta"].detach()
    return network.eval().requires_grad_(False).to(device)
