"""The distribution of a run's particles over processes, and of the local ones over chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from rsd.distributed import ALONE, Ensemble
from rsd.memory import Memory

T = TypeVar("T")


@dataclass
class Spread:
    """The local particles.

    ``ids``: their numbers in the whole ensemble, which select their noise. ``memory``: how many particles go through a
    network at once, and which graphs are kept; results do not depend on it. ``ensemble``: which particles are local; by
    default all."""

    ids: Sequence[int]
    memory: Memory = field(default_factory=Memory)
    ensemble: Ensemble = ALONE

    def __post_init__(self) -> None:
        self.ids = list(self.ids)
        if self.ensemble is ALONE:
            self.ensemble = Ensemble.of(len(self.ids))

    @property
    def n(self) -> int:
        """Number of local particles."""
        return len(self.ids)

    @property
    def total(self) -> int:
        """Number of particles in all processes."""
        return self.ensemble.total

    def each(self, work: Callable[[slice], T]) -> list[T]:
        """Apply ``work`` to the local rows, one chunk at a time; see :meth:`rsd.memory.Memory.each`."""
        return self.memory.each(self.n, work)

    def cat(self, work: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """Apply ``work`` to each chunk and concatenate the results, [n, ...]."""
        return torch.cat(self.each(work))

    def own(self, values: Any) -> Any:
        """Select the local particles' entries of values [N]; return other values unchanged."""
        return self.ensemble.own(values)
