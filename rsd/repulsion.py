"""The force that keeps particles apart (Eq. 7, 13, with the signs and the bandwidth that repel: see docs/method.md).

    k_ij = exp(-|phi_i - phi_j|^2 / h)          RBF kernel on features phi
    R_i  = -grad_{z_i} log sum_{j != i} k_ij    points away from the other particles

The gradient treats the other particles' features as constants. It is analytic in feature space, so that a single
vector-Jacobian product through the feature map gives every R_i.

Beside it, Stein variational gradient descent (Liu & Wang 2016, Eq. 8; the update of CSD, Kim et al. 2023), whose
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
    """Who repels whom, how strongly and when.

    ``gamma``: weight of the force; negative attracts (the paper's footnote 2).
    ``window``: the force acts where lo <= (t+1)/T <= hi, in units of T.
    ``interacting``: in each ensemble the first so many repel one another, the others are alone (Hybrid); None: all.
    ``ensembles``: the particles are this many independent ensembles of equal size, one after another.
    ``include_self``: keep the term j = i in the sum (as Eq. 13 prints it); it weakens the force between far particles.
    ``every``: the force acts at every so many-th step only, so many times as strongly.
    ``kind``: "repulsion", or "svgd", where gamma weighs the kernel's gradient: 1 is Liu & Wang's update, and 0 still
    averages the scores.
    ``embed``: maps z_t to features [N, d]; needed where particles interact.
    ``on_clean``: the features are those of z_i, not of z_t, and R_i is a gradient there.
    """

    gamma: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    interacting: int | None = None
    ensembles: int = 1
    include_self: bool = False
    every: int = 1
    kind: str = "repulsion"
    embed: Embed | None = field(default=None, repr=False, compare=False)
    on_clean: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a weight that is no finite number."""
        if not math.isfinite(self.gamma):
            raise ValueError(f"gamma is {self.gamma}; give a finite number (a negative one attracts).")

    def groups(self, particles: int) -> torch.Tensor:
        """The rows that repel one another, int64 [ensembles, n]."""
        assert particles % self.ensembles == 0, "ensembles must be of equal size"
        return torch.arange(particles).view(self.ensembles, -1)[:, : self.interacting]

    def inside(self, t: int | torch.Tensor, T: int) -> torch.Tensor:
        """Whether t is in the window; bool, [] or, for a t a particle, [N]."""
        lo, hi = self.window
        at = (torch.as_tensor(t).double() + 1) / T
        return (lo <= at) & (at <= hi)

    def active(self, t: int | torch.Tensor, T: int, particles: int) -> bool:
        """Whether any of that many particles feels another at timestep t."""
        return self.acts(particles) and bool(self.inside(t, T).any())

    def acts(self, particles: int) -> bool:
        """Whether any of that many particles ever feels another."""
        return (self.gamma != 0 or self.kind == "svgd") and self.groups(particles).shape[1] > 1

    def force(self, z_t: torch.Tensor, spread: Spread) -> tuple[torch.Tensor, Force]:
        """R [N, ...] of the particles here z_t, zero for those that are alone, and its Force."""
        assert self.kind in ("repulsion", "svgd")
        assert self.embed is not None, "interaction needs a feature map"
        groups = self.groups(spread.total)
        R = torch.zeros_like(z_t)
        if self.kind == "svgd":
            assert spread.ensemble.alone, "SVGD's averages would need every particle's latents"
            R[groups.flatten()], force = stein(self.embed, z_t, groups, spread.memory)
        else:
            rows, _ = spread.ensemble.among(groups.flatten())
            R[rows], force = repulsion(self.embed, z_t, groups, spread, include_self=self.include_self)
        return R, force

    def push(
        self, z: torch.Tensor, z_t: torch.Tensor, t: int | torch.Tensor, step: int, schedule: Schedule, spread: Spread
    ) -> Push:
        """What the force does at this step to the particles here: z, diffused to z_t. ``t``: an int, or int64 [N] of
        all processes' particles."""
        if not self.active(t, schedule.T, spread.total) or step % self.every:
            return Push()
        R, force = self.force(z if self.on_clean else z_t, spread)
        own, groups = spread.own(t), self.groups(spread.total)
        _, sigma = schedule.coefficients(own, z)
        inside = self.inside(own, schedule.T).to(z.device).view(-1, *[1] * (z.ndim - 1))
        rows = spread.ensemble.among(groups.flatten())[0]
        return Push(self.every * self.gamma * sigma * R, force, groups, rows, inside)


@dataclass(frozen=True)
class Force:
    """``direction``: -d log sum_j k_ij / d phi_i, [..., n, d] (SVGD: d k_ij / d phi_j / n, [..., i, j, d]);
    ``bandwidth`` h and ``distance``, the mean over pairs i < j, each averaged over groups. ``weights``: k_ij / n, with
    which SVGD averages, [..., n, n]."""

    direction: torch.Tensor
    bandwidth: float
    distance: float
    weights: torch.Tensor | None = None

    def average(self, r: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """r [N, ...] averaged over the groups' particles with ``weights``; without them r itself."""
        if self.weights is None:
            return r
        rows = r[groups]  # [G, n, ...]
        averaged = r.clone()
        averaged[groups.flatten()] = (self.weights @ rows.flatten(2)).view_as(rows).flatten(0, 1)
        return averaged


@dataclass(frozen=True)
class Push:
    """What an interaction does to the residuals of a step; by default nothing.

    ``change``: gamma sigma_t R [N, ...]; ``groups``: the rows of the whole that repel one another; ``rows``: those of
    them that are here; ``inside``: whose timestep is in the window."""

    change: torch.Tensor | None = None
    force: Force | None = None
    groups: torch.Tensor = torch.zeros(0, dtype=torch.int64)
    rows: torch.Tensor = torch.zeros(0, dtype=torch.int64)
    inside: torch.Tensor = torch.tensor(True)

    def __call__(self, r: torch.Tensor) -> torch.Tensor:
        """The residuals, averaged and pushed."""
        return r if self.change is None else torch.where(self.inside, self.average(r) - self.change, r)

    def average(self, g: torch.Tensor) -> torch.Tensor:
        """Gradients [N, ...] averaged over particles, where SVGD acts; else themselves."""
        if self.force is None or self.force.weights is None:
            return g
        return torch.where(self.inside, self.force.average(g, self.groups), g)

    @property
    def pushed(self) -> torch.Tensor | None:
        """The change of the particles that repel one another; None where the force does not act."""
        return None if self.change is None else self.change[self.rows]


def median_bandwidth(distances: torch.Tensor) -> torch.Tensor:
    """h = m^2 / log n, m the median distance over the pairs i < j (mean of the middle two), [...].

    ``distances``: [..., n, n], n >= 2. Mostly identical particles give h = 0; :func:`feature_force` is zero then.
    """
    n = distances.shape[-1]
    rows, cols = torch.triu_indices(n, n, offset=1)
    m = distances[..., rows, cols].quantile(0.5, dim=-1)
    return m**2 / math.log(n)


def feature_force(features: torch.Tensor, *, include_self: bool = False) -> Force:
    """The force of each group of particles on one another, in feature space; ``features`` [..., n, d].

    A particle alone, or among identical ones, feels no force.
    """
    phi = features.detach()
    n = phi.shape[-2]
    if n < 2:
        return Force(torch.zeros_like(phi), 0.0, 0.0)
    distances, h, safe = _distances(phi)
    logits = -(distances**2) / safe
    if not include_self:
        logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=phi.device), -torch.inf)
    w = logits.softmax(-1)  # k_ij / sum_j k_ij
    direction = torch.where(h > 0, 2 / safe * (phi - w @ phi), torch.zeros_like(phi))
    return Force(direction, float(h.mean()), float(distances.mean()) * n / (n - 1))


def stein_force(features: torch.Tensor) -> Force:
    """What each group of n >= 2 particles needs for SVGD, in feature space; ``features`` [..., n, d].

    Where most particles are identical the kernel is 1 among identical ones, 0 elsewhere, without a gradient.
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
    """R of Eq. 13 for the rows ``groups`` [G, n] of z_t, [G * n, ...], and its Force: one vector-Jacobian product
    through ``embed`` (z_t -> phi [rows, d]). ``groups`` are rows of the whole ensemble, z_t and R those that are
    here."""
    rows, places = spread.ensemble.among(groups.flatten())
    phi, pull = linearise(embed, z_t[rows], spread.memory)
    phi = spread.ensemble.gather(phi, groups.flatten())
    force = feature_force(phi.view(*groups.shape, -1), include_self=include_self)
    return pull(force.direction.flatten(0, 1)[places]), force


def stein(embed: Embed, z_t: torch.Tensor, groups: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Force]:
    """1/n sum_j grad_{z_j} k(phi_j, phi_i) for the rows ``groups`` [G, n] of z_t, [G * n, ...], and its Force.

    The gradient is taken where particle j is, as the theory wants: n vector-Jacobian products, not one.
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
    """grad_{z_i} log Phi, log Phi = - 1/2 sum_{i != j} k_ij (Particle Guidance's fixed potential, Corso et al. 2024),
    for the rows ``groups`` [G, n] of latents z, [G * n, ...], and its Force: one vector-Jacobian product through
    ``embed``. ``groups`` are rows of the whole ensemble, z those that are here."""
    rows, places = spread.ensemble.among(groups.flatten())
    phi, pull = linearise(embed, z[rows], spread.memory)
    phi = spread.ensemble.gather(phi, groups.flatten())
    forces = [kernel_force(group) for group in phi.chunk(len(groups))]
    direction = torch.cat([force.direction for force in forces])
    bandwidth = sum(force.bandwidth for force in forces) / len(groups)
    distance = sum(force.distance for force in forces) / len(groups)
    return pull(direction[places]), Force(direction, bandwidth, distance)


def kernel_force(features: torch.Tensor) -> Force:
    """- sum_{j != i} d k_ij / d phi_i for features [n, d], the others taken as constant: what
    :func:`feature_force` says of the log of that sum, times the sum."""
    force = feature_force(features)
    phi = features.detach()
    squared = torch.cdist(phi, phi, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    kernels = (-squared / (force.bandwidth or 1.0)).exp()
    return replace(force, direction=force.direction * kernels.fill_diagonal_(0).sum(1, keepdim=True))


class Pull(Protocol):
    """A vector-Jacobian product."""

    def __call__(self, vectors: torch.Tensor, *, again: bool = False) -> torch.Tensor:
        """Of ``vectors`` [rows, d], [rows, ...]. ``again``: whether others follow; else each graph goes with its
        use."""
        ...


def linearise(embed: Embed, z: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Pull]:
    """Features phi [rows, d] of z [rows, ...], and their vector-Jacobian product.

    The graphs are kept if ``memory`` says so, or if all is one chunk; else they are made again chunk by chunk, so that
    memory does not grow with N. Nothing here waits for other processes: what does not fit is done again.
    """
    if not len(z):  # of an ensemble's interacting particles none is in this process
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
            kept = graphs.get(key) if again else graphs.pop(key, None)  # what fails here is held by nobody
            part, phi = kept or graph(rows)
            return torch.autograd.grad(phi, part, vectors[rows], retain_graph=again and kept is not None)[0]

        return torch.cat(memory.each(len(z), pulled, graphs))

    return torch.cat(memory.each(len(z), features, graphs)), pull


def _distances(phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances [..., n, n], the bandwidth h [..., 1, 1], and h with 1 in the place of 0."""
    distances = torch.cdist(phi, phi, compute_mode="donot_use_mm_for_euclid_dist")
    h = median_bandwidth(distances)[..., None, None]
    return distances, h, torch.where(h > 0, h, torch.ones_like(h))
