"""The repulsive force between particles (Eq. 7, 13; docs/method.md explains the sign and the bandwidth).

    k_ij = exp(-|phi_i - phi_j|^2 / h)          RBF kernel on features phi
    R_i  = -grad_{z_i} log sum_{j != i} k_ij    points away from the other particles

The gradient treats the other particles' features as constants. It is analytic in feature space, so one vector-Jacobian
product through the feature map gives all R_i.

Also Stein variational gradient descent (Liu & Wang 2016, Eq. 8; the update of CSD, Kim et al. 2023), whose
particles also average their scores. With eps = -sigma_t score, its ascent direction times -sigma_t is

    r_i  <-  1/n sum_j [k_ij r_j - sigma_t grad_{z_j} k(z_j, z_i)]      the sums include j = i
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from rsd.memory import Memory
from rsd.schedule import Schedule
from rsd.spread import Spread

Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Interaction:
    """Which particles repel each other, how strongly and when.

    ``gamma``: weight of the force; negative values attract (the paper's footnote 2).
    ``window``: (lo, hi); the force acts if lo <= (t+1)/T <= hi.
    ``interacting``: in each ensemble only the first so many particles repel each other (Hybrid); None: all.
    ``ensembles``: number of independent ensembles of equal size, one after another.
    ``include_self``: keep the term j = i in the sum (as Eq. 13 prints it); it weakens the force between far particles.
    ``every``: the force acts only at every k-th step, k times as strongly.
    ``limit``: at most so many times a particle's residual is added to it (root mean squares; k times as much at every
    k-th step); None: no bound. In samplers: of the step's ancestral noise; None: :data:`rsd.sampling.LIMIT`.
    ``kind``: "repulsion"; "potential", the gradient of Particle Guidance's potential; or "svgd", where gamma weights
    the kernel's gradient: 1 is Liu & Wang's update, and 0 still averages the scores.
    ``embed``: maps z_t to features [N, d]; required if particles interact.
    ``on_clean``: evaluate features and gradient at z_i instead of z_t.
    """

    gamma: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    interacting: int | None = None
    ensembles: int = 1
    include_self: bool = False
    every: int = 1
    limit: float | None = None
    kind: str = "repulsion"
    embed: Embed | None = field(default=None, repr=False, compare=False)
    on_clean: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if gamma is not finite."""
        if not math.isfinite(self.gamma):
            raise ValueError(f"gamma is {self.gamma}; give a finite number (negative values attract).")

    def groups(self, particles: int) -> torch.Tensor:
        """Return the rows that repel each other, int64 [ensembles, n]."""
        assert particles % self.ensembles == 0, "ensembles must be of equal size"
        return torch.arange(particles).view(self.ensembles, -1)[:, : self.interacting]

    def inside(self, t: int | torch.Tensor, T: int) -> torch.Tensor:
        """Return whether t is in the window: bool [], or [N] if t is [N]."""
        lo, hi = self.window
        at = (torch.as_tensor(t).double() + 1) / T
        return (lo <= at) & (at <= hi)

    def active(self, t: int | torch.Tensor, T: int, particles: int) -> bool:
        """Return whether any of the particles interact at timestep t (an int or [N])."""
        return self.acts(particles) and bool(self.inside(t, T).any())

    def acts(self, particles: int) -> bool:
        """Return whether any of the particles interact at some timestep."""
        return (self.gamma != 0 or self.kind == "svgd") and self.groups(particles).shape[1] > 1

    def force(self, z_t: torch.Tensor, spread: Spread) -> tuple[torch.Tensor, Force]:
        """Return R [N, ...] of the local particles z_t, zero for those that do not interact, and its Force."""
        assert self.kind in ("repulsion", "potential", "svgd")
        assert self.embed is not None, "interaction needs a feature map"
        groups = self.groups(spread.total)
        R = torch.zeros_like(z_t)
        if self.kind == "svgd":
            assert spread.ensemble.alone, "SVGD averages over all particles, so one process must hold them"
            R[groups.flatten()], force = stein(self.embed, z_t, groups, spread.memory)
        elif self.kind == "potential":
            rows, _ = spread.ensemble.among(groups.flatten())
            R[rows], force = potential_gradient(self.embed, z_t, groups, spread)
        else:
            rows, _ = spread.ensemble.among(groups.flatten())
            R[rows], force = repulsion(self.embed, z_t, groups, spread, include_self=self.include_self)
        return R, force

    def push(
        self, r: torch.Tensor, z: torch.Tensor, z_t: torch.Tensor, t: int | torch.Tensor, step: int,
        schedule: Schedule, spread: Spread,
    ) -> Push:  # fmt: skip
        """Return the change of the residuals r at this step, for the local particles z, diffused to z_t. ``t``: an int,
        or int64 [N] with the timesteps of all processes' particles."""
        if not self.active(t, schedule.T, spread.total) or step % self.every:
            return Push()
        R, force = self.force(z if self.on_clean else z_t, spread)
        own, groups = spread.own(t), self.groups(spread.total)
        _, sigma = schedule.coefficients(own, z)
        inside = self.inside(own, schedule.T).to(z.device).view(-1, *[1] * (z.ndim - 1))
        rows = spread.ensemble.among(groups.flatten())[0]
        change = self.every * self.gamma * sigma * R
        if self.limit is not None:
            change = change * shrink(change, self.every * self.limit * sizes(r))
        return Push(change, force, groups, rows, inside)


@dataclass(frozen=True)
class Force:
    """The force in feature space.

    ``direction``: -d log sum_j k_ij / d phi_i, [..., n, d]; for SVGD d k_ij / d phi_j / n, [..., i, j, d].
    ``bandwidth``: h, and ``distance``: mean over pairs i < j, both averaged over groups.
    ``weights``: k_ij / n [..., n, n], the weights of SVGD's average."""

    direction: torch.Tensor
    bandwidth: float
    distance: float
    weights: torch.Tensor | None = None

    def average(self, r: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Average r [N, ...] over the particles of each group with ``weights``; return r if there are none."""
        if self.weights is None:
            return r
        rows = r[groups]  # [G, n, ...]
        averaged = r.clone()
        averaged[groups.flatten()] = (self.weights @ rows.flatten(2)).view_as(rows).flatten(0, 1)
        return averaged


@dataclass(frozen=True)
class Push:
    """The effect of an interaction on the residuals of a step; by default none.

    ``change``: gamma sigma_t R [N, ...]. ``groups``: the global rows that repel each other. ``rows``: the local rows of
    these. ``inside``: which particles' timesteps are in the window."""

    change: torch.Tensor | None = None
    force: Force | None = None
    groups: torch.Tensor = torch.zeros(0, dtype=torch.int64)
    rows: torch.Tensor = torch.zeros(0, dtype=torch.int64)
    inside: torch.Tensor = torch.tensor(True)

    def apply(self, r: torch.Tensor) -> torch.Tensor:
        """Average the residuals (SVGD) and subtract the repulsion."""
        return r if self.change is None else torch.where(self.inside, self.average(r) - self.change, r)

    def average(self, g: torch.Tensor) -> torch.Tensor:
        """Average gradients [N, ...] over the particles if SVGD acts; otherwise return them."""
        if self.force is None or self.force.weights is None:
            return g
        return torch.where(self.inside, self.force.average(g, self.groups), g)

    @property
    def pushed(self) -> torch.Tensor | None:
        """The change of the particles that repel each other, 0 outside the window; None if the force does not act."""
        return None if self.change is None else torch.where(self.inside, self.change, 0)[self.rows]


def sizes(x: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each particle's entries [N, 1, ...], for x [N, ...]."""
    return x.float().square().flatten(1).mean(1).sqrt().view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def shrink(x: torch.Tensor, most: torch.Tensor | float) -> torch.Tensor:
    """Return factors [N, 1, ...], at most 1, by which the size of each particle's x [N, ...] becomes at most ``most``
    (a number, or [N, 1, ...])."""
    return (most / sizes(x).clamp_min(1e-12)).clamp(max=1.0)


def median_bandwidth(distances: torch.Tensor) -> torch.Tensor:
    """Return h = m^2 / log n [...], with m the median distance over pairs i < j (mean of the middle two).

    ``distances``: [..., n, n], n >= 2. h is 0 if most particles are identical; :func:`feature_force` is zero then.
    """
    n = distances.shape[-1]
    rows, cols = torch.triu_indices(n, n, offset=1)
    m = distances[..., rows, cols].quantile(0.5, dim=-1)
    return m**2 / math.log(n)


def feature_force(features: torch.Tensor, *, include_self: bool = False) -> Force:
    """Return the force between the particles of each group, from ``features`` [..., n, d].

    It is zero for a single particle and among identical ones.
    """
    phi = features.detach()
    n = phi.shape[-2]
    if n < 2:
        return Force(torch.zeros_like(phi), 0.0, 0.0)
    # Kernel weights k_ij / sum_j k_ij.
    distances, h, safe = _distances(phi)
    logits = -(distances**2) / safe
    if not include_self:
        logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=phi.device), -torch.inf)
    w = logits.softmax(-1)
    # -d log sum_j k_ij / d phi_i = 2 / h sum_j w_ij (phi_i - phi_j).
    direction = torch.where(h > 0, 2 / safe * (phi - w @ phi), torch.zeros_like(phi))
    return Force(direction, float(h.mean()), float(distances.mean()) * n / (n - 1))


def stein_force(features: torch.Tensor) -> Force:
    """Return SVGD's kernel and its gradients for each group of n >= 2 particles, from ``features`` [..., n, d].

    If most particles are identical, the kernel is 1 between identical ones, 0 otherwise, and the gradient is zero.
    """
    phi = features.detach()
    n = phi.shape[-2]
    distances, h, safe = _distances(phi)
    k = torch.where(h > 0, (-(distances**2) / safe).exp(), (distances == 0).to(phi)) / n
    pairs = torch.where(h > 0, 2 / safe * k, torch.zeros_like(k))[..., None] * (
        phi[..., :, None, :] - phi[..., None, :, :]
    )
    return Force(pairs, float(h.mean()), float(distances.mean()) * n / (n - 1), k)


def repulsion(
    embed: Embed, z_t: torch.Tensor, groups: torch.Tensor, spread: Spread, *, include_self: bool = False
) -> tuple[torch.Tensor, Force]:
    """Return R of Eq. 13 [rows, ...] and its Force, with one vector-Jacobian product through ``embed``
    (z_t -> phi [rows, d]). ``groups`` [G, n] are global rows; z_t and R contain the local ones."""
    rows, places = spread.ensemble.among(groups.flatten())
    phi, pull = linearise(embed, z_t[rows], spread.memory)
    phi = spread.ensemble.gather(phi, groups.flatten())
    force = feature_force(phi.view(*groups.shape, -1), include_self=include_self)
    return pull(force.direction.flatten(0, 1)[places]), force


def stein(embed: Embed, z_t: torch.Tensor, groups: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Force]:
    """Return 1/n sum_j grad_{z_j} k(phi_j, phi_i) [G * n, ...] for the rows ``groups`` [G, n] of z_t, and its Force.

    The gradient is taken at particle j, as the theory requires, which needs n vector-Jacobian products.
    """
    phi, pull = linearise(embed, z_t[groups.flatten()], memory)
    force = stein_force(phi.view(*groups.shape, -1))
    last = groups.shape[1] - 1
    pulled = [  # for each i: [G * n (of j), ...]
        pull(towards.flatten(0, 1), again=i < last) for i, towards in enumerate(force.direction.unbind(1))
    ]
    R = [pulled_i.view(*groups.shape, *z_t.shape[1:]).sum(1) for pulled_i in pulled]
    return torch.stack(R, 1).flatten(0, 1), force


def potential_gradient(
    embed: Embed, z: torch.Tensor, groups: torch.Tensor, spread: Spread
) -> tuple[torch.Tensor, Force]:
    """Return grad_{z_i} log Phi [rows, ...], log Phi = - 1/2 sum_{i != j} k_ij (the fixed potential of Particle
    Guidance, Corso et al. 2024), and its Force, with one vector-Jacobian product through ``embed``. ``groups`` [G, n]
    are global rows; z contains the local ones."""
    rows, places = spread.ensemble.among(groups.flatten())
    phi, pull = linearise(embed, z[rows], spread.memory)
    phi = spread.ensemble.gather(phi, groups.flatten())
    force = kernel_force(phi.view(*groups.shape, -1).squeeze(0))
    return pull(force.direction.view_as(phi)[places]), force


def kernel_force(features: torch.Tensor) -> Force:
    """Return - sum_{j != i} d k_ij / d phi_i for features [..., n, d], the others constant: :func:`feature_force`,
    which is of the log of the sum, times the sum."""
    force = feature_force(features)
    if features.shape[-2] < 2:
        return force
    distances, _, safe = _distances(features.detach())
    kernels = (-(distances**2) / safe).exp()
    kernels.diagonal(dim1=-2, dim2=-1).fill_(0)
    return replace(force, direction=force.direction * kernels.sum(-1, keepdim=True))


class Pull(Protocol):
    """A vector-Jacobian product."""

    def __call__(self, vectors: torch.Tensor, *, again: bool = False) -> torch.Tensor:
        """Map ``vectors`` [rows, d] to [rows, ...]. ``again``: keep the graphs for another call; otherwise free each
        after its use."""
        ...


def linearise(embed: Embed, z: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Pull]:
    """Return features phi [rows, d] of z [rows, ...], and their vector-Jacobian product.

    The graphs are kept if ``memory.keep``, or if there is one chunk; otherwise they are recomputed chunk by chunk, so
    that memory does not grow with N. This waits for no other process: chunks that run out of memory are repeated.
    """
    if not len(z):  # none of the interacting particles is in this process
        return z.new_empty(0), lambda vectors, *, again=False: z
    graphs: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def graph(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        part = z[rows].detach().requires_grad_()
        return part, embed(part)

    def features(rows: slice) -> torch.Tensor:
        if not (memory.keep or rows == slice(0, len(z))):
            with torch.no_grad():
                return embed(z[rows])
        found = graphs[rows.start, rows.stop] = graph(rows)
        return found[1].detach()

    def pull(vectors: torch.Tensor, *, again: bool = False) -> torch.Tensor:
        def pulled(rows: slice) -> torch.Tensor:
            key = rows.start, rows.stop
            kept = graphs.get(key) if again else graphs.pop(key, None)  # if this fails, nothing keeps its memory
            part, phi = kept or graph(rows)
            return torch.autograd.grad(phi, part, vectors[rows], retain_graph=again and kept is not None)[0]

        return torch.cat(memory.each(len(z), pulled, graphs))

    return torch.cat(memory.each(len(z), features, graphs)), pull


def _distances(phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return distances [..., n, n], the bandwidth h [..., 1, 1], and h with 0 replaced by 1."""
    distances = torch.cdist(phi, phi, compute_mode="donot_use_mm_for_euclid_dist")
    h = median_bandwidth(distances)[..., None, None]
    return distances, h, torch.where(h > 0, h, torch.ones_like(h))
