"""The benchmark problem: half a face, at the size of the built-in heads or of Stable Diffusion 2.1-base."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from rsd.features import ViT, load_features
from rsd.features.tiny_decoder import TinyDecoder, load_decoder
from rsd.priors import load_prior
from rsd.priors.precision import check_autocast
from rsd.randomness import noise
from rsd.spread import Spread
from rsd.tasks.inverse.methods import run_class
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.run import Decoded, Run, Settings

Size = Literal["heads", "sd"]
Cheap = Literal["every-2nd", "every-3rd", "window", "small-picture", "small-decoder", "bfloat16"]
"""Cheaper forces: at every second or third step, scaled up accordingly; in the noisier half of the timesteps; with
features of smaller pictures (heads: half the side, DINO: 224 px); with a small decoder (at Stable Diffusion's size
TAESD's, on the smaller pictures); with all networks of the step in bfloat16."""
FIELDS: dict[str, dict[str, Any]] = {
    "every-2nd": {"repel_every": 2}, "every-3rd": {"repel_every": 3}, "window": {"window": (0.5, 1.0)},
}  # fmt: skip
"""Settings of the cheap forces that are set by an option."""


@dataclass(frozen=True)
class Problem:
    """A restoration to time. ``features``: at full size; ``small``: of smaller pictures; ``tiny``: a small decoder;
    ``of_tiny``: the features of its pictures."""

    prior: Any
    features: torch.nn.Module
    small: torch.nn.Module
    tiny: TinyDecoder
    of_tiny: torch.nn.Module
    operator: torch.nn.Module
    y: torch.Tensor
    settings: Settings

    def run(self, cheap: Cheap | None = None, **changes: Any) -> Run:
        """Return a run; ``changes``: fields of its settings, such as ``method``."""
        embed = self.embed(cheap)
        settings = Settings(**{**vars(self.settings), **FIELDS.get(cheap or "", {}), **changes})
        run: Run = run_class(settings.method)(embed.prior, self.operator, self.y, settings, embed=embed)
        return run

    def embed(self, cheap: Cheap | None = None) -> Decoded:
        """Return the feature map of the repulsion. With bfloat16 all networks of the run use it."""
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
    """Return the problem. ``px``: picture size of Stable Diffusion's networks, whose weights are random; 0: 512.
    ``autocast``: all networks multiply in bfloat16."""
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


def cosines(problem: Problem, cheap: Sequence[Cheap]) -> dict[Cheap, float]:
    """Return the cosine of each cheap force with the exact one along a run that the exact one drives.

    The cosine is that of sigma_t R over all steps, particles and entries. Steps that a cheap force skips are zero; with
    "every-..." the others are scaled up accordingly.
    """
    run = problem.run(memory="flat")
    prior = problem.prior
    exact: list[torch.Tensor] = []
    others: dict[Cheap, list[torch.Tensor]] = {name: [] for name in cheap}
    compared = {name: problem.run(name, memory="flat") for name in cheap}
    steps = run.steps()
    for step, t in enumerate(run.timesteps):
        z, sigma = run.particles.render(), prior.schedule.sigma(t)
        eps = run.stream.noise("diffusion", prior.latent_shape, range(run.settings.particles), step).to(z)
        z_t = prior.schedule.alpha(t) * z + sigma * eps
        force = _force(run, z_t)
        exact.append(sigma * force)
        for name, other in compared.items():
            interaction = other.settings.interaction
            acts = interaction.active(t, prior.schedule.T, len(z)) and step % interaction.every == 0
            one = force if name in FIELDS else _force(other, z_t)  # those only leave out steps
            R = interaction.every * one if acts else torch.zeros_like(z)
            others[name].append(sigma * R)
        next(steps)
    whole = torch.stack(exact).flatten()
    return {name: float(torch.cosine_similarity(torch.stack(R).flatten(), whole, dim=0)) for name, R in others.items()}


def _force(run: Run, z_t: torch.Tensor) -> torch.Tensor:
    assert run.embed is not None
    return replace(run.settings.interaction, embed=run.embed).force(z_t, Spread(range(len(z_t))))[0]
