"""How long the built-in runs take on this machine: network passes, measured in a few seconds, times how many of them a
run makes. What is counted is what ``network_calls`` in a run's metrics.json counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Calls = Mapping[str, Callable[[], object]]
Clock = Callable[[], float]

PARTICLES = 4
"""Pictures in each measured call."""
TWICE, ENOUGH = 2, 1.0
"""How often each pass is timed, unless it has taken so many seconds already."""
AROUND = (0.75, 1.5)
"""The range of an estimate: what a machine's other programs, its caches and its heat do to a run."""
START = 10.0
"""Seconds of imports, models and files."""


@dataclass(frozen=True)
class Kind:
    """A run with its packaged settings. ``passes``: of one particle in one step; ``once``: of one particle in all;
    ``share``: what part of its time the passes are (the rest renders, keeps and writes)."""

    title: str
    steps: int
    passes: Mapping[str, float]
    once: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.8
    particles: int = 4


KINDS = (
    Kind(
        "the restoration of `make demo`", 100,
        {"unet": 1, "decoder there and back": 2, "features there and back": 1},
    ),
    Kind(  # guidance is two passes, the learned score one, and one there and back to learn; 41 frames are decoded
        "a text-to-image run", 240,
        {"unet": 3, "unet there and back": 1, "decoder there and back": 0.6, "features there and back": 0.6},
        {"decoder": 42},
    ),
    Kind("a text-to-3d run of four scenes", 400, {"pixel unet": 2, "features there and back": 1}, share=0.4),
)  # fmt: skip
"""Defaults of three commands: their N, steps, guidance and window are checked by a test against configs/."""


def samples() -> dict[str, Callable[[], object]]:
    """The passes of the built-in networks, each of PARTICLES pictures at once. Loads the models."""
    import torch

    from rsd.features import load_features
    from rsd.priors import load_prior

    latent, pixel, features = load_prior("heads"), load_prior("heads-pixels"), load_features("heads")
    draw = torch.Generator().manual_seed(0)
    z, x = (torch.randn(PARTICLES, *prior.latent_shape, generator=draw) for prior in (latent, pixel))
    picture = torch.randn(PARTICLES, 3, latent.image_size, latent.image_size, generator=draw)
    half = latent.schedule.T // 2

    def back(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> Callable[[], object]:
        def there_and_back() -> object:
            leaf = at.clone().requires_grad_()
            return torch.autograd.grad(function(leaf).sum(), leaf)

        return there_and_back

    return {
        "unet": torch.no_grad()(lambda: latent.epsilon(z, half)),
        "unet there and back": back(lambda leaf: latent.epsilon(leaf, half), z),
        "decoder": torch.no_grad()(lambda: latent.decode(z)),
        "decoder there and back": back(latent.decode, z),
        "features there and back": back(features, picture),
        "pixel unet": torch.no_grad()(lambda: pixel.epsilon(x, half)),
    }


def measured(calls: Calls, clock: Clock = time.monotonic) -> dict[str, float]:
    """Seconds of each pass for one particle: the median, after a call that is not counted."""
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
    """From how many seconds to how many a run takes, where one particle's passes take ``seconds``."""
    step = sum(count * seconds[name] for name, count in kind.passes.items())
    once = sum(count * seconds[name] for name, count in kind.once.items())
    middle = START + kind.particles * (kind.steps * step + once) / kind.share
    return AROUND[0] * middle, AROUND[1] * middle


def told(low: float, high: float) -> str:
    """A range of seconds for people: in seconds, minutes or hours, by its upper end."""
    size, unit = next((s, u) for s, u in ((1, "s"), (60, "minutes"), (3600, "hours")) if high < 120 * s or u == "hours")
    a, b = (f"{value / size:.0f}" if value / size >= 9.5 else f"{value / size:.1f}" for value in (low, high))
    return f"{a} to {b} {unit}"
