"""Random numbers that depend on their purpose, not on the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch


def generator(*, seed: int, purpose: str, image: str = "", step: int = 0, particle: int = 0) -> torch.Generator:
    """Create a CPU generator for one (seed, purpose, image, step, particle)."""
    return torch.Generator().manual_seed(_number(seed, purpose, image, step, particle))


def _number(seed: int, purpose: str, image: str, step: int, particle: int) -> int:
    """Return the seed of a generator, 64 bits."""
    key = (seed, crc32(purpose.encode()), crc32(image.encode()), step, particle)
    # Words, as SeedSequence would make them of a list of integers itself, which takes half of the time.
    words = np.array([word for part in key for word in _words(part)], dtype=np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _words(number: int) -> Iterator[int]:
    """Yield the 32-bit words of an integer, the lowest first."""
    if number < 0:
        raise ValueError(f"A key of random numbers is {number}; give integers of 0 or more.")
    yield number & 0xFFFFFFFF
    while number := number >> 32:
        yield number & 0xFFFFFFFF


def noise(
    shape: Sequence[int], *, seed: int, purpose: str, particles: Sequence[int], image: str = "", step: int = 0
) -> torch.Tensor:
    """Draw standard normal numbers, float32 on the CPU, [len(particles), *shape].

    Row k depends only on (seed, purpose, image, step, particles[k]), not on chunks, resuming, the device or the number
    of processes. Noise for different purposes is independent.
    """
    key = torch.Generator()
    return torch.stack(
        [torch.randn(*shape, generator=key.manual_seed(_number(seed, purpose, image, step, k))) for k in particles]
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
