"""The loop that every head runs: denoise, repel, and let the head fit its data.

    z_i   = render(theta_i)
    z_t^i = alpha_t z_i + sigma_t eps_i
    R_i   = -grad_{z_t^i} log sum_{j != i} k(phi_i, phi_j)      phi = features of the decoded noisy latent
    r_i   = eps_theta(z_t^i, t) - eps_ref - gamma sigma_t R_i   (Eq. 13 and 20, with the sign that repels)

and then the head pulls r_i back to theta_i beside its own data term, and steps its optimiser; where eps_ref is learned
(VSD), it takes a step on the new particles. With SVGD, eps_theta - eps_ref is averaged over the particles first.

The particles may be a part of an ensemble that several processes share (rsd.distributed): all above is then local, but
for the features phi of all, which R_i needs, and the means in the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from rsd.distributed import Ensemble
from rsd.memory import Memory
from rsd.priors.base import Conditioning, Prior, predict, present
from rsd.randomness import noise
from rsd.reference import Reference, sds
from rsd.repulsion import Embed, Interaction, repulsion

__all__ = ["Embed", "Particles", "Record", "Reference", "distill", "repulsion", "sds"]


class Particles(Protocol):
    """What a head brings to the engine."""

    @property
    def ids(self) -> Sequence[int]:
        """The numbers in the whole ensemble of the particles here, [n]: their noise depends on them."""
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
    memory: Memory | None = None,
    start: int = 0,
    ensemble: Ensemble | None = None,
) -> Iterator[Record]:
    """Run steps ``start`` .. len(timesteps)-1 of the algorithm, yielding a Record after each.

    ``timesteps``: for each step one int, or int64 [N], one a particle of the whole ``ensemble`` (None: all are here).
    ``condition``: one for all steps, or what gives each step's. ``embed`` maps z_t to features [N, d] (needed when
    particles interact); ``clean``: it is given z_i, and R_i is a gradient there. ``memory``: how many particles a
    network sees at once, by default all, and which graphs are kept; results do not depend on it.
    """
    n = len(particles.ids)
    memory = memory or Memory()
    ensemble = ensemble or Ensemble.of(n)
    groups = interaction.groups(ensemble.total)
    for step in range(start, len(timesteps)):
        every_t = timesteps[step]
        t = ensemble.own(every_t)
        z = particles.render()
        alpha, sigma = prior.schedule.coefficients(t, z)
        eps = noise(z.shape[1:], seed=seed, purpose="diffusion", image=image, step=step, particles=particles.ids).to(z)
        z_t = alpha * z + sigma * eps
        with torch.no_grad():
            denoise = partial(predict, prior, z_t, t, present(condition))
            eps_theta = torch.cat(memory.each(n, denoise))
            r = eps_theta - reference(z_t, t, eps, eps_theta)
        squares, force = {"residual": (mean_square(r), n), "repulsion": (0.0, n)}, None
        if interaction.active(every_t, prior.schedule.T, ensemble.total) and step % interaction.every == 0:
            assert embed is not None, "interaction needs a feature map"
            R, force = interaction.force(embed, z if clean else z_t, memory=memory, ensemble=ensemble)
            change = interaction.every * interaction.gamma * sigma * R
            inside = interaction.inside(t, prior.schedule.T).to(z.device).view(-1, *[1] * (z.ndim - 1))
            r = torch.where(inside, force.average(r, groups) - change, r)
            pushed = change[ensemble.among(groups.flatten())[0]]
            squares["repulsion"] = mean_square(pushed), len(pushed)
        losses = particles.step(r, t)
        losses = {**losses, **reference.learn(particles.render(), step)}
        means = ensemble.means({**squares, **{name: (loss, n) for name, loss in losses.items()}})
        residual, push = (math.sqrt(means.pop(name)) for name in squares)
        yield Record(
            step=step, t=every_t if isinstance(every_t, int) else every_t.tolist(), losses=means,
            residual=residual, repulsion=push, ratio=push / max(residual, 1e-12),
            bandwidth=force.bandwidth if force else None, distance=force.distance if force else None,
        )  # fmt: skip


def mean_square(x: torch.Tensor) -> float:
    """Over all entries; 0 of none."""
    return float(x.float().square().mean()) if len(x) else 0.0
