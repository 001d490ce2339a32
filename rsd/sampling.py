"""Reverse diffusion from noise to samples, each step one transition of a :class:`Method`.

z_t = alpha_t z_0 + sigma_t eps; the prior's denoised estimate is (z_t - sigma_t eps_theta) / alpha_t (Tweedie's
formula). A DDIM step (Song et al. 2021, Eq. 12) from level t to the next level s is

    z_s = alpha_s z_0 + sqrt(sigma_s^2 - s~^2) eps + s~ n,    s~^2 = eta^2 sigma_s^2 / sigma_t^2 v_ts
    v_ts = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2        the variance of z_t given z_s

eta = 0 is deterministic; eta = 1 is DDPM's ancestral step, and the step of Euler ancestral sampling. The last level is
alpha = 1, sigma = 0: z_s is the estimate.

A method is a frozen dataclass of its hyper-parameters. Random numbers depend on the stream, the purpose, the step and
the particle, so chunks, interruptions and devices change only rounding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch

from rsd.engine import Record
from rsd.priors.base import Condition, Prior
from rsd.randomness import Stream
from rsd.repulsion import Force, Interaction, shrink
from rsd.schedule import Schedule
from rsd.spread import Spread

LIMIT = 0.5
"""The largest push of the repulsion in a step, in units of the step's ancestral noise, if no limit is given."""


@dataclass(frozen=True)
class Level:
    """A noise level: timestep (-1: no noise), alpha and sigma."""

    t: int
    alpha: float
    sigma: float

    @property
    def variance(self) -> float:
        """r_t^2 = sigma^2 / (alpha^2 + sigma^2), the variance of z_0 given z_t if z_0 is N(0, I)."""
        return self.sigma**2 / (self.alpha**2 + self.sigma**2)


CLEAN = Level(-1, 1.0, 0.0)


def level(schedule: Schedule, t: int) -> Level:
    """Return the noise level of timestep t."""
    return Level(t, schedule.alpha(t), schedule.sigma(t))


def levels(schedule: Schedule, timesteps: Sequence[int]) -> list[Level]:
    """Return the levels of descending timesteps, followed by CLEAN."""
    return [level(schedule, t) for t in timesteps] + [CLEAN]


def step_variance(now: Level, then: Level) -> float:
    """Return v_ts, the variance of z at level ``now`` given z at the next level ``then``."""
    return max(0.0, now.sigma**2 - (now.alpha / then.alpha) ** 2 * then.sigma**2)


def fresh_noise(now: Level, then: Level, eta: float) -> float:
    """Return s~, the standard deviation of the new noise in the DDIM step from ``now`` to ``then``."""
    return eta * then.sigma / now.sigma * math.sqrt(step_variance(now, then))


@dataclass(frozen=True)
class Denoiser:
    """The prior, its condition and the random numbers of a run."""

    prior: Prior
    condition: Condition | None
    stream: Stream

    def norms(self, result: StepResult) -> dict[str, torch.Tensor]:
        """Return tensors [N, ...] whose norms the record contains."""
        return {}


@dataclass(frozen=True)
class StepResult:
    """The particles after a transition.

    ``z``: [n, ...] at the next level. ``clean``: the estimate of z_0 [n, ...]. ``x``: its picture D(z_0) [n, 3, H, W],
    if the method has decoded it. ``extra``: other state of the method, each [n, ...]."""

    z: torch.Tensor
    clean: torch.Tensor
    x: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


G = TypeVar("G", bound=Denoiser)


@dataclass(frozen=True)
class Transition(Generic[G]):
    """One step of particles z [n, *latent_shape] from level ``now`` to ``then``, the input of a method.

    ``given``: what denoises them. ``ids``: the particles' numbers, which select their noise. ``extra``: the method's
    state after its last transition."""

    given: G
    step: int
    steps: int
    now: Level
    then: Level
    ids: Sequence[int]
    z: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, rows: slice) -> Transition[G]:
        """Return the transition of some of the particles."""
        condition = self.given.condition and self.given.condition.rows(rows.start, rows.stop)
        extra = {name: value[rows] for name, value in self.extra.items()}
        given = replace(self.given, condition=condition)
        return replace(self, given=given, ids=self.ids[rows], z=self.z[rows], extra=extra)

    def noise(self, purpose: str, shape: Sequence[int] | None = None) -> torch.Tensor:
        """Draw standard normal numbers of this step, [n, *shape] (default: z's shape)."""
        shape = self.z.shape[1:] if shape is None else shape
        return self.given.stream.noise(purpose, shape, self.ids, self.step).to(self.z)

    def epsilon(self, z: torch.Tensor, at: Level | None = None) -> torch.Tensor:
        """Predict eps_theta of z at the current level or another one."""
        return self.given.prior.epsilon(z, (at or self.now).t, self.given.condition)

    def clean(self, z: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """Return the denoised estimate of z_0."""
        return (z - self.now.sigma * eps) / self.now.alpha

    def ddim(self, clean: torch.Tensor, eps: torch.Tensor, eta: float, purpose: str = "ddim") -> torch.Tensor:
        """Return z at the next level from estimates of z_0 and of the noise. ``purpose``: of the new noise."""
        fresh = fresh_noise(self.now, self.then, eta)
        z = self.then.alpha * clean + math.sqrt(max(0.0, self.then.sigma**2 - fresh**2)) * eps
        return z + fresh * self.noise(purpose) if fresh > 0 else z

    def flow(self, z: torch.Tensor, steps: int) -> torch.Tensor:
        """Return z_0 after ``steps`` deterministic DDIM steps from z [n, ...] at the current level, evenly spaced in t;
        one step gives the denoised estimate."""
        t, schedule = self.now.t, self.given.prior.schedule
        grid = levels(schedule, sorted({round(t * (1 - k / steps)) for k in range(steps)}, reverse=True))
        for now, then in zip(grid[:-1], grid[1:], strict=True):
            eps = self.epsilon(z, now)
            z = then.alpha * (z - now.sigma * eps) / now.alpha + then.sigma * eps
        return z


@dataclass(frozen=True)
class Push:
    """What the repulsion adds to a step of the local particles ``rows``.

    ``eps``, ``z``, ``clean``: changes of the predicted noise, and thereby of z at the next level and of the estimate.
    ``change``: the change that the record contains. ``log_ratio`` [rows]: the log density of the step without the
    interaction, relative to that with it (see :class:`Chain`)."""

    rows: torch.Tensor
    eps: torch.Tensor
    z: torch.Tensor
    clean: torch.Tensor
    change: torch.Tensor
    force: Force
    log_ratio: torch.Tensor


class Method:
    """A sampler with its hyper-parameters."""

    positive: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters that must be above 0."""
    fractions: ClassVar[tuple[str, ...]] = ("eta",)
    """Hyper-parameters that may be 1 at most."""
    eta: float = 1.0
    """The noise of its DDIM step, 1 is ancestral."""
    renoises: ClassVar[bool] = False
    """Whether z at the next level is the estimate with new noise alone, which keeps nothing of the predicted noise."""
    noise: ClassVar[str | None] = "ddim"
    """The purpose of the new noise, which is added last; None if the step adds no Gaussian noise of known width
    (:meth:`added`)."""

    def levels(self, schedule: Schedule, steps: int) -> list[Level]:
        """Return ``steps`` noise levels, most noise first, and CLEAN; by default those of Schedule.descending."""
        return levels(schedule, schedule.descending(steps))

    def adapted(self, given: Any) -> Method:
        """Return the method for what is given: itself, unless it has settings that depend on it."""
        return self

    def estimate(self, given: Any) -> torch.Tensor | None:
        """Return the estimate [1, *latent_shape] that the particles start from; None if they start from pure noise."""
        return None

    def initial(self, given: Any, estimate: torch.Tensor, first: Level, noise: torch.Tensor) -> torch.Tensor:
        """Return the particles [n, *latent_shape] at the level ``first`` around the estimate, from standard normal
        ``noise``."""
        return first.alpha * estimate + first.sigma * noise

    def prepare(self, prior: Prior) -> None:
        """Load what the method needs beside the prior, before the first step; by default nothing. Raise ValueError or
        OSError if that fails."""

    def step(self, transition: Transition[Any]) -> StepResult:
        """Take one step for the particles of one chunk."""
        raise NotImplementedError

    def answer(self, given: Any, z: torch.Tensor, last: Level, ids: Sequence[int]) -> torch.Tensor:
        """Return the samples [n, 3, H, W] of particles z after the last transition, from level ``last`` to CLEAN."""
        decoded: torch.Tensor = given.prior.decode(z)
        return decoded

    def push(
        self, transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread
    ) -> Push | None:
        """Return the repulsion of the particles after :meth:`step`; None if there is none."""
        fresh, added = self._fresh(transition), self.added(transition)
        return repel(transition, result, interaction, spread, fresh=fresh, added=added)

    def added(self, transition: Transition[Any]) -> tuple[str | None, float]:
        """Return the purpose and the standard deviation of the noise that :meth:`step` adds last."""
        return self.noise, self._fresh(transition)

    def _fresh(self, transition: Transition[Any]) -> float:
        now, then = transition.now, transition.then
        return then.sigma if self.renoises else fresh_noise(now, then, self.eta)


def repel(
    transition: Transition[Any], result: StepResult, interaction: Interaction, spread: Spread,
    *, fresh: float, added: tuple[str | None, float] = (None, 0.0),
) -> Push | None:  # fmt: skip
    """Push the denoised estimates apart, as the engine pushes particles (Eq. 13):

        eps_i  <-  eps_i - gamma sigma_t R_i / alpha_t,     R_i = - grad log sum_{j != i} k(phi_i, phi_j)

    phi are features of the estimate (z_t - sigma_t eps) / alpha_t, with constant eps, so that d estimate / d z_t is
    1 / alpha_t. z_s is linear in the estimate and in eps, of which the step keeps all but the noise ``fresh``, so it
    changes with them. ``added``: purpose and width of the noise added last.

    ``interaction.kind`` "potential" is Particle Guidance (Corso et al. 2024, "Particle Guidance:
    non-I.I.D. Diverse Sampling with Diffusion Models", Eq. 4), which adds the gradient of
    log Phi = - 1/2 sum_{i != j} k_ij to the score. sigma_t / alpha_t counts as ``Schedule.most`` at most. Return None
    outside the interaction's window, and where particles cannot repel (:func:`able`).

    If the estimates are almost equal (pure noise, a weak prior), the kernel is narrow and the force large. So z_s moves
    by no more than ``interaction.limit``, by default :data:`LIMIT`, times the ancestral noise of the step (root mean
    square over a particle's entries), except by the potential, whose formula is published; a window such as (0.5, 0.8)
    skips the first steps besides. Estimates of a distilled model of a few steps differ from pure noise on, and decide
    there what the sample shows."""
    now, then = transition.now, transition.then
    schedule = transition.given.prior.schedule
    if not interaction.active(now.t, schedule.T, spread.total) or not able(interaction, now, then, schedule):
        return None
    R, force = interaction.force(result.clean, spread)
    rows = spread.ensemble.among(interaction.groups(spread.total).flatten())[0]
    noise_level = min(now.sigma / now.alpha, schedule.most)
    eps = -interaction.gamma * noise_level * R[rows]
    keep = math.sqrt(max(0.0, then.sigma**2 - fresh**2))
    share = keep - then.alpha * now.sigma / now.alpha  # d z_s / d eps
    if interaction.kind == "repulsion":
        limit = LIMIT if interaction.limit is None else interaction.limit
        eps = eps * shrink(share * eps, limit * fresh_noise(now, then, 1.0))
    z, clean = share * eps, -now.sigma / now.alpha * eps
    purpose, width = added
    noise = transition.noise(purpose)[rows] if purpose and width > 0 else None
    return Push(rows, eps, z, clean, z, force, log_ratio(z, noise, width))


def able(interaction: Interaction, now: Level, then: Level, schedule: Schedule) -> bool:
    """Return whether particles can repel in the step from ``now`` to ``then``: not to CLEAN, whose ancestral noise is
    zero; by the potential, which has no bound, not near a flow's pure noise."""
    if interaction.kind == "repulsion":
        return then.sigma > 0
    return now.sigma <= schedule.most * now.alpha


def log_ratio(change: torch.Tensor, noise: torch.Tensor | None, fresh: float) -> torch.Tensor:
    """Return log N(z; m, s^2) - log N(z; m + change, s^2) for z = m + change + s noise, float64 [n]; NaN without noise.

    ``change``, ``noise``: [n, ...]; ``fresh``: s."""
    if noise is None:
        return torch.full((len(change),), math.nan, dtype=torch.float64, device=change.device)
    d = (change / fresh).double().flatten(1)
    return -(d * noise.double().flatten(1)).sum(1) - 0.5 * d.square().sum(1)


def reaching(interaction: Interaction, levels: Sequence[Level], schedule: Schedule, particles: int) -> Interaction:
    """Return ``interaction``, with its window widened to the nearest step if few steps leave none inside. Warn then, or
    if no step can repel (:func:`able`)."""
    if not interaction.acts(particles):
        return interaction
    steps = list(zip(levels[:-1], levels[1:], strict=True))
    lo, hi = interaction.window
    at = [(now.t + 1) / schedule.T for now, then in steps if able(interaction, now, then, schedule)]
    if any(lo <= x <= hi for x in at):
        return interaction
    count = f"{len(steps)} step{'s' * (len(steps) != 1)}"
    if not at:
        warnings.warn(f"With {count} the samples do not repel one another; take more steps.", stacklevel=2)
        return interaction
    nearest = min(at, key=lambda x: max(lo - x, x - hi))
    warnings.warn(
        f"None of {count} is in the window {lo:g} to {hi:g} of the noise levels; the repulsion acts at the nearest, "
        f"{nearest:g}.", stacklevel=2,
    )  # fmt: skip
    return replace(interaction, window=(min(lo, nearest), max(hi, nearest)))


class Chain:
    """The particles of a reverse diffusion.

    ``z``: at the current level [N, *latent_shape]. ``clean``: the last estimates of z_0. ``x``: their pictures
    [N, 3, H, W], if the method has decoded them. ``extra``: other state of the method, each [N, ...].
    ``scale``: standard deviation of the initial noise. ``log_weights`` [N], float64: the log density of each particle's
    path without the interaction, relative to that with it; NaN if it is not known. A particle's weight
    exp(log_weight) makes averages over repelled samples those of independent ones: replace the transitions of particle
    i by those without the interaction, and its samples no longer depend on the others; the density of the change is
    the product of the ratios of its steps."""

    def __init__(self, prior: Prior, spread: Spread, stream: Stream, *, scale: float = 1.0):
        self.prior, self.spread = prior, spread
        self.clean = stream.noise("initial z", prior.latent_shape, spread.ids).to(prior.device, prior.dtype)
        self.z = scale * self.clean
        self.x: torch.Tensor | None = None
        self.extra: dict[str, torch.Tensor] = {}
        self.log_weights = torch.zeros(spread.n, dtype=torch.float64)

    def take(self, result: StepResult, push: Push | None) -> None:
        """Set the particles to the result of a transition and its push apart."""
        self.z, self.clean, self.x, self.extra = result.z, result.clean, result.x, result.extra
        if push is not None:
            self.z[push.rows] += push.z
            self.clean[push.rows] += push.clean
            self.log_weights[push.rows.cpu()] += push.log_ratio.cpu()

    @torch.no_grad()
    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        """Decode z to pictures [N, 3, H, W], chunk by chunk."""
        return self.spread.cat(lambda rows: self.prior.decode(z[rows]))

    def images(self) -> torch.Tensor:
        """Return pictures [N, 3, H, W] of the last estimates; before the first step, of the initial noise."""
        return self.decoded(self.clean) if self.x is None else self.x

    def finish(self) -> torch.Tensor:
        """Return D(z) [N, 3, H, W], after the last step the samples."""
        return self.decoded(self.z)

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        return {"z": self.z, "clean": self.clean, "extra": self.extra, "log_weights": self.log_weights}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        self.z, self.clean = state["z"].to(self.z), state.get("clean", state["z"]).to(self.z)
        self.extra = {name: value.to(self.z.device) for name, value in state.get("extra", {}).items()}
        self.log_weights = state.get("log_weights", torch.full_like(self.log_weights, math.nan)).cpu()


def sample(
    chain: Chain, method: Method, given: Denoiser,
    *, levels: Sequence[Level], interaction: Interaction = Interaction(), start: int = 0,
) -> Iterator[Record]:  # fmt: skip
    """Run steps ``start`` .. len(levels)-2 and yield a Record after each, as :func:`rsd.engine.distill` does.

    In the records ``residual`` is the norm of the eps that corresponds to the estimate, ``repulsion`` that of the
    coupling's ``change``."""
    spread, steps = chain.spread, len(levels) - 1
    for step in range(start, steps):
        now, then = levels[step], levels[step + 1]
        whole = Transition(given, step, steps, now, then, spread.ids, chain.z, chain.extra)
        # Denoise, guide towards the data and go to the next level, chunk by chunk.
        with torch.no_grad():
            result = concatenate(spread.each(lambda rows: method.step(whole.of(rows))))  # noqa: B023
        drift = (now.alpha * result.clean - chain.z) / now.sigma
        with torch.no_grad():
            norms = given.norms(result)
        # Repel the particles.
        push = method.push(whole, result, interaction, spread)
        chain.take(result, push)
        change, force = (push.change, push.force) if push else (None, None)
        yield Record.of(step, now.t, spread, residual=drift, push=change, force=force, norms=norms)


def concatenate(parts: list[StepResult]) -> StepResult:
    """Concatenate the results of all chunks."""
    pictures = [part.x for part in parts if part.x is not None]
    return StepResult(
        torch.cat([part.z for part in parts]).detach(),
        torch.cat([part.clean for part in parts]).detach(),
        torch.cat(pictures).detach() if pictures else None,
        {name: torch.cat([part.extra[name] for part in parts]).detach() for name in parts[0].extra},
    )
