"""RLSD and its variants (Algorithm 1; Eq. 20, 21): the steps of the particles.

With images x beside latents z (RLSD, NonRepuls, Hybrid), a step of Algorithm 1 is
    z_t = alpha_t z + sigma_t eps, r = eps_theta(z_t, t) - eps - gamma sigma_t R    rsd/engine.py; R: rsd/repulsion.py
    z-step: Adam on 1/2 mean((x - D(z))^2) + lambda sigma_t/alpha_t mean(r z)
    x-step: Adam on 1/2 mean((y - f(x))^2) + rho 1/2 mean((x - D(z))^2), D(z) after the z-step, detached;
            or its minimiser (x_step "exact": operators.linear.nearest)
Latents only (NonAug, Latent RED-diff, RED-diff, SVGD):
    z-step: Adam on 1/2 mean((y - f(D(z)))^2) + lambda sigma_t/alpha_t mean(r z)

For a flow-matching prior sigma_t/alpha_t reaches 999 and more near pure noise; as the weight here it is bounded by
:data:`rsd.schedule.MOST_NOISE`, its value for Stable Diffusion at the last timestep.

Means run over one particle's entries, so no particle depends on how many there are. The x-step's D(z) is the decode
that the next z-step needs anyway, so the x-step is done at the start of the next step: L + 1 decodes instead of 2 L
with the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rsd.engine import Average
from rsd.latents import Leaves
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.spread import Spread

from .operators import Operator, data_residual
from .operators.linear import check_exact, nearest

BETAS = (0.9, 0.99)
EPS = 4e-8  # Adam's eps with per-particle means: the published behaviour at N = 4 (its mean ran over particles too)
ENTRIES = 3 * 512 * 512  # the image entries at which EPS was published


@dataclass(frozen=True)
class Weights:
    """The weights lambda (prior) and rho (coupling; unused without images), and the learning rates of z and x.
    ``exact``: the x-step is the exact minimiser instead of an Adam step (linear operators)."""

    lambda_: float
    lr_z: float
    rho: float = 0.0
    lr_x: float = 0.0
    exact: bool = False


def image_shape(prior: Prior) -> tuple[int, ...]:
    """Return the shape that the prior decodes to: an image, or the point itself."""
    found: tuple[int, ...] = prior.image_shape if isinstance(prior, Prior) else Prior.image_shape.__get__(prior)
    return found


def start(prior: Prior, what: str, shape: Sequence[int], spread: Spread, stream: Stream) -> torch.Tensor:
    """Draw the initial values [N, *shape] from N(0, I)."""
    return stream.noise(f"initial {what}", shape, spread.ids).to(prior.device, prior.dtype)


def particle_mean(x: torch.Tensor) -> torch.Tensor:
    """Return the mean over each particle's entries: [N, ...] to [N]."""
    return x.flatten(1).mean(1)


def data_loss(operator: Operator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return 1/2 mean((y - f(x))^2) over the observed entries, [N]."""
    difference, count = data_residual(operator, x, y)
    return 0.5 * difference.abs().square().flatten(1).sum(1) / count


def means(parts: list[dict[str, torch.Tensor]], n: int) -> dict[str, float]:
    """Return the losses' means over n particles from the sums of chunks. One transfer for all numbers: the GPU is
    synchronised once per step, not once per chunk."""
    names = list(parts[0])
    totals = torch.stack([torch.stack([one[name] for name in names]) for one in parts]).cpu().double().sum(0)
    return dict(zip(names, (totals / n).tolist(), strict=True))


class Images:
    """Images x_i [N, 3, H, W] that fit y directly and are coupled to D(z_i).

    Each z-step leaves an x-step to do, which waits for the next decode of z. ``pending``: the rows whose x-step waits.
    """

    def __init__(self, values: torch.Tensor, operator: Operator, y: torch.Tensor, weights: Weights):
        if weights.exact:
            check_exact(operator)
        self.operator, self.y, self.weights = operator, y, weights
        eps = EPS * ENTRIES / values[0].numel()  # unobserved x follows D(z) as slowly as at 512 px
        self.x = Leaves(values, lr=weights.lr_x, betas=BETAS, eps=eps)
        self.pending: set[int] = set()
        self.data: torch.Tensor = values.new_zeros(len(values))  # the data loss at each particle's last x-step

    def coupling(self, decoded: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return 1/2 mean((x - D(z))^2) of some particles, [n]."""
        return 0.5 * particle_mean((self.x[rows] - decoded) ** 2)

    def x_step(self, decoded: torch.Tensor, rows: slice) -> None:
        """Do the pending x-step of some particles, towards y and D(z). It runs once, even if the step is retried after
        an out-of-memory error."""
        if rows.start not in self.pending:
            return
        if self.weights.exact:
            self._exact_step(decoded, rows)
        else:
            self._adam_step(decoded, rows)
        self.pending -= set(range(rows.start, rows.stop))

    def _adam_step(self, decoded: torch.Tensor, rows: slice) -> None:
        x = self.x[rows].requires_grad_()
        data = data_loss(self.operator, x, self.y)
        loss = data + self.weights.rho * 0.5 * particle_mean((x - decoded) ** 2)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        self.x.descend(gradient, rows)
        self.data[rows] = data.detach()

    @torch.no_grad()
    def _exact_step(self, decoded: torch.Tensor, rows: slice) -> None:
        self.data[rows] = data_loss(self.operator, self.x[rows], self.y)
        self.x.put(nearest(self.operator, self.y, decoded, self.weights.rho), rows)

    def mark_pending(self) -> None:
        """Mark the x-step of all particles as pending: their z has moved."""
        self.pending = set(range(len(self.data)))

    def state(self) -> dict[str, Any]:
        """Return the checkpoint: x before its pending x-step, and whether it is pending."""
        return {**self.x.state("x"), "pending": bool(self.pending)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.x.load_state(state, "x")
        self.pending = set(range(len(self.data))) if state["pending"] else set()


class LatentParticles:
    """Latents z_i that fit y: coupled to images x_i that fit y, or (without ``augmented``) directly through the
    decoder."""

    def __init__(
        self, prior: Prior, operator: Operator, y: torch.Tensor, weights: Weights, *, augmented: bool, spread: Spread,
        stream: Stream,
    ):  # fmt: skip
        self.prior, self.operator, self.y, self.weights, self.spread = prior, operator, y, weights, spread
        self.z = Leaves(start(prior, "z", prior.latent_shape, spread, stream), lr=weights.lr_z, betas=BETAS, eps=EPS)
        self.augmented: Images | None = None
        if augmented:
            self.augmented = Images(start(prior, "x", image_shape(prior), spread, stream), operator, y, weights)
        self.last_decoded: dict[int, torch.Tensor] = {}  # D(z) of the last step, by row

    def render(self) -> torch.Tensor:
        """Return z [N, *latent_shape], a copy without gradient."""
        return self.z.values

    def step(self, r: torch.Tensor, t: int, average: Average) -> dict[str, float]:
        """Do a step of Algorithm 1: the pending x-step, then the z-step. Return each loss's mean over particles. An
        x-step is counted with the z-step that follows it."""
        schedule, lambda_ = self.prior.schedule, self.weights.lambda_
        prior_weight = min(lambda_ * schedule.sigma(t) / schedule.alpha(t), lambda_ * schedule.most)
        x_moves = self.augmented is not None and bool(self.augmented.pending)

        def work(rows: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            z = self.z[rows].requires_grad_()
            # The only decode of this step.
            decoded = self.prior.decode(z)
            if self.augmented is None:
                # The data term of z: y through the decoder.
                self.last_decoded |= dict(zip(range(rows.start, rows.stop), decoded.detach(), strict=True))
                fit = data_loss(self.operator, decoded, self.y)
                losses = {"data": fit}
            else:
                # The pending x-step, towards y and D(z). Then the data term of z: the coupling to that x.
                self.augmented.x_step(decoded.detach(), rows)
                fit = self.augmented.coupling(decoded, rows)
                losses = {"coupling": fit, **({"data": self.augmented.data[rows]} if x_moves else {})}
            (gradient,) = torch.autograd.grad(fit.sum(), z)
            losses["prior"] = prior_weight * particle_mean(r[rows] * z.detach())
            return gradient, {name: loss.detach().sum() for name, loss in losses.items()}

        parts = self.spread.each(work)
        # The z-step. SVGD averages the gradient of the data term too, as it did the residual before the repulsion.
        scale = torch.tensor(prior_weight, dtype=r.dtype, device=r.device) / r[0].numel()  # the gradient of its mean
        self.z.descend(average(torch.cat([gradient for gradient, _ in parts])) + scale * r)
        if self.augmented is not None:
            self.augmented.mark_pending()
        return means([losses for _, losses in parts], self.spread.n)

    def images(self) -> torch.Tensor:
        """Return x [N, 3, H, W]; without x, D(z) from the start of the last step, which is already decoded."""
        if self.augmented is not None:
            return self.augmented.x.values
        return (
            torch.stack([self.last_decoded[row] for row in range(self.spread.n)])
            if self.last_decoded
            else self.finish()
        )

    @torch.no_grad()
    def decoded(self, rows: slice) -> torch.Tensor:
        """Return D(z) of some particles, without gradient."""
        return self.prior.decode(self.z[rows])

    def finish(self) -> torch.Tensor:
        """Return the result [N, 3, H, W]: x after its last x-step, which takes one more decode without gradient;
        without x, D(z)."""
        if self.augmented is None:
            return self.spread.cat(self.decoded)
        images = self.augmented
        if images.pending:
            self.spread.each(lambda rows: images.x_step(self.decoded(rows), rows))
        return images.x.values

    def state(self) -> dict[str, Any]:
        """Return the checkpoint."""
        return {**self.z.state("z"), **(self.augmented.state() if self.augmented is not None else {})}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.z.load_state(state, "z")
        if self.augmented is not None:
            self.augmented.load_state(state)
