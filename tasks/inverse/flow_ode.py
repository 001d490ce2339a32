"""A diffusion model's own log-density, by its probability-flow ODE (Song et al. 2021, Eq. 39), and its gradient.

In u = z_t / alpha_t and s = sigma_t / alpha_t the flow is  du/ds = eps_theta,  so that along it

    log p(u_0) = log N(alpha_T u_T; 0, I) + d log alpha_T + integral of div eps_theta ds,   div by Hutchinson: v^T J v

with v = +-1 (Skilling-Hutchinson; its mean is the divergence). Heun's steps, even in log s: the flow turns where s is
the data's spread along a direction, and images have directions from 0.01 to 1. u_0 is at the first timestep, whose
noise is part of the density. The gradient is that of the discrete steps, taken backwards one by one, so that memory
does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rsd.priors.base import Condition, Prior
from rsd.schedule import Schedule

from .diffusion import Level, level

Step = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def log_density(
    prior: Prior, x: torch.Tensor, v: torch.Tensor, *, steps: int, condition: Condition | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p_theta(x) [B] of x [B, *latent_shape], and its gradient in x; ``v``: entries +-1 of x's shape.

    ``steps``: of the solver, each two (gradients: two more) passes of the network and through it; fewer where several
    fall on one timestep.
    """
    grid = [level(prior.schedule, t) for t in timesteps(prior.schedule, steps)]

    def heun(now: Level, then: Level) -> Step:
        ds = then.sigma / then.alpha - now.sigma / now.alpha

        def step(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            first, trace = _field(prior, u, v, now, condition)
            second, trace_then = _field(prior, u + ds * first, v, then, condition)
            return u + ds / 2 * (first + second), ds / 2 * (trace + trace_then)

        return step

    flow = [heun(now, then) for now, then in zip(grid[:-1], grid[1:], strict=True)]
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention cannot be differentiated twice
        path, total = [x.detach()], torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for step in flow:
            u, change = step(path[-1].requires_grad_())
            path.append(u.detach())
            total = total + change.detach()
        alpha, d = grid[-1].alpha, x[0].numel()
        z = alpha * path[-1]
        total = total - 0.5 * z.square().flatten(1).sum(1) - d / 2 * math.log(2 * math.pi) + d * math.log(alpha)
        gradient = -alpha * z
        for u, step in zip(reversed(path[:-1]), reversed(flow), strict=True):
            u = u.detach().requires_grad_()
            after, change = step(u)
            (gradient,) = torch.autograd.grad([after, change], u, [gradient, torch.ones_like(change)])
    return total, gradient


def timesteps(schedule: Schedule, steps: int) -> list[int]:
    """From 0 to the last, nearest to ``steps`` + 1 numbers even in log sigma_t / alpha_t, each once."""
    abar = schedule.alphas_cumprod[: schedule.descending(1)[0] + 1]
    log_s = ((1 - abar) / abar).log() / 2
    even = torch.linspace(float(log_s[0]), float(log_s[-1]), steps + 1, dtype=log_s.dtype)
    return sorted(set((log_s - even[:, None]).abs().argmin(1).tolist()))


def _field(
    prior: Prior, u: torch.Tensor, v: torch.Tensor, at: Level, condition: Condition | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """eps_theta at u [B, ...], and v^T (d eps_theta / d u) v [B]; both differentiable."""
    eps = prior.epsilon(at.alpha * u, at.t, condition)
    (pulled,) = torch.autograd.grad(eps, u, v, create_graph=True)
    return eps, (pulled * v).flatten(1).sum(1)
