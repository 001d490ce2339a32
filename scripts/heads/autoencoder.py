"""The autoencoder: 64 px image to 16x16x4 latent. First both halves, then the decoder alone on the frozen encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from scripts.heads.fit import fit

FACE = (slice(14, 52), slice(12, 52))  # rows, columns of the face in a frontal 64 px render


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def to_tensor(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def _differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return L1, squared error and L1 of the gradients, with weight 2 in the face."""
    weight = torch.ones_like(x[:, :1])
    weight[..., FACE[0], FACE[1]] = 2.0
    error = (x - y) * weight
    edges = torch.stack([(a - b).abs().mean() for a, b in zip(_differences(x), _differences(y), strict=True)]).sum()
    return {"l1": error.abs().mean(), "l2": 2 * (error * (x - y)).mean(), "edges": 0.5 * edges}


def psnr(model: AutoencoderKL, images: np.ndarray) -> dict[str, float]:
    """Return the mean PSNR [dB] of reconstructions from the posterior mean: whole picture and face box."""
    device = next(model.parameters()).device
    errors = []
    with torch.no_grad():
        for part in np.array_split(images, max(len(images) // 50, 1)):
            x = to_tensor(part, device)
            y = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            errors.append(((x - y) / 2) ** 2)
    square = torch.cat(errors)
    db = lambda e: float((-10 * e.mean((1, 2, 3)).log10()).mean())  # noqa: E731
    return {"psnr": db(square), "psnr_face": db(square[..., FACE[0], FACE[1]])}


def train(images: np.ndarray, out: Path, steps: int, batch: int = 16, lr: float = 1e-3) -> AutoencoderKL:
    """Train both halves; the KL weight of the latents is tiny, as in Stable Diffusion's autoencoder."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ae = build()

        def forward(self, x):
            posterior = self.ae.encode(x).latent_dist
            kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
            return self.ae.decode(posterior.sample()).sample, kl

    def loss(model, rng, device):
        x = to_tensor(images[rng.integers(len(images), size=batch)], device)
        y, kl = model(x)
        return {**reconstruction(x, y.float()), "kl": 1e-4 * kl}

    return fit("autoencoder", Wrapped(), loss, out=out, steps=steps, lr=lr).ae


def train_decoder(model: AutoencoderKL, images: np.ndarray, out: Path, steps: int, batch: int = 16, lr: float = 7e-4):
    """Train the decoder alone, so that the diffusion model's latents do not change."""
    model.requires_grad_(False)
    for part in (model.post_quant_conv, model.decoder):
        part.requires_grad_(True)

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ae = model

        def forward(self, x):
            with torch.no_grad():
                z = self.ae.encode(x).latent_dist.sample()
            return self.ae.decode(z).sample

    def loss(wrapped, rng, device):
        x = to_tensor(images[rng.integers(len(images), size=batch)], device)
        return reconstruction(x, wrapped(x).float())

    return fit("decoder", Wrapped(), loss, out=out, steps=steps, lr=lr).ae.requires_grad_(True)
