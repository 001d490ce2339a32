"""The base classes of all runs: particles, an iterator over the steps, and a state to resume from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble
from rsd.engine import Record, Reference
from rsd.priors.watch import watch_of


class Run:
    """A run in progress: iterate over :meth:`steps`, then call :meth:`finish`.

    A subclass sets ``particles`` (with ``images``, ``finish``, ``state``, ``load_state``) and defines :meth:`records`.
    ``step``: the number of finished steps. ``ensemble``: how processes share the particles.
    """

    particles: Any
    prior: Any = None
    step: int = 0
    ensemble: Ensemble = ALONE

    def records(self) -> Iterator[Record]:
        """Run from step ``self.step`` to the end and yield a Record per step."""
        raise NotImplementedError

    def steps(self) -> Iterator[Record]:
        """Run the remaining steps and yield a Record per step. Raise ValueError if the output of a network of the prior
        is implausible (rsd.priors.watch)."""
        for record in self.records():
            self.step = record.step + 1
            watch_of(self.prior).check()
            yield record

    def finish(self) -> torch.Tensor:
        """Return the result of all particles, [N, 3, H, W]. Raise as :meth:`steps`."""
        result = self.result()
        watch_of(self.prior).check()
        return self.ensemble.gather(result, what="pictures")

    def result(self) -> torch.Tensor:
        """Return the result of the local particles."""
        finished: torch.Tensor = self.particles.finish()
        return finished

    def images(self) -> torch.Tensor:
        """Return the current images of all particles, [N, 3, H, W]."""
        return self.ensemble.gather(self.particles.images(), what="pictures")

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint, from which a run resumes with identical results."""
        return {"step": self.step, **self.particles.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        self.step = int(state["step"])
        self.particles.load_state(state)


class Distillation(Run):
    """A run with a reference score, whose learned state is saved with the particles."""

    reference: Reference

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint, including the reference's."""
        return {**super().state(), "reference": self.reference.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        super().load_state(state)
        self.reference.load_state(state.get("reference", {}))
