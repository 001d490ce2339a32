"""Random numbers that depend on their purpose, not on the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch


def generator(*, seed: int, purpose: str, image: str = "", step: int = 0, particle: int = 0) -> torch.Generator:
    """Create a CPU generator for one (seed, purpose, image, step, particle)."""
    key = np.random.SeedSequence([seed, crc32(purpose.encode()), crc32(image.encode()), step, particle])
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]))


def noise(
    shape: Sequence[int], *, seed: int, purpose: str, particles: Sequence[int], image: str = "", step: int = 0
) -> torch.Tensor:
    """Draw standard normal numbers, float32 on the CPU, [len(particles), *shape].

    Row k depends only on (seed, purpose, image, step, particles[k]), not on chunks, resuming, the device or the number
    of processes. Noise for different purposes is independent.
    """
    return torch.stack(
        [
            torch.randn(
                *shape, generator=generator(seed=seed, purpose=purpose, image=image, step=step, particle=particle)
            )
            for particle in particles
        ]
    )


def integers(
    low: int, high: int, *, seed: int, purpose: str, particles: Sequence[int], image: str = "", step: int = 0
) -> torch.Tensor:
    """Draw uniform integers low .. high (inclusive), int64 [len(particles)]; see :func:`noise`."""
    keys = [generator(seed=seed, purpose=purpose, image=image, step=step, particle=particle) for particle in particles]
    return torch.cat([torch.randint(low, high + 1, (1,), generator=key) for key in keys])


@dataclass(frozen=True)
class Stream:
    """The random numbers of one run.

    They depend only on ``seed``, the name of the ``image`` (or prompt), the purpose, step and particle.
    """

    seed: int
    image: str = ""

    def generator(self, purpose: str, *, step: int = 0, particle: int = 0) -> torch.Generator:
        """Create a CPU generator; see :func:`generator`."""
        return generator(seed=self.seed, purpose=purpose, image=self.image, step=step, particle=particle)

    def noise(self, purpose: str, shape: Sequence[int], ids: Sequence[int], step: int = 0) -> torch.Tensor:
        """Draw standard normal numbers, float32 on the CPU, [len(ids), *shape], a row per particle."""
        return noise(shape, seed=self.seed, purpose=purpose, image=self.image, step=step, particles=ids)

    def integers(self, purpose: str, low: int, high: int, ids: Sequence[int], step: int = 0) -> torch.Tensor:
        """Draw uniform integers low .. high (inclusive), int64 [len(ids)]."""
        return integers(low, high, seed=self.seed, purpose=purpose, image=self.image, step=step, particles=ids)
