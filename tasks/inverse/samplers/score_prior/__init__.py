"""Score-based priors as principled priors (Feng et al. 2023; Algorithm 3 in RLSD's paper): fit a flow to the posterior.

    minimise over phi  E_{x ~ q_phi} [ log q_phi(x) - log p_theta(x) + |y - f(x)|^2 / (2 s^2) ],    q_phi a RealNVP

with log p_theta by the probability-flow ODE (flow_ode) and s = sigma_v. Two schedules run over the first half of the
steps. s falls from 1 to sigma_v, so the flow stays stable at the start. q and p are compared under noise b whose
standard deviation falls from ``blur`` (a spread divergence, Zhang et al. 2020), so the flow does not collapse to the
first image that it finds: x + b under the prior with that noise, and log q for independent entries. b's own part of the
score, -b / blur^2, has mean 0 and is subtracted. The samples are draws from q_phi, in any number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.spread import Spread

from ...methods import load_method
from ...operators.base import data_residual, variance
from ...run import Run
from ..guidance import LEAST_SIGMA_V
from .flow_ode import log_density
from .realnvp import RealNVP


@dataclass(frozen=True)
class ScorePrior:
    """``batch``: draws per step; ``ode``: steps of the solver; ``layers`` and ``hidden``: couplings and their width;
    ``lr``: Adam's initial learning rate, which falls to 0; ``lr_last``: that of the last layer, each entry's mean and
    log standard deviation, which move far: from 0 and log ``spread`` to y and log sigma_v; ``blur``: see above; 0, as
    in the paper, for none."""

    positive: ClassVar[tuple[str, ...]] = ("lr", "lr_last", "spread")

    batch: int = 16
    ode: int = 10
    layers: int = 8
    hidden: int = 128
    lr: float = 1e-3
    lr_last: float = 0.03
    spread: float = 0.5
    blur: float = 0.0


class Posterior:
    """The flow q_phi, and the samples: draws from fixed noise."""

    def __init__(self, prior: Prior, hyper: ScorePrior, spread: Spread, stream: Stream):
        self.prior, self.spread = prior, spread
        self.shape = prior.latent_shape
        d = torch.Size(self.shape).numel()
        start = stream.generator("flow")
        self.flow = RealNVP(d, layers=hyper.layers, hidden=hyper.hidden, spread=hyper.spread, generator=start)
        self.flow.to(prior.device, prior.dtype)
        last: dict[str, Any] = {"params": [self.flow.log_scale, self.flow.shift], "lr": hyper.lr_last}
        self.optimiser = torch.optim.Adam([{"params": self.flow.couplings.parameters()}, last], lr=hyper.lr)
        drawn = stream.noise("initial z", (d,), spread.ids)
        self.noise = drawn.to(prior.device, prior.dtype)

    def draw(self, n: torch.Tensor, blur: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x [B, *latent_shape] and log q(x) [B] from n [B, d]."""
        x, log_q = self.flow(n, blur)
        return x.view(-1, *self.shape), log_q

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """Return the samples of the current flow, [N, 3, H, W]."""
        return self.prior.decode(self.draw(self.noise)[0])

    def finish(self) -> torch.Tensor:
        """Return the samples."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Return the checkpoint."""
        return {"flow": self.flow.state_dict(), "optimiser": self.optimiser.state_dict()["state"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.flow.load_state_dict(state["flow"])
        held = {int(k): v for k, v in state["optimiser"].items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": held})


class Fitting(Run):
    """One restoration by a flow in progress, with the interface of :class:`rsd.tasks.inverse.run.Run`. A step is an
    Adam step."""

    particles: Posterior

    def begin(self, spread: Spread) -> Posterior:
        s = self.settings
        if not self.ensemble.alone:
            raise ValueError("Method score-prior fits one flow for all particles; start one process.")
        self.hyper: ScorePrior = load_method(s.method, s.hyper)
        return Posterior(self.prior, self.hyper, spread, self.stream)

    def records(self) -> Iterator[Record]:
        s, q, least = self.settings, self.particles, max(self.settings.sigma_v, LEAST_SIGMA_V)
        for step in range(self.step, s.steps):
            rows = range(self.hyper.batch)
            n, v, b = (
                self.stream.noise(purpose, q.noise.shape[1:], rows, step)
                for purpose in ("flow draws", "hutchinson", "flow blur")
            )
            # The flow's draws, and the annealed misfit to y.
            share = min(1.0, 2 * step / s.steps)
            blur = self._blur(share)
            x, log_q = q.draw(n.to(q.noise), blur)
            annealed = variance(self.y, least**share)
            misfit = data_residual(self.operator, x, self.y)[0].abs().square().flatten(1).sum(1)
            b = blur * b.to(x).view_as(x)
            # The prior's log-density and score at the blurred draws.
            log_p, pull = self._prior(x.detach() + b, v.to(x).view_as(x).sign(), blur)
            pull = pull + b / blur**2 if blur else pull
            loss = log_q + misfit / (2 * annealed) - (pull * x).flatten(1).sum(1)
            # Step the flow with decaying learning rates.
            for group, lr in zip(q.optimiser.param_groups, (self.hyper.lr, self.hyper.lr_last), strict=True):
                group["lr"] = lr * (1 - step / s.steps)
            q.optimiser.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(q.flow.parameters(), 100.0 * x[0].numel())
            q.optimiser.step()
            with torch.no_grad():
                kl = float((log_q - log_p + misfit / (2 * variance(self.y, least))).mean())
            losses = {"misfit": float(misfit.detach().mean().sqrt()), "kl": kl}
            yield Record.of(step, 0, q.spread, residual=float(pull.square().mean().sqrt()), losses=losses)

    def _blur(self, share: float) -> float:
        """Return the standard deviation of b: that of a timestep, from about ``blur`` down to the first timestep's,
        evenly in its logarithm; then 0."""
        schedule, most = self.prior.schedule, self.hyper.blur
        least = schedule.noise(0)
        if share == 1 or most <= least:
            return 0.0
        return schedule.noise(schedule.even(1, most * (least / most) ** share)[0])

    def _prior(self, x: torch.Tensor, v: torch.Tensor, blur: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p_theta and its gradient, chunk by chunk."""
        of = partial(log_density, self.prior, steps=self.hyper.ode, least=blur, condition=self.condition)
        found = self.memory.each(len(x), lambda rows: of(x[rows], v[rows]))
        log_p, gradient = (torch.cat(parts) for parts in zip(*found, strict=True))
        return log_p, gradient
