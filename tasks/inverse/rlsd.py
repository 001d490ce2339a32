"""RLSD and its variants (Algorithm 1; Eq. 20, 21), each a setting of two small classes.

Augmented (RLSD, NonRepuls, Hybrid), with images x beside latents z:
    z-step: Adam on 1/2 mean((x - D(z))^2) + lambda sigma_t/alpha_t mean(r z)
    x-step: Adam on 1/2 mean((y - f(x))^2) + rho 1/2 mean((x - D(z))^2), D(z) after the z-step, detached
NonAugmented (NonAug, Latent RED-diff): z alone
    z-step: Adam on 1/2 mean((y - f(D(z)))^2) + lambda sigma_t/alpha_t mean(r z)

Means run over one particle's entries, so no particle depends on how many there are. The x-step's D(z) is the decode
that the next z-step needs anyway, so it is done then: L + 1 decodes instead of 2 L, the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rsd.memory import Memory
from rsd.priors.base import Prior
from rsd.randomness import noise

from .operators import Operator, data_residual
from .operators.linear import check_exact, nearest

BETAS = (0.9, 0.99)
EPS = 4e-8  # Adam's eps with per-particle means: the published behaviour at N = 4 (its mean ran over particles too)
ENTRIES = 3 * 512 * 512  # the image entries at which EPS was published


@dataclass(frozen=True)
class Weights:
    """lambda (prior), rho (coupling; none without augmentation), and the learning rates of z and x.
    ``exact``: the x-step is no step of Adam but the minimum itself (linear operators)."""

    lambda_: float
    lr_z: float
    rho: float = 0.0
    lr_x: float = 0.0
    exact: bool = False


def start(prior: Prior, ids: Sequence[int], what: str, shape: Sequence[int], seed: int, image: str) -> list[Any]:
    """One leaf tensor a particle, drawn from N(0, I)."""
    drawn = noise(shape, seed=seed, purpose=f"initial {what}", image=image, particles=ids)
    return [row.to(prior.device, prior.dtype).requires_grad_() for row in drawn]


def adam(leaves: list[Any], lr: float, eps: float) -> torch.optim.Adam:
    """Adam whose moments are there from the start and which, on CUDA, is one kernel: a step takes no memory, so that it
    is done or has not begun, and what does not fit can be done again."""
    fused = leaves[0].is_cuda or None if leaves else None
    optimiser = torch.optim.Adam(leaves, lr=lr, betas=BETAS, eps=eps, fused=fused)
    for leaf in leaves:
        step = torch.zeros((), device=leaf.device if fused else "cpu")
        optimiser.state[leaf] = {
            "step": step, "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf),
        }  # fmt: skip
    return optimiser


def image_shape(prior: Prior) -> tuple[int, ...]:
    """Of what the prior decodes to: an image, or the point itself."""
    return (3, prior.image_size, prior.image_size) if prior.image_size else prior.latent_shape


def particle_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over each particle's entries: [N, ...] to [N]."""
    return x.flatten(1).mean(1)


def data_loss(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1/2 mean((y - f(x))^2) over the observed entries, [N]."""
    difference, count = data_residual(operator, x, y)
    return 0.5 * difference.abs().square().flatten(1).sum(1) / count


class NonAugmented:
    """Latents z_i that fit y through the decoder."""

    def __init__(
        self, prior: Prior, operator: Operator, y: torch.Tensor, weights: Weights,
        *, ids: Sequence[int], seed: int, image: str = "", memory: Memory | None = None,
    ):  # fmt: skip
        self.prior, self.operator, self.y, self.weights = prior, operator, y, weights
        self.ids, self.memory = list(ids), memory or Memory()
        self.z = start(prior, ids, "z", prior.latent_shape, seed, image)
        self.z_optimiser = adam(self.z, weights.lr_z, EPS)
        self.seen: dict[int, torch.Tensor] = {}  # what the last z-step decoded, by row

    def render(self) -> torch.Tensor:
        """z [N, *latent_shape], detached."""
        return torch.stack([z.detach() for z in self.z])

    def fit(self, decoded: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
        """The data term of the z-step, [n]."""
        self.seen |= dict(zip(range(rows.start, rows.stop), decoded.detach(), strict=True))
        return {"data": data_loss(self.operator, decoded, self.y)}

    def step(self, r: torch.Tensor, t: int) -> dict[str, float]:
        """The z-step, chunk by chunk; returns each loss's mean over particles."""
        weight = self.weights.lambda_ * self.prior.schedule.sigma(t) / self.prior.schedule.alpha(t)

        def z_step(rows: slice) -> dict[str, torch.Tensor]:
            self.z_optimiser.zero_grad()  # of a chunk that did not fit
            z = torch.stack(self.z[rows])
            decoded = self.prior.decode(z)
            losses = self.fit(decoded, rows)
            losses["prior"] = weight * particle_mean(r[rows] * z)
            torch.stack(list(losses.values())).sum().backward()
            self.z_optimiser.step()  # steps only these rows: the others have no gradient
            self.z_optimiser.zero_grad()
            return {name: loss.detach().sum() for name, loss in losses.items()}

        sums = self.memory.each(len(self.ids), z_step)
        names = list(sums[0])  # all numbers at once: a GPU is waited for once a step, not once a chunk
        totals = torch.stack([torch.stack([one[name] for name in names]) for one in sums]).cpu().double().sum(0)
        return dict(zip(names, (totals / len(self.ids)).tolist(), strict=True))

    def images(self) -> torch.Tensor:
        """D(z) [N, 3, H, W] of the last step's beginning, which it decoded already; before the first as z stands."""
        return torch.stack([self.seen[row] for row in range(len(self.ids))]) if self.seen else NonAugmented.finish(self)

    @torch.no_grad()
    def decoded(self, rows: slice) -> torch.Tensor:
        """D(z) of some particles, without gradient."""
        return self.prior.decode(torch.stack(self.z[rows]))

    @torch.no_grad()
    def finish(self) -> torch.Tensor:
        """The result D(z) [N, 3, H, W]."""
        return torch.cat(self.memory.each(len(self.ids), self.decoded))

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"z": self.render(), "z_optimiser": self.z_optimiser.state_dict()["state"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        _restore(self.z, state["z"], self.z_optimiser, state["z_optimiser"])


class Augmented(NonAugmented):
    """Latents z_i coupled to images x_i, which fit y directly."""

    def __init__(
        self, prior: Prior, operator: Operator, y: torch.Tensor, weights: Weights,
        *, ids: Sequence[int], seed: int, image: str = "", memory: Memory | None = None,
    ):  # fmt: skip
        super().__init__(prior, operator, y, weights, ids=ids, seed=seed, image=image, memory=memory)
        if weights.exact:
            check_exact(operator)
        self.x = start(prior, ids, "x", image_shape(prior), seed, image)
        eps = EPS * ENTRIES / self.x[0].numel()  # where x sees no data it follows D(z) as softly as at 512 px
        self.x_optimiser = adam(self.x, weights.lr_x, eps)
        self.started = False
        self.late: set[int] = set()  # the rows whose x-step waits for the next decode of z
        # the data loss of each one's last x-step
        self.data = torch.zeros(len(self.ids), dtype=prior.dtype, device=prior.device)

    def fit(self, decoded: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
        """The x-step left over from the step before, then the coupling term of this z-step, [n]."""
        self.x_step(decoded.detach(), rows)
        x = torch.stack(self.x[rows]).detach()
        losses = {"coupling": 0.5 * particle_mean((x - decoded) ** 2)}
        return {**losses, "data": self.data[rows]} if self.started else losses

    def x_step(self, decoded: torch.Tensor, rows: slice) -> None:
        """One step of Adam, or the minimum, towards the measurement and D(z), of those x that wait for it: once, even
        if what comes after it has to be done again."""
        if rows.start not in self.late:
            return
        if self.weights.exact:
            self.exact_step(decoded, rows)
        else:
            self.adam_step(decoded, rows)
        self.late -= set(range(rows.start, rows.stop))

    @torch.no_grad()
    def exact_step(self, decoded: torch.Tensor, rows: slice) -> None:
        """x to the minimum."""
        self.data[rows] = data_loss(self.operator, torch.stack(self.x[rows]), self.y)
        for x, best in zip(self.x[rows], nearest(self.operator, self.y, decoded, self.weights.rho), strict=True):
            x.copy_(best)

    def adam_step(self, decoded: torch.Tensor, rows: slice) -> None:
        """A step of Adam."""
        self.x_optimiser.zero_grad()
        x = torch.stack(self.x[rows])
        data = data_loss(self.operator, x, self.y)
        (data + self.weights.rho * 0.5 * particle_mean((x - decoded) ** 2)).sum().backward()
        self.x_optimiser.step()
        self.x_optimiser.zero_grad()
        self.data[rows] = data.detach()

    def step(self, r: torch.Tensor, t: int) -> dict[str, float]:
        """The pending x-step, then the z-step; returns each loss's mean over particles."""
        losses = super().step(r, t)
        self.started, self.late = True, set(range(len(self.ids)))
        return losses

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """x [N, 3, H, W] as it stands."""
        return torch.stack([x.detach() for x in self.x])

    def finish(self) -> torch.Tensor:
        """The last x-step, on one more decode without gradient; the result x [N, 3, H, W]."""
        if self.late:
            self.memory.each(len(self.ids), lambda rows: self.x_step(self.decoded(rows), rows))
        return self.images()

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs: z of this step, x of the step before, and whether its x-step is pending."""
        x = {"x": self.images(), "x_optimiser": self.x_optimiser.state_dict()["state"], "pending": bool(self.late)}
        return {**super().state(), **x}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        super().load_state(state)
        _restore(self.x, state["x"], self.x_optimiser, state["x_optimiser"])
        self.started = bool(state["pending"])
        self.late = set(range(len(self.ids))) if self.started else set()


def _restore(leaves: list[Any], values: torch.Tensor, optimiser: torch.optim.Optimizer, state: dict[Any, Any]) -> None:
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            leaf.copy_(value)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": {int(k): v for k, v in state.items()}})
