"""Train the network of "photos" to predict the noise in crops of photographs."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

from rsd.priors.photo import PhotoNet
from scripts.heads.fit import averaged, fit, hold, native_precision
from scripts.photos.data import Crops, augmented
from scripts.photos.leaves import leaves

SIDES = ((64, 16), (80, 10), (96, 7))
"""Sides of crops in pixels with the size of a batch: about equally many pixels."""
LEAVES = 0.4
"""Share of the pictures that are made of leaves and not crops of photographs, which are few."""
AIM = (0.01, 2.0)
"""sigma/alpha where restoration works, which ``AIMED`` of the crops have, uniformly in its log."""
AIMED = 0.85
SIGMA = 25 / 127.5
"""Noise of the check: 25 grey levels of 255."""
CHECKS = 16
"""Number of held-out crops of the check."""


def build_scheduler() -> DDPMScheduler:
    """Return the schedule, with sigma/alpha from 0.01 to 157."""
    return DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type="fixed_small")


def draw_noise(rng: np.random.Generator, count: int, most: float) -> torch.Tensor:
    """Draw sigma/alpha, float32 [count]: mostly in ``AIM``, the others above it up to ``most``, uniform in the log."""
    low, high = np.log(AIM)
    aimed = rng.random(count) < AIMED
    logs = np.where(aimed, rng.uniform(low, high, count), rng.uniform(high, np.log(most), count))
    return torch.from_numpy(np.exp(logs)).float()


def noise_weights(noise: torch.Tensor) -> torch.Tensor:
    """Return the weight of the error of the noise at sigma/alpha: the error that remains falls about so as the noise
    rises, and without the weight low noise, whose error is large and hardly reducible, would rule the gradient."""
    return noise.clamp(*AIM) ** 0.75


def noisy(x: torch.Tensor, noise: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Return z_t = alpha x + sigma eps for x [B, 3, H, W] and noise = sigma/alpha [B], alpha^2 + sigma^2 = 1."""
    s = noise.view(-1, 1, 1, 1)
    return (x + s * eps) / (1 + s**2) ** 0.5


@torch.no_grad()
def denoise(net: PhotoNet, y: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the denoised estimate of y = x + sigma eps [B, 3, H, W], in [-1, 1]; sigma in units of x."""
    scale = (1 + sigma**2) ** 0.5
    eps = net(y / scale, torch.tensor(sigma, device=y.device).log())
    return (y - sigma * eps).clamp(-1, 1)


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the PSNR in dB of pictures [B, 3, H, W] in [-1, 1], [B]."""
    return -10 * ((x - y) ** 2).mean((1, 2, 3)).div(4).log10()


def check(net: PhotoNet, pictures: torch.Tensor) -> dict[str, float]:
    """Return the mean PSNR of held-out crops with Gaussian noise of 25 grey levels, as they are and denoised."""
    draw = torch.Generator().manual_seed(0)
    y = pictures + SIGMA * torch.randn(pictures.shape, generator=draw)
    device = next(net.parameters()).device
    clean = torch.cat([denoise(net, part.to(device), SIGMA).cpu() for part in y.split(4)])
    return {
        "noisy dB": float(psnr(pictures, y.clamp(-1, 1)).mean()),
        "denoised dB": float(psnr(pictures, clean).mean()),
    }


def picture(crops: Crops, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a picture to learn from, uint8 [side, side, 3]: leaves or a crop of a photograph."""
    return leaves(rng, side, crops) if rng.random() < LEAVES else crops(rng, side)


def tensor(crops: list[np.ndarray]) -> torch.Tensor:
    """Stack crops [s, s, 3] to [B, 3, s, s]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def held_crops(work: Path, side: int = 128) -> torch.Tensor:
    """Return ``CHECKS`` crops of held-out photographs, the same each time, float32 [CHECKS, 3, side, side]."""
    draw, rng = Crops(work, "held"), np.random.default_rng(1)
    return tensor([draw(rng, side).astype(np.float32) / 127.5 - 1 for _ in range(CHECKS)])


def train(
    work: Path,
    steps: int,
    *,
    net: PhotoNet | None = None,
    lr: float = 6e-4,
    cooldown: int = 2000,
    every: int = 100,
    sides: tuple[tuple[int, int], ...] = SIDES,
) -> PhotoNet:
    """Train a network on the shards in ``work``, with a checkpoint ``work/photos.pt`` every ``every`` steps, from which
    the same call resumes. The learning rate is constant until the last ``cooldown`` steps; a resumed run may have
    another number of steps. Returns the averaged weights in evaluation mode."""
    crops, held = Crops(work, "train"), held_crops(work)
    most = float((1 / build_scheduler().alphas_cumprod[-1] - 1) ** 0.5)

    def loss(model, rng, device):
        side, batch = sides[rng.integers(len(sides))]
        x = tensor([augmented(picture(crops, rng, side), rng) for _ in range(batch)])
        noise, eps = draw_noise(rng, batch, most), torch.randn_like(x)
        guess = model(noisy(x, noise, eps).to(device), noise.log().to(device))
        error = ((guess.float() - eps.to(device)) ** 2).mean((1, 2, 3))
        return {"eps": (noise_weights(noise).to(device) * error).mean()}

    return fit(
        "photos", net or PhotoNet(), loss, out=work, steps=steps, lr=lr, ema=0.9995, weight_decay=0.0,
        precision=native_precision(), schedule=functools.partial(hold, cooldown=cooldown), every=every,
        check=lambda model: check(model, held),
    )  # fmt: skip


def begun(net: PhotoNet, folder: Path | None) -> PhotoNet:
    """Give ``net`` the weights of the prior in ``folder``, none if that is None, and return it. Its blocks that the
    prior lacks stay the identity, so the network may become deeper in mid-training."""
    if folder:
        known = PhotoNet.from_pretrained(folder / "unet").float().state_dict()
        _, strange = net.load_state_dict(known, strict=False)
        assert not strange, strange
    return net


def export(work: Path) -> tuple[PhotoNet, int]:
    """Return the averaged weights of the checkpoint in ``work``, and its number of steps."""
    return averaged("photos", PhotoNet(), work)
