"""Estimate how long the built-in runs take on this machine: the time of network passes, measured in a few seconds,
times their number in a run (``network_calls`` in its metrics.json)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Calls = Mapping[str, Callable[[], object]]
Clock = Callable[[], float]

PARTICLES = 4
"""Images in each measured call."""
TWICE, ENOUGH = 2, 1.0
"""How often each pass is timed, unless ENOUGH seconds have passed."""
AROUND = (0.75, 1.5)
"""The range of an estimate relative to its value, due to load, caches and temperature."""
START = 10.0
"""Seconds for imports, models and files."""


@dataclass(frozen=True)
class Kind:
    """A run with its packaged settings. ``passes``: per particle and step; ``once``: per particle; ``share``: the part
    of the time that the passes take (the rest is rendering and files)."""

    title: str
    steps: int
    passes: Mapping[str, float]
    once: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.8
    particles: int = 4


KINDS = (
    Kind("the restoration of `make demo`", 50, {"unet with gradient": 1, "decoder": 1, "encoder": 2}, {"decoder": 1}),
    # Two passes for guidance. In the first 28% of the steps also one for the learned score, one with gradient to train
    # it, and the repulsion; the others are the sampler's. 41 decoded frames.
    Kind(
        "a text-to-image run", 240,
        {"unet": 2.28, "unet with gradient": 0.28, "decoder with gradient": 0.28, "features with gradient": 0.28},
        {"decoder": 42},
    ),
    Kind(  # 12 views, with guidance; a scene's fits take most of the time
        "a text-to-3d run of four scenes", 12, {"unet": 24, "decoder": 12, "encoder": 12}, {"encoder": 12}, share=0.18
    ),
)  # fmt: skip
"""Defaults of three commands; a test compares N, steps, guidance and window with configs/."""


def samples() -> dict[str, Callable[[], object]]:
    """Return the passes of the built-in networks, each with PARTICLES images. Loads the models."""
    import torch

    from rsd.features import load_features
    from rsd.priors import load_prior

    latent, features = load_prior("heads"), load_features("heads")
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(PARTICLES, *latent.latent_shape, generator=draw)
    picture = torch.randn(PARTICLES, 3, latent.image_size, latent.image_size, generator=draw)
    half = latent.schedule.T // 2

    def differentiated(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> Callable[[], object]:
        def with_gradient() -> object:
            leaf = at.clone().requires_grad_()
            return torch.autograd.grad(function(leaf).sum(), leaf)

        return with_gradient

    return {
        "unet": torch.no_grad()(lambda: latent.epsilon(z, half)),
        "unet with gradient": differentiated(lambda leaf: latent.epsilon(leaf, half), z),
        "decoder": torch.no_grad()(lambda: latent.decode(z)),
        "decoder with gradient": differentiated(latent.decode, z),
        "encoder": torch.no_grad()(lambda: latent.encode(picture)),
        "features with gradient": differentiated(features, picture),
    }


def measure(calls: Calls, clock: Clock = time.monotonic) -> dict[str, float]:
    """Measure the median seconds of each pass per particle, after a warm-up call."""
    found = {}
    for name, call in calls.items():
        call()
        times: list[float] = []
        while len(times) < TWICE and sum(times) < ENOUGH:
            start = clock()
            call()
            times.append(clock() - start)
        found[name] = statistics.median(times) / PARTICLES
    return found


def estimate(kind: Kind, seconds: Mapping[str, float]) -> tuple[float, float]:
    """Return the range of seconds that a run takes, from the ``seconds`` of one particle's passes."""
    step = sum(count * seconds[name] for name, count in kind.passes.items())
    once = sum(count * seconds[name] for name, count in kind.once.items())
    middle = START + kind.particles * (kind.steps * step + once) / kind.share
    return AROUND[0] * middle, AROUND[1] * middle


def format_range(low: float, high: float) -> str:
    """Format a range of seconds in seconds, minutes or hours, depending on its upper end."""
    size, unit = next((s, u) for s, u in ((1, "s"), (60, "minutes"), (3600, "hours")) if high < 120 * s or u == "hours")
    a, b = (f"{value / size:.0f}" if value / size >= 9.5 else f"{value / size:.1f}" for value in (low, high))
    return f"{a} to {b} {unit}"
