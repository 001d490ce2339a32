"""Score-based priors as principled priors (Feng et al. 2023; Algorithm 3 in RLSD's paper): a flow is fitted.

    minimise over phi  E_{x ~ q_phi} [ log q_phi(x) - log p_theta(x) + |y - f(x)|^2 / (2 s^2) ],    q_phi a RealNVP

with log p_theta by the probability-flow ODE (flow_ode) and s = sigma_v. Over the first half of the steps s falls there
from 1, so that the flow is not torn apart at its start, and q and p are compared in noise b of a standard deviation
that falls from ``blur`` (a spread divergence, Zhang et al. 2020), so that it is not caught by the first image that it
meets: x + b against the prior with that noise, log q being that of entries that are independent of one another. b's
own part of the score, -b / blur^2, is 0 in the mean and taken off. The answers are draws from q_phi: as many as one
likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rsd.engine import Record
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.spread import Spread

from ..methods import load_method
from ..operators.base import data_residual, variance
from ..run import Run
from .flow_ode import log_density
from .guidance import LEAST_SIGMA_V
from .realnvp import RealNVP


@dataclass(frozen=True)
class ScorePrior:
    """``batch``: draws of each step; ``ode``: the solver's steps; ``layers`` and ``hidden``: couplings and their width;
    ``lr``: Adam's rate at the start, which falls to 0; ``lr_last``: that of the last layer, each entry's own mean and
    log of its standard deviation, which have far to go: from 0 and log ``spread`` to y and log sigma_v; ``blur``: see
    above; 0, for none, is the paper's."""

    batch: int = 16
    ode: int = 10
    layers: int = 8
    hidden: int = 128
    lr: float = 1e-3
    lr_last: float = 0.03
    spread: float = 0.5
    blur: float = 0.0


class Posterior:
    """The flow q_phi, and the draws that are the answers: each from noise of its own, which stays."""

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
        """x [B, *latent_shape] and log q(x) [B] from n [B, d]."""
        x, log_q = self.flow(n, blur)
        return x.view(-1, *self.shape), log_q

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """The answers as the flow stands, [N, 3, H, W]."""
        return self.prior.decode(self.draw(self.noise)[0])

    def finish(self) -> torch.Tensor:
        """The answers."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"flow": self.flow.state_dict(), "optimiser": self.optimiser.state_dict()["state"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.flow.load_state_dict(state["flow"])
        held = {int(k): v for k, v in state["optimiser"].items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": held})


class Fitting(Run):
    """One restoration by a flow in progress; used as :class:`rsd.tasks.inverse.run.Run`. A step is one of Adam's."""

    particles: Posterior

    def begin(self, spread: Spread) -> Posterior:
        s = self.settings
        if not self.ensemble.alone:
            raise ValueError("Method score-prior fits one flow for all particles; start just one process.")
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
            share = min(1.0, 2 * step / s.steps)
            blur = self._blur(share)
            x, log_q = q.draw(n.to(q.noise), blur)
            annealed = variance(self.y, least**share)
            misfit = data_residual(self.operator, x, self.y)[0].abs().square().flatten(1).sum(1)
            b = blur * b.to(x).view_as(x)
            log_p, pull = self._prior(x.detach() + b, v.to(x).view_as(x).sign(), blur)
            pull = pull + b / blur**2 if blur else pull
            loss = log_q + misfit / (2 * annealed) - (pull * x).flatten(1).sum(1)
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
        """The standard deviation of b: of the timesteps' noise from about ``blur`` down to the first's, evenly in its
        logarithm; none afterwards."""
        schedule, most = self.prior.schedule, self.hyper.blur
        least = schedule.noise(0)
        if share == 1 or most <= least:
            return 0.0
        return schedule.noise(schedule.even(1, most * (least / most) ** share)[0])

    def _prior(self, x: torch.Tensor, v: torch.Tensor, blur: float) -> tuple[torch.Tensor, torch.Tensor]:
        """log p_theta and its gradient, chunk by chunk."""
        of = partial(log_density, self.prior, steps=self.hyper.ode, least=blur, condition=self.condition)
        found = self.memory.each(len(x), lambda rows: of(x[rows], v[rows]))
        log_p, gradient = (torch.cat(parts) for parts in zip(*found, strict=True))
        return log_p, gradient
