"""The problem that is timed: half a face, at the size of the built-in heads or of Stable Diffusion 2.1-base."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rsd.features import ViT, load_features
from rsd.features.tiny_decoder import TinyDecoder, load_decoder
from rsd.priors import load_prior
from rsd.priors.precision import check_autocast
from rsd.randomness import noise
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.run import Decoded, Run, Settings

Size = Literal["heads", "sd"]
Cheap = Literal["every-2nd", "every-3rd", "window", "small-picture", "small-decoder", "bfloat16"]
"""Forces that cost less: every second or third step, so many times as strong; in the noisier half of the timesteps; of
features of smaller pictures (of heads half the side, of DINO's 224 px); of a small decoder, at Stable Diffusion's size
TAESD's and with the smaller pictures; of networks that multiply in bfloat16, those of the rest of the step too."""
FIELDS: dict[str, dict[str, Any]] = {
    "every-2nd": {"repel_every": 2}, "every-3rd": {"repel_every": 3}, "window": {"window": (0.5, 1.0)},
}  # fmt: skip
"""Of the settings, where a cheap force is one of them."""


@dataclass(frozen=True)
class Problem:
    """``features``: at full size; ``small``: of smaller pictures; ``tiny``: a small decoder, ``of_tiny`` features of
    what it makes."""

    prior: Any
    features: torch.nn.Module
    small: torch.nn.Module
    tiny: TinyDecoder
    of_tiny: torch.nn.Module
    operator: torch.nn.Module
    y: torch.Tensor
    settings: Settings

    def run(self, cheap: Cheap | None = None, **changes: Any) -> Run:
        """A run of ours; ``changes``: fields of its settings."""
        embed = self.embed(cheap)
        fields = {**vars(self.settings), **FIELDS.get(cheap or "", {}), **changes}
        return Run(embed.prior, self.operator, self.y, Settings(**fields), embed=embed)

    def embed(self, cheap: Cheap | None = None) -> Decoded:
        """What particles are compared by. With bfloat16 all networks of the run have it."""
        if cheap == "small-decoder":
            return Decoded(self.prior, self.of_tiny, self.tiny)
        prior = copy.copy(self.prior)
        prior.autocast = self.prior.autocast or cheap == "bfloat16"
        features = self.small if cheap == "small-picture" else self.features
        return Decoded(prior if prior.autocast else self.prior, features)


def make(
    size: Size, *, particles: int, steps: int, device: str = "cpu", dtype: str = "float32", px: int = 0,
    autocast: bool = False,
) -> Problem:  # fmt: skip
    """``px``: of pictures of Stable Diffusion's networks; 0 for its 512. Their weights are random. ``autocast``: all
    networks multiply in bfloat16."""
    if autocast:
        check_autocast(device)
    settings = Settings(particles=particles, steps=steps, gamma=6.0, lambda_=0.2, lr_x=0.2, lr_z=0.4)
    if size == "heads":
        prior = load_prior("heads", device=device, dtype=dtype)
        features = load_features("heads", device=device).to(getattr(torch, dtype))
        small = load_features("heads", device=device, size=prior.image_size // 2).to(getattr(torch, dtype))
        tiny, of_tiny = load_decoder("tiny", prior), features
    else:
        prior = _stable_diffusion(device, dtype, px or 512)
        features, small = (_dino(one, device, dtype) for one in (None, prior.image_size * 7 // 16))  # 224 of 512
        tiny, of_tiny = _taesd(prior), small
        settings = Settings(particles=particles, steps=steps, gamma=50.0, lambda_=0.14, rho=0.075, lr_x=0.4, lr_z=0.8)
    prior.autocast = autocast  # type: ignore[attr-defined]
    side = prior.image_size
    operator = make_operator("inpaint_half_face", size=side).to(prior.device)
    truth = noise((3, side, side), seed=0, purpose="benchmark", particles=[0]).tanh().to(prior.device, prior.dtype)
    return Problem(prior, features, small, tiny, of_tiny, operator, measure(operator, truth, 0.001, seed=0), settings)


def _stable_diffusion(device: str, dtype: str, px: int) -> Any:
    from rsd.priors.latent import LatentPrior
    from scripts.full_size import stable_diffusion

    torch.manual_seed(0)
    pipeline = stable_diffusion(load_prior("heads").tokenizer, size=px)  # type: ignore[attr-defined]
    prior = LatentPrior(pipeline.to(dtype=getattr(torch, dtype)), name="Stable Diffusion's size, random", device=device)
    prior.release_text_encoder()
    return prior


def _dino(size: int | None, device: str, dtype: str) -> torch.nn.Module:
    from scripts.full_size import dino

    torch.manual_seed(1)
    return ViT(dino(), size=size).to(device, getattr(torch, dtype))


def _taesd(prior: Any) -> TinyDecoder:
    from diffusers import AutoencoderTiny

    torch.manual_seed(2)
    return TinyDecoder(AutoencoderTiny().to(prior.device, prior.dtype), prior.calls)
