"""How a run's particles are spread: over processes, and here over chunks that a network sees at once."""

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
    """``ids``: the numbers in the whole ensemble of the particles here, on which their noise depends. ``memory``: how
    many of them a network sees at once, and which graphs are kept; results do not depend on it. ``ensemble``: which of
    the whole are here; by default all."""

    ids: Sequence[int]
    memory: Memory = field(default_factory=Memory)
    ensemble: Ensemble = ALONE

    def __post_init__(self) -> None:
        self.ids = list(self.ids)
        if self.ensemble is ALONE:
            self.ensemble = Ensemble.of(len(self.ids))

    @property
    def n(self) -> int:
        """How many particles are here."""
        return len(self.ids)

    @property
    def total(self) -> int:
        """How many particles there are in all processes."""
        return self.ensemble.total

    def each(self, work: Callable[[slice], T]) -> list[T]:
        """``work`` of the rows here, a chunk at a time; see :meth:`rsd.memory.Memory.each`."""
        return self.memory.each(self.n, work)

    def cat(self, work: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """What ``work`` makes of each chunk, as one tensor [n, ...]."""
        return torch.cat(self.each(work))

    def own(self, values: Any) -> Any:
        """Of values for all particles [N] those of the particles here; what is one for all stays."""
        return self.ensemble.own(values)
