"""What the samplers have in common: noise levels, one move of some particles, and what they are to explain.

z_t = alpha_t z_0 + sigma_t eps; the prior's guess of z_0 is (z_t - sigma_t eps_theta) / alpha_t (Tweedie's formula). A
DDIM step (Song et al. 2021, Eq. 12) goes from level t to the next, s:

    z_s = alpha_s z_0 + sqrt(sigma_s^2 - s~^2) eps + s~ n,    s~ = eta sigma_s / sigma_t sqrt(1 - alpha_t^2 / alpha_s^2)

eta = 0 is deterministic, eta = 1 is DDPM's ancestral step. The last level is alpha = 1, sigma = 0: z_s is the guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from rsd.priors.base import Condition, Prior
from rsd.randomness import Stream
from rsd.schedule import Schedule

from .base import Operator, data_residual

LEAST_SIGMA_V = 1e-3
"""Samplers that divide by sigma_v take a measurement for no more exact than that (an 8-bit picture is not)."""


@dataclass(frozen=True)
class Level:
    """A noise level: its timestep (-1: no noise), alpha and sigma."""

    t: int
    alpha: float
    sigma: float


CLEAN = Level(-1, 1.0, 0.0)


def levels(schedule: Schedule, steps: int) -> list[Level]:
    """The levels of Schedule.descending, most noise first, and CLEAN: one more than ``steps``."""
    return [level(schedule, t) for t in schedule.descending(steps)] + [CLEAN]


def level(schedule: Schedule, t: int) -> Level:
    """The noise level of timestep t."""
    return Level(t, schedule.alpha(t), schedule.sigma(t))


def fresh_noise(now: Level, then: Level, eta: float) -> float:
    """s~ of the DDIM step from ``now`` to ``then``: the standard deviation of its new noise."""
    return eta * then.sigma / now.sigma * math.sqrt(max(0.0, 1 - (now.alpha / then.alpha) ** 2))


@dataclass(frozen=True)
class Given:
    """What a run's particles are to explain, and with what: ``y`` [1, ...] = operator(x) + sigma_v v."""

    prior: Prior
    operator: Operator
    y: torch.Tensor
    sigma_v: float
    condition: Condition
    stream: Stream

    @property
    def noise_level(self) -> float:
        """sigma_v, but no less than LEAST_SIGMA_V."""
        return max(self.sigma_v, LEAST_SIGMA_V)

    def misfit(self, x: torch.Tensor) -> torch.Tensor:
        """y - f(x) [n, ...] with unobserved entries zero."""
        return data_residual(self.operator, x, self.y)[0]


@dataclass(frozen=True)
class Moved:
    """Where a move took its particles: ``z`` [n, ...] at the next level, ``clean``: the present guess of z_0 [n, ...],
    ``x``: its picture D(z_0) [n, 3, H, W]; ``extra``: what else the method keeps, each [n, ...]."""

    z: torch.Tensor
    clean: torch.Tensor
    x: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """One step of some particles z [n, *latent_shape] from level ``now`` to ``then``. ``ids``: their numbers, on which
    their noise depends; ``extra``: what the method kept in its last move."""

    given: Given
    step: int
    steps: int
    now: Level
    then: Level
    ids: Sequence[int]
    z: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, rows: slice) -> Move:
        """The same move of some of the particles."""
        extra = {name: value[rows] for name, value in self.extra.items()}
        return replace(self, ids=self.ids[rows], z=self.z[rows], extra=extra)

    def noise(self, purpose: str, shape: Sequence[int] | None = None) -> torch.Tensor:
        """Standard normal numbers of this step, [n, *shape] (by default of z's shape)."""
        shape = self.z.shape[1:] if shape is None else shape
        return self.given.stream.noise(purpose, shape, self.ids, self.step).to(self.z)

    def noise_of_y(self, purpose: str, y: torch.Tensor, times: int) -> torch.Tensor:
        """Standard normal numbers like y [n times, ...], circular where y is complex: E|v|^2 = 1."""
        parts = (times, *y.shape[1:], 2) if y.is_complex() else (times, *y.shape[1:])
        v = self.noise(purpose, parts).flatten(0, 1)
        return torch.view_as_complex(v / math.sqrt(2)).to(y) if y.is_complex() else v

    def epsilon(self, z: torch.Tensor, at: Level | None = None) -> torch.Tensor:
        """eps_theta of z at the present level, or another."""
        return self.given.prior.epsilon(z, (at or self.now).t, self.given.condition)

    def clean(self, z: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The guess of z_0."""
        return (z - self.now.sigma * eps) / self.now.alpha

    def flow(self, z: torch.Tensor, steps: int) -> torch.Tensor:
        """z_0 at the end of so many deterministic DDIM steps from z [n, ...] at the present level, evenly in t; of one
        step it is the guess."""
        t, schedule = self.now.t, self.given.prior.schedule
        ts = sorted({round(t * (1 - k / steps)) for k in range(steps)}, reverse=True)
        grid = [level(schedule, t) for t in ts] + [CLEAN]
        for now, then in zip(grid[:-1], grid[1:], strict=True):
            eps = self.epsilon(z, now)
            z = then.alpha * (z - now.sigma * eps) / now.alpha + then.sigma * eps
        return z

    def ddim(self, clean: torch.Tensor, eps: torch.Tensor, eta: float) -> torch.Tensor:
        """z at the next level from a guess of z_0 and of the noise."""
        fresh = fresh_noise(self.now, self.then, eta)
        z = self.then.alpha * clean + math.sqrt(max(0.0, self.then.sigma**2 - fresh**2)) * eps
        return z + fresh * self.noise("ddim") if fresh > 0 else z


def norm(x: torch.Tensor) -> torch.Tensor:
    """|x| of each row, [n], real also where x is complex; its gradient at 0 is 0."""
    square = x.abs().square().flatten(1).sum(1)
    return square.clamp_min(1e-30).sqrt()


def guidance(move: Move) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """DPS's pass through the network: the guess of z_0, its eps and its picture, and the gradient of |y - f(D(guess))|
    in z_t."""
    z = move.z.detach().requires_grad_()
    with torch.enable_grad():
        eps = move.epsilon(z)
        clean = move.clean(z, eps)
        x = move.given.prior.decode(clean)
        (gradient,) = torch.autograd.grad(norm(move.given.misfit(x)).sum(), z)
    return clean.detach(), eps.detach(), x.detach(), gradient
