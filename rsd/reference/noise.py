"""The noise eps_i with which the engine diffuses a particle: z_t^i = alpha_t z_i + sigma_t eps_i.

fresh     drawn at each step (the paper's; Poole et al. 2023)
reused    the prior's last prediction for this particle
carried   what is left of the particle's last noisy state: eps = (z_s - alpha_s z_i) / sigma_s, s the last timestep
inverted  found by DDIM inversion of z_i, without guidance by default (Lukoianov et al. 2024, "Score Distillation via
          Reparametrized DDIM")

Fresh noise asks the prior each time for another picture, and the particle follows their average. Noise that belongs to
the particle asks for the same picture at every level. With descending t, SDS (r = eps_theta - eps), reused noise and
steps sigma_t/alpha_t, the particle is DDIM's denoised estimate:

    z - sigma_t/alpha_t r = (z_t - sigma_t eps_theta) / alpha_t

and the next z_s = alpha_s z + sigma_s eps_theta is DDIM's step. Carried noise is then the same as reused noise. They
differ if the particle cannot follow its estimate, such as a scene that must agree with all of its views: reused noise
puts the particle as it is at the next level; carried noise keeps its noisy state, which moves only by
(alpha_s - alpha_t sigma_s/sigma_t) of the difference, so details that the particle has not got yet are not lost.

Inverted noise needs no state, so it also works if a particle is rendered from another camera at each step. It is an
approximation, since it takes the particle, DDIM's estimate, for the end of DDIM's flow. The reused noise solves
eps = eps_theta(alpha z + sigma eps) at the level of the last step; ``iterations`` of this equation make the inverted
one exact where they converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rsd.priors.base import Condition, Conditioning, Prior, present
from rsd.randomness import Stream
from rsd.spread import Spread

Timestep = int | torch.Tensor


class Noise:
    """The particles' noise at each step; this one is fresh.

    ``spread``: the local particles. Row i depends only on the seed, the step and particle i (and, for the others, on
    what that particle was), so chunks, processes and resuming change nothing.
    """

    def __init__(self, stream: Stream, spread: Spread):
        self.stream, self.spread = stream, spread

    def __call__(self, z: torch.Tensor, step: int) -> torch.Tensor:
        """Return eps [n, ...] of this step for the particles z [n, ...]."""
        return self.stream.noise("diffusion", z.shape[1:], self.spread.ids, step).to(z)

    def keep(self, eps_theta: torch.Tensor) -> None:
        """Keep what the next steps need of the prediction eps_theta [n, ...] of this step."""
        return None

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        return None


class Reused(Noise):
    """The prior's prediction in the particle's last step; in the first step it is drawn."""

    last: torch.Tensor | None = None

    def __call__(self, z: torch.Tensor, step: int) -> torch.Tensor:
        return super().__call__(z, step) if self.last is None else self.last.to(z)

    def keep(self, eps_theta: torch.Tensor) -> None:
        self.last = eps_theta

    def state(self) -> dict[str, Any]:
        return {} if self.last is None else {"last": self.last}

    def load_state(self, state: dict[str, Any]) -> None:
        self.last = state.get("last")


class Carried(Noise):
    """The noise by which each particle explains its last noisy state: z_t = alpha_t z + sigma_t eps with the
    new z. In the first step it is drawn. ``timesteps``: each an int or int64 [N], as in the engine."""

    last: torch.Tensor | None = None

    def __init__(self, stream: Stream, spread: Spread, prior: Prior, timesteps: Sequence[int] | Sequence[torch.Tensor]):
        super().__init__(stream, spread)
        self.schedule, self.timesteps = prior.schedule, timesteps

    def __call__(self, z: torch.Tensor, step: int) -> torch.Tensor:
        if self.last is None:
            eps = super().__call__(z, step)
        else:
            alpha, sigma = self.schedule.coefficients(self.spread.own(self.timesteps[step - 1]), z)
            eps = (self.last.to(z) - alpha * z) / sigma
        alpha, sigma = self.schedule.coefficients(self.spread.own(self.timesteps[step]), z)
        self.last = alpha * z + sigma * eps
        return eps

    def state(self) -> dict[str, Any]:
        return {} if self.last is None else {"last": self.last}

    def load_state(self, state: dict[str, Any]) -> None:
        self.last = state.get("last")


class Inverted(Noise):
    """DDIM inversion of the particles from no noise to ``timesteps``, each an int or int64 [N] as in the engine, by
    ``steps`` predictions. In the first step the noise is drawn: there is no picture to invert yet.

    ``guidance``: of the inversion; 1 is none, which takes one pass of the network for each prediction.
    ``iterations``: further predictions that refine eps = eps_theta(alpha z + sigma eps).
    """

    def __init__(
        self, stream: Stream, spread: Spread, prior: Prior, condition: Conditioning,
        timesteps: Sequence[int] | Sequence[torch.Tensor], *, steps: int = 4, guidance: float = 1.0,
        iterations: int = 0,
    ):  # fmt: skip
        super().__init__(stream, spread)
        self.prior, self.condition, self.timesteps = prior, condition, timesteps
        self.steps, self.guidance, self.iterations = steps, guidance, iterations

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, step: int) -> torch.Tensor:
        if step == 0:
            return super().__call__(z, step)
        given, t = with_guidance(present(self.condition), self.guidance), self.spread.own(self.timesteps[step])
        return self.spread.cat(partial(self._invert, z, t, given))

    def _invert(self, z: torch.Tensor, t: Timestep, given: Condition | None, rows: slice) -> torch.Tensor:
        """Return the noise of some of the particles z [N, ...]."""
        clean, schedule = z[rows], self.prior.schedule
        own = t if isinstance(t, int) else t[rows]
        condition = given and given.rows(rows.start, rows.stop)
        # z_t / alpha_t is z plus (sigma_t / alpha_t) eps; each step adds its share of the noise.
        at, noise = clean, 0.0  # noise: sigma / alpha so far
        for k in range(self.steps):
            here, there = (own * j // self.steps for j in (k, k + 1))
            alpha, _ = schedule.coefficients(here, clean)
            eps = self.prior.epsilon(alpha * at, here, condition)
            above, sigma = schedule.coefficients(there, clean)
            at, noise = at + (sigma / above - noise) * eps, sigma / above
        alpha, sigma = schedule.coefficients(own, clean)
        eps = (at - clean) / noise
        for _ in range(self.iterations):
            eps = self.prior.epsilon(alpha * clean + sigma * eps, own, condition)
        return eps


def with_guidance(condition: Condition | None, guidance: float) -> Condition | None:
    """Return a condition with another guidance; 1 leaves out the negative prompt."""
    if condition is None or condition.guidance == guidance:
        return condition
    if guidance != 1:
        return replace(condition, guidance=guidance, threshold=None)
    gone = dict.fromkeys(("negative", "negative_mask", "negative_pooled", "threshold"))
    return replace(condition, guidance=1.0, **gone)  # type: ignore[arg-type]


def make_noise(
    kind: str, stream: Stream, spread: Spread, prior: Prior, condition: Conditioning,
    timesteps: Sequence[int] | Sequence[torch.Tensor], *, steps: int,
) -> Noise:  # fmt: skip
    """Return the noise "fresh", "reused", "carried" or "inverted" (by ``steps`` predictions) of a run."""
    if kind == "carried":
        return Carried(stream, spread, prior, timesteps)
    if kind == "inverted":
        return Inverted(stream, spread, prior, condition, timesteps, steps=steps)
    return Reused(stream, spread) if kind == "reused" else Noise(stream, spread)
