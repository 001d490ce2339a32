"""What every head's run is: particles that an iterator of records moves, and that can stop and go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble
from rsd.engine import Record, Reference
from rsd.priors.watch import watch_of


class Run:
    """A run in progress: iterate over :meth:`steps`, look at :attr:`particles`, then :meth:`finish`.

    A head sets ``particles`` (with ``images``, ``finish``, ``state``, ``load_state``) and says in :meth:`records` what
    moves them. ``step`` counts the steps done. ``ensemble``: the whole that the particles are of.
    """

    particles: Any
    prior: Any = None
    step: int = 0
    ensemble: Ensemble = ALONE

    def records(self) -> Iterator[Record]:
        """Move the particles from step ``self.step`` to the end, a Record each."""
        raise NotImplementedError

    def steps(self) -> Iterator[Record]:
        """The steps still to do, one Record each. Raises ValueError for a network of the prior whose answers are beyond
        reason (rsd.watch): the particles that it moved are worth nothing."""
        for record in self.records():
            self.step = record.step + 1
            watch_of(self.prior).check()
            yield record

    def finish(self) -> torch.Tensor:
        """The result of all particles, [N, 3, H, W]. Raises as :meth:`steps`."""
        result = self.particles.finish()
        watch_of(self.prior).check()
        return self.ensemble.gather(result, what="pictures")

    def images(self) -> torch.Tensor:
        """All particles as they stand, [N, 3, H, W]."""
        return self.ensemble.gather(self.particles.images(), what="pictures")

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on with the same pixels."""
        return {"step": self.step, **self.particles.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.step = int(state["step"])
        self.particles.load_state(state)


class Distillation(Run):
    """A run against a reference score, which may learn: it stops and goes on with the particles."""

    reference: Reference

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on with the same pixels, the reference's included."""
        return {**super().state(), "reference": self.reference.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        super().load_state(state)
        self.reference.load_state(state.get("reference", {}))
