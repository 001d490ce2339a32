"""Repulsive score distillation: the loop that every head runs.

For each particle theta_i and each timestep t:

    z_i   = render(theta_i)
    z_t^i = alpha_t z_i + sigma_t eps_i                         eps drawn, or the particle's own (rsd.reference.noise)
    R_i   = -grad_{z_t^i} log sum_{j != i} k(phi_i, phi_j)      phi = features of the decoded noisy latent
    r_i   = eps_theta(z_t^i, t) - eps_ref - gamma sigma_t R_i   (Eq. 13 and 20, with the sign that repels)

Then the head backpropagates r_i to theta_i, adds the gradient of its data term, and takes an optimiser step. A learned
eps_ref (VSD) takes a step on the new particles. SVGD averages eps_theta - eps_ref over the particles first.

Several processes can share the particles (rsd.distributed). Everything above is then local, except for the features phi
of all particles, which R_i needs, and the means in the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from rsd.priors.base import Conditioning, Prior, predict, present
from rsd.randomness import Stream
from rsd.reference import Reference, sds
from rsd.reference.noise import Noise
from rsd.repulsion import Embed, Force, Interaction, repulsion
from rsd.spread import Spread

__all__ = ["Average", "Embed", "Particles", "Record", "Reference", "distill", "repulsion", "sds"]

Average = Callable[[torch.Tensor], torch.Tensor]
"""Average gradients [N, ...] over the particles with SVGD's kernel; the identity without SVGD."""


class Particles(Protocol):
    """The particles of a head."""

    @property
    def spread(self) -> Spread:
        """The particles' numbers, which select their noise, and their distribution over processes and chunks."""
        ...

    def render(self) -> torch.Tensor:
        """Return the current z_i without gradient, [N, *latent_shape]."""
        ...

    def step(self, r: torch.Tensor, t: Any, average: Average) -> dict[str, float]:
        """Backpropagate r [N, *latent_shape] to the parameters, add the data term, take a step. Return the losses.

        ``r`` contains the repulsion and is averaged; a head averages the gradient of its data term with ``average``.
        ``t``: an int, or int64 [N] if each particle has its own timestep."""
        ...


@dataclass(frozen=True)
class Record:
    """One step of a run. Norms are root mean squares over all particles' entries; None: not computed in this step."""

    step: int
    t: int | list[int]
    losses: dict[str, float]
    residual: float
    repulsion: float
    ratio: float
    bandwidth: float | None
    distance: float | None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, step: int, t: int | torch.Tensor, spread: Spread, *, residual: torch.Tensor | float,
        push: torch.Tensor | None = None, force: Force | None = None, losses: Mapping[str, float] | None = None,
        norms: Mapping[str, torch.Tensor] | None = None,
    ) -> Record:  # fmt: skip
        """Create the record of a step from the local particles of each process.

        ``residual``: a tensor or its norm. ``push``: None if nothing repelled. ``losses``: means over the local
        particles. ``norms``: losses that are norms of these tensors."""
        given = {name: (value, spread.n) for name, value in (losses or {}).items()}
        squares = {name: (mean_square(x), len(x)) for name, x in (norms or {}).items()}
        if isinstance(residual, torch.Tensor):
            squares["residual"] = mean_square(residual), len(residual)
        else:
            squares["residual"] = residual**2, spread.n
        squares["repulsion"] = (0.0, 0) if push is None else (mean_square(push), len(push))
        means = spread.ensemble.means({**given, **squares})
        means |= {name: math.sqrt(means[name]) for name in squares}
        size, pushed = means.pop("residual"), means.pop("repulsion")
        return cls(
            step=step, t=t if isinstance(t, int) else t.tolist(), losses=means, residual=size, repulsion=pushed,
            ratio=pushed / max(size, 1e-12), bandwidth=force.bandwidth if force else None,
            distance=force.distance if force else None,
        )  # fmt: skip

    def row(self) -> dict[str, Any]:
        """Return a flat dict for steps.jsonl."""
        row = asdict(self)
        return {**{k: v for k, v in row.items() if k not in ("losses", "extra")}, **row["losses"], **row["extra"]}


def distill(
    particles: Particles,
    prior: Prior,
    *,
    timesteps: Sequence[int] | Sequence[torch.Tensor],
    stream: Stream,
    condition: Conditioning = None,
    reference: Reference = sds,
    noise: Noise | None = None,
    interaction: Interaction = Interaction(),
    start: int = 0,
) -> Iterator[Record]:
    """Run steps ``start`` .. len(timesteps)-1 and yield a Record after each.

    ``timesteps``: for each step an int, or int64 [N] with the timestep of each particle (of all processes).
    ``condition``: of all steps, or a function that returns the current one. ``noise``: by default fresh at each step.
    """
    spread = particles.spread
    noise = noise or Noise(stream, spread)
    for step in range(start, len(timesteps)):
        z, t = particles.render(), spread.own(timesteps[step])
        # Diffuse each particle with its own noise: z_t = alpha_t z + sigma_t eps.
        eps = noise(z, step)
        alpha, sigma = prior.schedule.coefficients(t, z)
        z_t = alpha * z + sigma * eps
        # Score distillation residual: eps_theta - eps_ref.
        with torch.no_grad():
            eps_theta = spread.cat(partial(predict, prior, z_t, t, present(condition)))
            r = eps_theta - reference(z_t, t, eps, eps_theta)
        noise.keep(eps_theta)
        # Repel: gamma sigma_t R (Eq. 7, 13). Nothing outside the window.
        push = interaction.push(r, z, z_t, timesteps[step], step, prior.schedule, spread)
        # Backpropagate r - gamma sigma_t R to theta, fit the data, take a step (SVGD also averages r); then the
        # reference learns from the new particles.
        losses = particles.step(push.apply(r), t, push.average)
        losses = {**losses, **reference.learn(particles.render(), step)}
        yield Record.of(step, timesteps[step], spread, residual=r, push=push.pushed, force=push.force, losses=losses)


def mean_square(x: torch.Tensor) -> float:
    """Mean square of all entries; 0 if there are none."""
    return float(x.float().square().mean()) if len(x) else 0.0
