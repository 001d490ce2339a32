"""Reverse diffusion: particles go down the noise levels, from noise to samples, each step one move of a method.

z_t = alpha_t z_0 + sigma_t eps; the prior's denoised estimate is (z_t - sigma_t eps_theta) / alpha_t (Tweedie's
formula). A DDIM step (Song et al. 2021, Eq. 12) goes from level t to the next, s:

    z_s = alpha_s z_0 + sqrt(sigma_s^2 - s~^2) eps + s~ n,    s~^2 = eta^2 sigma_s^2 / sigma_t^2 v_ts
    v_ts = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2        the variance of z_t given z_s

eta = 0 is deterministic, eta = 1 is DDPM's ancestral step, and the step of Euler-ancestral sampling. The last level is
alpha = 1, sigma = 0: z_s is the estimate.

A method is a small frozen dataclass of its hyper-parameters. Everything random depends on the stream, the purpose, the
step and the particle, so that chunks, interruptions and devices change nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch

from rsd.engine import Record
from rsd.priors.base import Condition, Prior
from rsd.randomness import Stream
from rsd.repulsion import Force, Interaction, potential_gradient
from rsd.schedule import Schedule
from rsd.spread import Spread


@dataclass(frozen=True)
class Level:
    """A noise level: its timestep (-1: no noise), alpha and sigma."""

    t: int
    alpha: float
    sigma: float

    @property
    def variance(self) -> float:
        """r_t^2, the variance of z_0 given z_t where z_0 is N(0, I): sigma^2 / (alpha^2 + sigma^2)."""
        return self.sigma**2 / (self.alpha**2 + self.sigma**2)


CLEAN = Level(-1, 1.0, 0.0)


def level(schedule: Schedule, t: int) -> Level:
    """The noise level of timestep t."""
    return Level(t, schedule.alpha(t), schedule.sigma(t))


def levels(schedule: Schedule, timesteps: Sequence[int]) -> list[Level]:
    """The levels of timesteps, most noise first, and CLEAN: one more than there are steps."""
    return [level(schedule, t) for t in timesteps] + [CLEAN]


def step_variance(now: Level, then: Level) -> float:
    """v_ts, the variance of z at level ``now`` given z at the next level ``then``."""
    return max(0.0, now.sigma**2 - (now.alpha / then.alpha) ** 2 * then.sigma**2)


def fresh_noise(now: Level, then: Level, eta: float) -> float:
    """s~ of the DDIM step from ``now`` to ``then``: the standard deviation of its new noise."""
    return eta * then.sigma / now.sigma * math.sqrt(step_variance(now, then))


@dataclass(frozen=True)
class Denoiser:
    """What a run's particles are denoised with."""

    prior: Prior
    condition: Condition | None
    stream: Stream

    def norms(self, result: StepResult) -> dict[str, torch.Tensor]:
        """What the record tells of a move besides, as the norms of tensors."""
        return {}


@dataclass(frozen=True)
class StepResult:
    """Where a move took its particles: ``z`` [n, ...] at the next level; ``clean``: the present estimate of z_0
    [n, ...]; ``x``: its picture D(z_0) [n, 3, H, W], if the method has decoded it; ``extra``: what else the method
    keeps, each [n, ...]."""

    z: torch.Tensor
    clean: torch.Tensor
    x: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


G = TypeVar("G", bound=Denoiser)


@dataclass(frozen=True)
class Transition(Generic[G]):
    """One step of some particles z [n, *latent_shape] from level ``now`` to ``then``. ``ids``: their numbers, on which
    their noise depends; ``extra``: what the method kept in its last transition."""

    given: G
    step: int
    steps: int
    now: Level
    then: Level
    ids: Sequence[int]
    z: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, rows: slice) -> Transition[G]:
        """The same move of some of the particles."""
        condition = self.given.condition and self.given.condition.rows(rows.start, rows.stop)
        extra = {name: value[rows] for name, value in self.extra.items()}
        given = replace(self.given, condition=condition)
        return replace(self, given=given, ids=self.ids[rows], z=self.z[rows], extra=extra)

    def noise(self, purpose: str, shape: Sequence[int] | None = None) -> torch.Tensor:
        """Standard normal numbers of this step, [n, *shape] (by default of z's shape)."""
        shape = self.z.shape[1:] if shape is None else shape
        return self.given.stream.noise(purpose, shape, self.ids, self.step).to(self.z)

    def epsilon(self, z: torch.Tensor, at: Level | None = None) -> torch.Tensor:
        """eps_theta of z at the present level, or another."""
        return self.given.prior.epsilon(z, (at or self.now).t, self.given.condition)

    def clean(self, z: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The denoised estimate of z_0."""
        return (z - self.now.sigma * eps) / self.now.alpha

    def ddim(self, clean: torch.Tensor, eps: torch.Tensor, eta: float, purpose: str = "ddim") -> torch.Tensor:
        """z at the next level from an estimate of z_0 and of the noise. ``purpose``: of the new noise."""
        fresh = fresh_noise(self.now, self.then, eta)
        z = self.then.alpha * clean + math.sqrt(max(0.0, self.then.sigma**2 - fresh**2)) * eps
        return z + fresh * self.noise(purpose) if fresh > 0 else z

    def flow(self, z: torch.Tensor, steps: int) -> torch.Tensor:
        """z_0 at the end of so many deterministic DDIM steps from z [n, ...] at the present level, evenly in t; of one
        step it is the estimate."""
        t, schedule = self.now.t, self.given.prior.schedule
        grid = levels(schedule, sorted({round(t * (1 - k / steps)) for k in range(steps)}, reverse=True))
        for now, then in zip(grid[:-1], grid[1:], strict=True):
            eps = self.epsilon(z, now)
            z = then.alpha * (z - now.sigma * eps) / now.alpha + then.sigma * eps
        return z


@dataclass(frozen=True)
class Coupling:
    """What particles do to one another in a transition: changes of those among them that are here (``rows``) in their
    ``eps``, and thereby in z at the next level and in the ``clean`` estimate; ``told``: that of the record."""

    rows: torch.Tensor
    eps: torch.Tensor
    z: torch.Tensor
    clean: torch.Tensor
    told: torch.Tensor
    force: Force


class Method:
    """A sampler: its hyper-parameters, and how they move particles."""

    def step(self, transition: Transition[Any]) -> StepResult:
        """One move of the particles of one chunk."""
        raise NotImplementedError

    def couple(
        self, transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread
    ) -> Coupling | None:
        """What the particles, moved by :meth:`step`, do to one another; None if they do not interact."""
        return None


def particle_guidance(
    transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread, *, eta: float
) -> Coupling | None:
    """Particle Guidance (Corso et al. 2024, "Particle Guidance: non-I.I.D. Diverse Sampling with Diffusion Models",
    Eq. 4), which adds the gradient of a joint log potential to every particle's score; with eps = -sigma_t score

        eps_i  <-  eps_i - gamma sigma_t grad_{z_t^i} log Phi,    log Phi = - 1/2 sum_{i != j} k_ij

    with the RBF kernel and median bandwidth of :mod:`rsd.repulsion`. Their potential is a sum of kernels, where
    repulsive distillation has the log of the sum: the same direction, times sum_{j != i} k_ij. As in their experiments
    with DINO, the features are those of the estimate (z_t - sigma_t eps) / alpha_t, eps taken as constant. As the DDIM
    step is linear in eps, z_s moves by (d z_s / d eps) times that change. None outside of the interaction's window.

    Where estimates all but agree (pure noise, a weak prior) the kernel is narrow and the force large; a window such as
    (0, 0.9) leaves those steps out."""
    now, then = transition.now, transition.then
    if not interaction.active(now.t, transition.given.prior.schedule.T, spread.total):
        return None
    assert interaction.embed is not None, "particle guidance needs a feature map"
    groups = interaction.groups(spread.total)
    pulled, force = potential_gradient(interaction.embed, result.clean, groups, spread)
    change = -interaction.gamma * now.sigma / now.alpha * pulled  # d estimate / d z_t = 1 / alpha_t
    keep = math.sqrt(max(0.0, then.sigma**2 - fresh_noise(now, then, eta) ** 2))
    z, clean = (keep - then.alpha * now.sigma / now.alpha) * change, -now.sigma / now.alpha * change
    return Coupling(spread.ensemble.among(groups.flatten())[0], change, z, clean, z, force)


class Chain:
    """Particles on their way from noise to samples: ``z`` at the present level [N, *latent_shape]; ``clean``: the last
    estimates of z_0; ``x``: their pictures [N, 3, H, W], if the method has decoded them; ``extra``: what else it keeps,
    each [N, ...]. ``scale``: standard deviation of the noise that z begins as."""

    def __init__(self, prior: Prior, spread: Spread, stream: Stream, *, scale: float = 1.0):
        self.prior, self.spread = prior, spread
        self.clean = stream.noise("initial z", prior.latent_shape, spread.ids).to(prior.device, prior.dtype)
        self.z = scale * self.clean
        self.x: torch.Tensor | None = None
        self.extra: dict[str, torch.Tensor] = {}

    def take(self, result: StepResult, coupling: Coupling | None) -> None:
        """Go where a move has taken the particles."""
        self.z, self.clean, self.x, self.extra = result.z, result.clean, result.x, result.extra
        if coupling is not None:
            self.z[coupling.rows] += coupling.z
            self.clean[coupling.rows] += coupling.clean

    @torch.no_grad()
    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        """D(z) [N, 3, H, W], chunk by chunk."""
        return self.spread.cat(lambda rows: self.prior.decode(z[rows]))

    def images(self) -> torch.Tensor:
        """Pictures of the last estimates, [N, 3, H, W]; before the first step noise, decoded."""
        return self.decoded(self.clean) if self.x is None else self.x

    def finish(self) -> torch.Tensor:
        """D(z) [N, 3, H, W]: after the last step the samples."""
        return self.decoded(self.z)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"z": self.z, "clean": self.clean, "extra": self.extra}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.z, self.clean = state["z"].to(self.z), state.get("clean", state["z"]).to(self.z)
        self.extra = {name: value.to(self.z.device) for name, value in state.get("extra", {}).items()}


def sample(
    chain: Chain, method: Method, given: Denoiser,
    *, levels: Sequence[Level], interaction: Interaction = Interaction(), start: int = 0,
) -> Iterator[Record]:  # fmt: skip
    """Run steps ``start`` .. len(levels)-2, yielding a Record after each, as :func:`rsd.engine.distill` does.

    In the records ``residual`` is the size of the eps that the estimate means, ``repulsion`` that of what the method
    tells of its coupling."""
    spread, steps = chain.spread, len(levels) - 1
    for step in range(start, steps):
        now, then = levels[step], levels[step + 1]
        whole = Transition(given, step, steps, now, then, spread.ids, chain.z, chain.extra)
        # Denoise, pull towards the data and go to the next level, chunk by chunk.
        with torch.no_grad():
            result = gathered(spread.each(lambda rows: method.step(whole.of(rows))))  # noqa: B023
        drift = (now.alpha * result.clean - chain.z) / now.sigma
        with torch.no_grad():
            norms = given.norms(result)
        # Push particles apart.
        coupling = method.couple(whole, result, interaction, spread)
        chain.take(result, coupling)
        told, force = (coupling.told, coupling.force) if coupling else (None, None)
        yield Record.of(step, now.t, spread, residual=drift, push=told, force=force, norms=norms)


def gathered(parts: list[StepResult]) -> StepResult:
    """The moves of all chunks as one."""
    pictures = [part.x for part in parts if part.x is not None]
    return StepResult(
        torch.cat([part.z for part in parts]).detach(),
        torch.cat([part.clean for part in parts]).detach(),
        torch.cat(pictures).detach() if pictures else None,
        {name: torch.cat([part.extra[name] for part in parts]).detach() for name in parts[0].extra},
    )
