"""A posterior sampler as a run: particles descend the noise levels, one step of the method per level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rsd.engine import Record
from rsd.sampling import Chain, Method, sample
from rsd.spread import Spread

from ..methods import load_method
from ..run import Run
from .guidance import Measurement, levels


class Sampling(Run):
    """One restoration by a sampler in progress, with the interface of :class:`rsd.tasks.inverse.run.Run`."""

    particles: Chain

    def begin(self, spread: Spread) -> Chain:
        self.method: Method = load_method(self.settings.method, self.settings.hyper)
        return Chain(self.prior, spread, self.stream)

    def records(self) -> Iterator[Record]:
        s = self.settings
        given = Measurement(self.prior, self.condition, self.stream, self.operator, self.y, s.sigma_v)
        interaction = replace(s.interaction, embed=self.embed)
        grid = levels(self.prior.schedule, s.steps)
        return sample(self.particles, self.method, given, levels=grid, interaction=interaction, start=self.step)
