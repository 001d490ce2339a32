"""A diffusion model's own log-density, by its probability-flow ODE (Song et al. 2021, Eq. 39), and its gradient.

In u = z_t / alpha_t and s = sigma_t / alpha_t the flow is  du/ds = eps_theta,  so that along it

    log p(u_0) = log N(alpha_T u_T; 0, I) + d log alpha_T + integral of div eps_theta ds,   div by Hutchinson: v^T J v

with v = +-1 (Skilling-Hutchinson; its mean is the divergence) and J v by central differences: a tenth of the noise to
either side changes the gradient by less than 1%, where another v changes that of v^T J v by 30% (heads, 32 px). Steps
even in log s: the flow turns where s is the data's spread along a direction, and images have directions from 0.01 to 1.
u takes multisteps, with eps_theta extrapolated by a parabola in log s (as DEIS does in t, Zhang & Chen 2023): an
evaluation each. The integral is trapezoids in log s, its last value that of N(0, I). u_0 is at the first timestep,
whose noise is part of the density, or at a later one, for the density with more noise. The gradient is that of the
discrete steps (to within TAU^2), taken backwards one by one, so that memory does not grow with their number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsd.priors.base import Condition, Prior
from rsd.sampling import level

ORDER = 3
"""The number of evaluations in an extrapolation."""
TAU = 0.1
"""The step of the central differences relative to s: large enough for bfloat16."""


def log_density(
    prior: Prior, x: Tensor, v: Tensor, *, steps: int, least: float = 0.0, condition: Condition | None = None
) -> tuple[Tensor, Tensor]:
    """Return log p_theta(x) [B] of x [B, *latent_shape], and its gradient in x. ``v``: entries +-1 of x's shape.

    ``steps``: of the solver, each with three forward and two backward passes; fewer if several fall on one timestep.
    ``least``: p_theta is the prior with noise of this standard deviation, or the nearest in its schedule.
    """
    *levels, last = [level(prior.schedule, t) for t in prior.schedule.even(steps, least)]
    s = torch.tensor([prior.schedule.noise(at.t) for at in (*levels, last)], dtype=torch.float64)
    w, share, n = weights(s).tolist(), trapezoids(s).tolist(), len(levels)
    path, eps = [x.detach()], list[Tensor]()
    with torch.no_grad():
        # The flow from x to noise, by multisteps.
        for k, at in enumerate(levels):
            eps.append(prior.epsilon(at.alpha * path[k], at.t, condition))
            path.append(path[k] + sum(w[k][j] * eps[j] for j in _used(k)))
    z, d = last.alpha * path[n], x[0].numel()
    total = d * math.log(last.alpha) - 0.5 * z.square().flatten(1).sum(1) - d / 2 * math.log(2 * math.pi)
    total = total + share[n] * d * last.sigma * last.alpha
    gradient = [-last.alpha * z]  # in u_n, then u_{n-1}, ...
    # Backwards: the divergence by central differences, and the gradient.
    for j in reversed(range(n)):
        at, u, h = levels[j], path[j].requires_grad_(), TAU * float(s[j])
        either = torch.cat([at.alpha * (u + h * v), at.alpha * (u - h * v)])
        more, less = prior.epsilon(either, at.t, condition).chunk(2)
        trace = (v * (more - less) / (2 * h)).flatten(1).sum(1)
        pull = sum(w[k][j] * gradient[n - 1 - k] for k in range(n) if j in _used(k))
        (change,) = torch.autograd.grad([(more + less) / 2, trace], u, [pull, torch.full_like(trace, share[j])])
        gradient.append(gradient[-1] + change)
        total = total + share[j] * trace.detach()
    return total, gradient[-1]


def weights(s: Tensor) -> Tensor:
    """Return w [n, n] of u_{k+1} = u_k + sum_j w[k, j] eps_j for the increasing s [n + 1], float64: the integral over s
    from s_k to s_{k+1} of the polynomial in log s through the last evaluations, at most three."""
    w, tau = s.new_zeros(len(s) - 1, len(s) - 1), s.log()
    for k in range(len(w)):
        used = _used(k)
        powers = torch.arange(len(used))
        h = float(tau[k + 1] - tau[k])
        moments = [math.expm1(h)]  # integrals of tau^m e^tau over 0 to h
        for m in range(1, len(used)):
            moments.append(h**m * math.exp(h) - m * moments[-1])
        nodes = (tau[used] - tau[k]) ** powers[:, None]  # [power, node]
        w[k, used] = s[k] * torch.linalg.solve(nodes, s.new_tensor(moments))
    return w


def trapezoids(s: Tensor) -> Tensor:
    """Return the weights [n + 1] of f(s) in its integral over s: s f(s) by trapezoids in log s."""
    tau = s.log()
    return s * torch.diff((tau[1:] + tau[:-1]) / 2, prepend=tau[:1], append=tau[-1:])


def _used(k: int) -> list[int]:
    """Return the evaluations that step k extrapolates."""
    return list(range(max(0, k - ORDER + 1), k + 1))
