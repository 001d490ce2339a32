"""Fit the means of two particles to a mixture of two Gaussians by score distillation, with and without repulsion.

The paper (D.10.1, Fig. 30) gives the mixture N((+-1, 0), 0.005 I), two particles, 200 realisations and a Euclidean RBF
kernel, but no optimiser. Chosen here: Adam with the paper's (0.9, 0.99) on descending timesteps, as in its other
experiments: its bounded step keeps gamma = 2000 from diverging, so the result shows the force, not the integrator.
There is no data term whose scale a weight in t could match, so the weight is 1: Algorithm 1's sigma_t/alpha_t nearly
vanishes at the end, and the particles would stop before they reach the modes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rsd.engine import Average, distill
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.spread import Spread

MODES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
VARIANCE = 0.005


class Points:
    """Particles in R^2 that follow the engine's residual only; ``render`` is the identity."""

    def __init__(self, start: torch.Tensor, lr: float):
        self.spread = Spread(range(len(start)))
        self.z = start.clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.z], lr=lr, betas=(0.9, 0.99))

    def render(self) -> torch.Tensor:
        """Return the positions [N, 2]."""
        return self.z.detach().clone()

    def step(self, r: torch.Tensor, t: int, average: Average) -> dict[str, float]:
        """Step along -r."""
        self.z.grad = r
        self.optimiser.step()
        return {}


@dataclass(frozen=True)
class Outcome:
    """The result for one gamma: the final particles, [realisations, 2, 2], and how they compare with the modes."""

    gamma: float
    points: torch.Tensor

    @property
    def pairs(self) -> tuple[list[bool], list[float]]:
        """For each realisation: whether both particles ended nearest to the same mode, and their mean distance from
        their nearest modes."""
        away, nearest = torch.cdist(self.points, MODES.to(self.points)).min(-1)
        return (nearest[:, 0] == nearest[:, 1]).tolist(), away.mean(-1).tolist()

    @property
    def collapsed(self) -> int:
        """The number of realisations in which both particles ended nearest to the same mode."""
        return sum(self.pairs[0])

    @property
    def misfit(self) -> float:
        """The mean distance of a particle from its nearest mode (a mode's standard deviation is 0.07)."""
        return float(torch.cdist(self.points, MODES.to(self.points)).amin(-1).mean())

    def summary(self) -> dict[str, Any]:
        """Return the figures of toy.json for this gamma."""
        return {"gamma": self.gamma, "collapsed": self.collapsed, "misfit": self.misfit}


def run(gamma: float, *, realisations: int = 200, steps: int = 300, lr: float = 0.1, seed: int = 0) -> Outcome:
    """Move ``realisations`` independent pairs at once. Pair k is particles 2k and 2k+1, and starts at the same points
    for every gamma."""
    prior = GaussianMixture(MODES.double(), VARIANCE)
    start = Stream(seed).noise("initial z", (2,), range(2 * realisations)).double()
    points = Points(start, lr)
    interaction = Interaction(gamma, ensembles=realisations, embed=lambda z: z)
    timesteps = prior.schedule.descending(steps)
    for _ in distill(points, prior, timesteps=timesteps, stream=Stream(seed), interaction=interaction):
        pass
    return Outcome(gamma, points.render().view(realisations, 2, 2))
