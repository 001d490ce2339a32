"""The loop that every head runs: denoise, repel, and let the head fit its data.

    z_i   = render(theta_i)
    z_t^i = alpha_t z_i + sigma_t eps_i
    R_i   = -grad_{z_t^i} log sum_{j != i} k(phi_i, phi_j)      phi = features of the decoded noisy latent
    r_i   = eps_theta(z_t^i, t) - eps_ref - gamma sigma_t R_i   (Eq. 13 and 20, with the sign that repels)

and then the head pulls r_i back to theta_i beside its own data term, and steps its optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from rsd.priors.base import Condition, Prior
from rsd.randomness import noise
from rsd.repulsion import Interaction, feature_force

Embed = Callable[[torch.Tensor], torch.Tensor]
Reference = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], torch.Tensor]


class Particles(Protocol):
    """What a head brings to the engine."""

    @property
    def ids(self) -> Sequence[int]:
        """The particles' numbers in the whole ensemble, [N]: their noise depends on them."""
        ...

    def render(self) -> torch.Tensor:
        """The present z_i, without gradient, [N, *latent_shape]."""
        ...

    def step(self, r: torch.Tensor, t: int) -> dict[str, float]:
        """Pull r [N, *latent_shape] back to the parameters, add the data term, step; return the losses."""
        ...


@dataclass(frozen=True)
class Record:
    """One step of the run. Norms are root-mean-squares over all particles' entries; None: not computed this step."""

    step: int
    t: int
    losses: dict[str, float]
    residual: float
    repulsion: float
    ratio: float
    bandwidth: float | None
    distance: float | None
    extra: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """A flat dict for steps.jsonl."""
        row = asdict(self)
        return {**{k: v for k, v in row.items() if k not in ("losses", "extra")}, **row["losses"], **row["extra"]}


def sds(z_t: torch.Tensor, t: int, eps: torch.Tensor, eps_theta: torch.Tensor) -> torch.Tensor:
    """The reference score of score distillation sampling: the noise itself."""
    return eps


def repulsion(embed: Embed, z_t: torch.Tensor, groups: torch.Tensor, *, chunk: int, include_self: bool = False):
    """R of Eq. 13 for the rows ``groups`` [G, n] of z_t, [G * n, ...], and its Force: one vector-Jacobian product
    through ``embed`` (z_t -> phi [rows, d]).

    One chunk keeps its graph; several compute all features first without graphs, then recompute chunk by chunk, so that
    memory does not grow with N.
    """
    parts = [part.detach().requires_grad_() for part in z_t[groups.flatten()].split(chunk)]
    graphs = [embed(parts[0])] if len(parts) == 1 else []
    with torch.no_grad():
        phi = torch.cat(graphs or [embed(part) for part in parts])
    force = feature_force(phi.view(*groups.shape, -1), include_self=include_self)
    pulled = [
        torch.autograd.grad(graphs[k] if graphs else embed(part), part, direction)[0]
        for k, (part, direction) in enumerate(zip(parts, force.direction.flatten(0, 1).split(chunk), strict=True))
    ]
    return torch.cat(pulled), force


def distill(
    particles: Particles,
    prior: Prior,
    *,
    timesteps: Sequence[int],
    seed: int,
    image: str = "",
    condition: Condition | None = None,
    reference: Reference = sds,
    interaction: Interaction = Interaction(),
    embed: Embed | None = None,
    chunk: int | None = None,
    start: int = 0,
) -> Iterator[Record]:
    """Run steps ``start`` .. len(timesteps)-1 of the algorithm, yielding a Record after each.

    ``embed`` maps z_t to features [N, d] (needed when gamma is not 0); ``chunk`` is how many particles a network sees
    at once (None: all); results do not depend on it.
    """
    n = len(particles.ids)
    chunk = chunk or n
    groups = interaction.groups(n)
    for step in range(start, len(timesteps)):
        t = timesteps[step]
        sigma = prior.schedule.sigma(t)
        z = particles.render()
        eps = noise(z.shape[1:], seed=seed, purpose="diffusion", image=image, step=step, particles=particles.ids).to(z)
        z_t = prior.schedule.alpha(t) * z + sigma * eps
        with torch.no_grad():
            eps_theta = torch.cat([prior.epsilon(part, t, condition) for part in z_t.split(chunk)])
            r = eps_theta - reference(z_t, t, eps, eps_theta)
        residual, push, force = _rms(r), 0.0, None
        if interaction.active(t, prior.schedule.T, n):
            assert embed is not None, "repulsion needs a feature map"
            R, force = repulsion(embed, z_t, groups, chunk=chunk, include_self=interaction.include_self)
            r[groups.flatten()] -= interaction.gamma * sigma * R
            push = abs(interaction.gamma) * sigma * _rms(R)
        losses = particles.step(r, t)
        yield Record(
            step=step, t=t, losses=losses, residual=residual, repulsion=push, ratio=push / max(residual, 1e-12),
            bandwidth=force.bandwidth if force else None, distance=force.distance if force else None,
        )  # fmt: skip


def _rms(x: torch.Tensor) -> float:
    return float(x.float().square().mean().sqrt())
