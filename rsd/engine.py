"""The loop that every head runs: denoise, repel, and let the head fit its data.

    z_i   = render(theta_i)
    z_t^i = alpha_t z_i + sigma_t eps_i
    R_i   = -grad_{z_t^i} log sum_{j != i} k(phi_i, phi_j)      phi = features of the decoded noisy latent
    r_i   = eps_theta(z_t^i, t) - eps_ref - gamma sigma_t R_i   (Eq. 13 and 20, with the sign that repels)

and then the head pulls r_i back to theta_i beside its own data term, and steps its optimiser; where eps_ref is learned
(VSD), it takes a step on the new particles. With SVGD, eps_theta - eps_ref is averaged over the particles first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from rsd.priors.base import Conditioning, Prior, conditions
from rsd.randomness import noise
from rsd.reference import Reference, chunks, sds
from rsd.repulsion import Embed, Interaction, repulsion

__all__ = ["Embed", "Particles", "Record", "Reference", "distill", "repulsion", "sds"]


class Particles(Protocol):
    """What a head brings to the engine."""

    @property
    def ids(self) -> Sequence[int]:
        """The particles' numbers in the whole ensemble, [N]: their noise depends on them."""
        ...

    def render(self) -> torch.Tensor:
        """The present z_i, without gradient, [N, *latent_shape]."""
        ...

    def step(self, r: torch.Tensor, t: Any) -> dict[str, float]:
        """Pull r [N, *latent_shape] back to the parameters, add the data term, step; return the losses. ``t``: an int,
        or int64 [N] where the run has a timestep a particle."""
        ...


@dataclass(frozen=True)
class Record:
    """One step of the run. Norms are root-mean-squares over all particles' entries; None: not computed this step."""

    step: int
    t: int | list[int]
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


def distill(
    particles: Particles,
    prior: Prior,
    *,
    timesteps: Sequence[int] | Sequence[torch.Tensor],
    seed: int,
    image: str = "",
    condition: Conditioning = None,
    reference: Reference = sds,
    interaction: Interaction = Interaction(),
    embed: Embed | None = None,
    clean: bool = False,
    chunk: int | None = None,
    start: int = 0,
) -> Iterator[Record]:
    """Run steps ``start`` .. len(timesteps)-1 of the algorithm, yielding a Record after each.

    ``timesteps``: for each step one int, or int64 [N], one a particle. ``condition``: one for all steps, or what gives
    each step's. ``embed`` maps z_t to features [N, d] (needed when particles interact); ``clean``: it is given z_i, and
    R_i is a gradient there. ``chunk`` is how many particles a network sees at once (None: all); results do not depend
    on it.
    """
    n = len(particles.ids)
    chunk = chunk or n
    groups = interaction.groups(n)
    for step in range(start, len(timesteps)):
        t = timesteps[step]
        z = particles.render()
        alpha, sigma = prior.schedule.coefficients(t, z)
        eps = noise(z.shape[1:], seed=seed, purpose="diffusion", image=image, step=step, particles=particles.ids).to(z)
        z_t = alpha * z + sigma * eps
        with torch.no_grad():
            given = conditions(condition, n, chunk)
            parts = zip(chunks(z_t, t, chunk), given, strict=True)
            eps_theta = torch.cat([prior.epsilon(part, at, text) for (part, at), text in parts])
            r = eps_theta - reference(z_t, t, eps, eps_theta)
        residual, push, force = _rms(r), 0.0, None
        if interaction.active(t, prior.schedule.T, n):
            assert embed is not None, "interaction needs a feature map"
            R, force = interaction.force(embed, z if clean else z_t, chunk=chunk)
            change = interaction.gamma * sigma * R
            inside = interaction.inside(t, prior.schedule.T).to(z.device).view(-1, *[1] * (z.ndim - 1))
            r = torch.where(inside, force.average(r, groups) - change, r)
            push = _rms(change[groups.flatten()])
        losses = particles.step(r, t)
        losses = {**losses, **reference.learn(particles.render(), step)}
        yield Record(
            step=step, t=t if isinstance(t, int) else t.tolist(), losses=losses,
            residual=residual, repulsion=push, ratio=push / max(residual, 1e-12),
            bandwidth=force.bandwidth if force else None, distance=force.distance if force else None,
        )  # fmt: skip


def _rms(x: torch.Tensor) -> float:
    return float(x.float().square().mean().sqrt())
