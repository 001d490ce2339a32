"""Sample two pictures for two steps with a flow model at its real size and random weights, and measure memory and time.

    python -m scripts.full_size_flow                  # SD3.5 medium in float32 (9.2 GiB) at 512 px, with repulsion
    python -m scripts.full_size_flow --side 256       # smaller pictures
    python -m scripts.full_size_flow --layers 2       # a few blocks of it, for a trial

No text encoder is loaded: the embeddings are random and have the real shapes, as those of a cache would.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import diffusers
import torch

from rsd.features import Decoded, load_features
from rsd.memory import Memory
from rsd.priors.base import Condition
from rsd.priors.families.base import FamilyPrior
from rsd.priors.families.load import prior_of
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.runs.flags import script
from rsd.sampling import Chain, Denoiser, sample
from rsd.spread import Spread
from rsd.tasks.text_to_image.samplers import Euler
from scripts.families import kl, schedule


@dataclass(kw_only=True)
class FullSizeFlow:
    """Take one repelling step with SD3.5 medium at its real size."""

    side: int = 512
    """Side of the pictures in pixels."""
    layers: int = 24
    """Blocks of the transformer; the model has 24."""
    particles: int = 2
    threads: int = 0
    """Number of torch threads (0: one per core)."""


def build(layers: int, side: int, width: int = 1536) -> FamilyPrior:
    """Build SD3.5 medium with random weights, filled in place so that no second copy exists."""
    dual = min(13, layers)
    with torch.device("meta"):
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=128, num_layers=layers, num_attention_heads=width // 64, caption_projection_dim=width,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(dual)), qk_norm="rms_norm",
        )  # fmt: skip
    transformer = transformer.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*transformer.parameters(), *transformer.buffers()):
            value.uniform_(-0.03, 0.03, generator=draw)
    vae = kl(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    pipe = diffusers.StableDiffusion3Pipeline(transformer, schedule(shift=3.0), vae, *[None] * 6)
    return prior_of(pipe, name="SD3.5 medium", size=side)


def step(prior: FamilyPrior, particles: int) -> tuple[float, float]:
    """Take a step that repels and one to the clean picture. Return the seconds and the norm of the repulsion."""
    draw = torch.Generator().manual_seed(1)
    config = prior.network.config
    condition = Condition(
        embeddings=torch.randn(1, 154 + 256, config.joint_attention_dim, generator=draw),
        pooled=torch.randn(1, config.pooled_projection_dim, generator=draw),
    )
    spread, stream = Spread(range(particles), Memory(1, lean=True)), Stream(0)
    prior.save_memory(True)
    levels = Euler().levels(prior.schedule, 4)[2:]  # the second half of four steps
    chain = Chain(prior, spread, stream, scale=levels[0].sigma)
    interaction = Interaction(1.0, embed=Decoded(prior, load_features("pixels")))
    began = time.perf_counter()
    given = Denoiser(prior, condition, stream)
    record = next(iter(sample(chain, Euler(), given, levels=levels, interaction=interaction)))
    assert chain.z.isfinite().all()
    return time.perf_counter() - began, record.repulsion


def main() -> None:
    """Print the peak memory and the seconds of the step."""
    o = script(FullSizeFlow, "python -m scripts.full_size_flow")
    if o.threads:
        torch.set_num_threads(o.threads)
    prior = build(o.layers, o.side)
    count = sum(p.numel() for p in prior.network.parameters())
    print(f"{count:,} parameters in float32, {o.side} px, {o.particles} particles", flush=True)
    seconds, repulsion = step(prior, o.particles)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    print(f"one repelling step: {seconds:.0f} s, repulsion {repulsion:.3g}, peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
