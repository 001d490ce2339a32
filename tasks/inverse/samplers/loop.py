"""A posterior sampler as a run: particles descend the noise levels, one step of the method per level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from rsd.engine import Record
from rsd.sampling import Chain, Method, reaching, sample
from rsd.spread import Spread

from ..methods import load_method
from ..run import Run
from .guidance import Measurement


class Sampling(Run):
    """One restoration by a sampler in progress, with the interface of :class:`rsd.tasks.inverse.run.Run`."""

    particles: Chain

    def begin(self, spread: Spread) -> Chain:
        s = self.settings
        self.measurement = Measurement(self.prior, self.condition, self.stream, self.operator, self.y, s.sigma_v)
        self.method: Method = load_method(s.method, s.hyper)
        self.method.prepare(self.prior)
        self.method = self.method.adapted(self.measurement)
        self.levels = self.method.levels(self.prior.schedule, s.steps)
        self.interaction = reaching(s.interaction, self.levels, self.prior.schedule, spread.total)
        chain = Chain(self.prior, spread, self.stream)
        with torch.no_grad():
            self.estimate = self.method.estimate(self.measurement)
        if self.estimate is not None:
            chain.z = self.method.initial(self.measurement, self.estimate, self.levels[0], chain.z)
        return chain

    def log_weights(self) -> torch.Tensor:
        return self.ensemble.gather(self.particles.log_weights.to(self.prior.device).float(), what="weights")

    def records(self) -> Iterator[Record]:
        interaction = replace(self.interaction, embed=self.embed)
        return sample(
            self.particles, self.method, self.measurement, levels=self.levels, interaction=interaction, start=self.step
        )

    @torch.no_grad()
    def result(self) -> torch.Tensor:
        """Return the method's samples of the local particles, chunk by chunk."""
        spread, last = self.particles.spread, self.levels[-2]
        return spread.cat(
            lambda rows: self.method.answer(self.measurement, self.particles.z[rows], last, spread.ids[rows])
        )
