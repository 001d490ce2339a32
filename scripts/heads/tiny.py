"""Train the small decoder for the repulsion: ``python -m scripts.heads.tiny``, some minutes on one core.

Its targets are the built-in prior's decodings of noisy latents and their features, since the force is a gradient of
features of decoded noisy latents.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from rsd.features import load_features
from rsd.heads.data import make_shard
from rsd.priors import load_prior
from rsd.runs.flags import script
from scripts.heads.__main__ import WEIGHTS
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import cosine


@dataclass
class Tiny:
    """Train the small decoder."""

    out: Path = WEIGHTS / "tiny"
    """Output folder."""
    heads: int = 500
    """Number of heads for the latents, each at two noise levels."""
    steps: int = 800
    width: int = 16
    """Number of channels."""
    batch: int = 8
    lr: float = 3e-3


def build(width: int) -> AutoencoderTiny:
    """Return a decoder of latents 4 x 16 x 16 to 64 px; the class requires an encoder, which is a stub."""
    return AutoencoderTiny(
        decoder_block_out_channels=(width,) * 3, num_decoder_blocks=(1, 1, 1),
        encoder_block_out_channels=(8,) * 3, num_encoder_blocks=(0, 0, 0),
    )  # fmt: skip


Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.no_grad()
def pairs(split: str, heads: int, features: torch.nn.Module, levels: int = 2) -> Pairs:
    """Return noisy latents z_t [levels * heads, 4, 16, 16] with uniform t, their pictures D(z_t), and their
    features."""
    prior = load_prior("heads")
    images = to_tensor(make_shard(split, 0, heads)["images"], torch.device("cpu"))
    z = torch.cat([prior.encode(part) for part in images.split(50)]).repeat(levels, 1, 1, 1)
    random = torch.Generator().manual_seed(0)
    t = torch.randint(0, prior.schedule.T, (len(z),), generator=random)
    alpha, sigma = prior.schedule.coefficients(t, z)
    z_t = alpha * z + sigma * torch.randn(z.shape, generator=random)
    x = torch.cat([prior.decode(part) for part in z_t.split(50)])
    return z_t, x, torch.cat([features(part) for part in x.split(50)])


def errors(model: AutoencoderTiny, given: Pairs, features: torch.nn.Module) -> torch.Tensor:
    """Return the mean absolute error of the pictures, and the relative mean square error of their features, [2]."""
    z_t, x, phi = given
    made = model.decode(z_t).sample
    return torch.stack([(made - x).abs().mean(), (features(made) - phi).square().mean() / phi.square().mean()])


def main() -> None:
    """Train, print the held-out errors, and save in half precision."""
    o = script(Tiny, "python -m scripts.heads.tiny")
    features, start = load_features("heads"), time.monotonic()
    train, held = pairs("train", o.heads, features), pairs("validation", 50, features)
    torch.manual_seed(0)
    model, rng = build(o.width), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.decoder.parameters(), lr=o.lr, betas=(0.9, 0.99))
    for step in range(o.steps):
        optimiser.param_groups[0]["lr"] = o.lr * cosine(step, o.steps)
        rows = rng.integers(len(train[0]), size=o.batch)
        optimiser.zero_grad()
        z_t, x, phi = (part[rows] for part in train)
        errors(model, (z_t, x, phi), features).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            with torch.no_grad():
                l1, apart = errors(model, held, features).tolist()
            minutes = (time.monotonic() - start) / 60
            print(
                f"tiny {step + 1}/{o.steps}  held out: l1 {l1:.4f}, features {apart:.3f}  {minutes:.1f} min", flush=True
            )
    model.half().save_pretrained(o.out)


if __name__ == "__main__":
    main()
