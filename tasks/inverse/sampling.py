"""A posterior sampler as a run: particles go down the noise levels, each step one move of the method.

A method is a small frozen dataclass of its hyper-parameters, in its own file, with ``step(move) -> Moved``; one whose
particles look at one another besides has ``couple``. Everything random depends on (seed, purpose, image, step,
particle), so that chunks, interruptions and devices change nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.spread import Spread

from .diffusion import Given, Move, Moved, levels, norm
from .methods import load_method
from .solve import Run


class Method(Protocol):
    """A posterior sampler: its hyper-parameters, and how they move particles."""

    def step(self, move: Move) -> Moved:
        """One move of the particles of one chunk."""
        ...


class Chain:
    """Particles on their way from noise to answers: ``z`` at the present level [N, *latent_shape]; ``x``: pictures of
    the last guesses of z_0 [N, 3, H, W]; ``extra``: what else the method keeps, each [N, ...]."""

    def __init__(self, prior: Prior, spread: Spread, stream: Stream):
        self.prior, self.spread = prior, spread
        self.z = stream.noise("initial z", prior.latent_shape, spread.ids).to(prior.device, prior.dtype)
        self.x: torch.Tensor | None = None
        self.extra: dict[str, torch.Tensor] = {}

    def images(self) -> torch.Tensor:
        """The last step's guesses, which it decoded already, [N, 3, H, W]; before the first step noise, decoded."""
        return self.finish() if self.x is None else self.x

    @torch.no_grad()
    def finish(self) -> torch.Tensor:
        """D(z) [N, 3, H, W]: after the last step the answers."""
        return self.spread.cat(lambda rows: self.prior.decode(self.z[rows]))

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"z": self.z, "extra": self.extra}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.z = state["z"].to(self.z)
        self.extra = {name: value.to(self.z.device) for name, value in state.get("extra", {}).items()}


class Sampling(Run):
    """One restoration by a sampler in progress; used as :class:`rsd.tasks.inverse.solve.Run`."""

    particles: Chain

    def begin(self, spread: Spread) -> Chain:
        s = self.settings
        self.method: Method = load_method(s.method, s.hyper)
        return Chain(self.prior, spread, self.stream)

    def records(self) -> Iterator[Record]:
        s, chain, grid = self.settings, self.particles, levels(self.prior.schedule, self.settings.steps)
        spread, interaction = chain.spread, replace(s.interaction, embed=self.embed)
        given = Given(self.prior, self.operator, self.y, s.sigma_v, self.condition, self.stream)
        for step in range(self.step, s.steps):
            whole = Move(given, step, s.steps, grid[step], grid[step + 1], spread.ids, chain.z, chain.extra)
            with torch.no_grad():
                parts = spread.each(lambda rows: self.method.step(whole.of(rows)))  # noqa: B023
            moved, push, force = gathered(parts), torch.zeros(0), None
            if couple := getattr(self.method, "couple", None):
                push, force = couple(whole, moved, interaction, spread)
            drift = (grid[step].alpha * moved.clean - chain.z) / grid[step].sigma
            chain.z = moved.z + push if len(push) else moved.z
            chain.x, chain.extra = moved.x, moved.extra
            with torch.no_grad():
                misfit = norm(given.misfit(moved.x))
            norms = {"misfit": misfit}
            yield Record.of(step, grid[step].t, spread, residual=drift, push=push, force=force, norms=norms)


def gathered(parts: list[Moved]) -> Moved:
    """The moves of all chunks as one."""
    return Moved(
        torch.cat([part.z for part in parts]).detach(),
        torch.cat([part.clean for part in parts]).detach(),
        torch.cat([part.x for part in parts]).detach(),
        {name: torch.cat([part.extra[name] for part in parts]).detach() for name in parts[0].extra},
    )
