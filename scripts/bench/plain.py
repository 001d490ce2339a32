"""Algorithm 1 as printed, with the sign that repels: one batch, three decodes a step, nothing reused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from rsd.priors.base import multiplying
from rsd.randomness import noise


def force(features: Any, prior: Any, z_t: torch.Tensor) -> torch.Tensor:
    """Return R_i = - grad log sum_{j != i} k_ij of N latents by autograd; the other particles' features are
    constants."""
    z_t = z_t.detach().requires_grad_()
    with multiplying(z_t.device, prior.autocast):
        phi = features(prior.decode(z_t)).to(z_t.dtype)
    n, others = len(phi), phi.detach()
    squares = ((phi[:, None] - others[None]) ** 2).sum(-1)
    rows, columns = torch.triu_indices(n, n, offset=1)
    h = squares.detach()[rows, columns].sqrt().quantile(0.5) ** 2 / math.log(n)
    kernel = torch.exp(-squares / h) * (1 - torch.eye(n, dtype=phi.dtype, device=phi.device))
    return -torch.autograd.grad(kernel.sum(1).log().sum(), z_t)[0]


def steps(prior: Any, features: Any, operator: Any, y: torch.Tensor, s: Any, gamma: float) -> Iterator[torch.Tensor]:
    """Yield x [N, 3, H, W] after each step. ``s``: Settings; the random numbers are those of our runs."""
    n, shape = s.particles, (3, prior.image_size, prior.image_size)
    entries, T = math.prod(shape), prior.schedule.T

    def draw(shape: Any, purpose: str, step: int = 0) -> torch.Tensor:
        drawn = noise(shape, seed=s.seed, purpose=purpose, step=step, particles=range(n))
        return drawn.to(prior.device, prior.dtype)

    z, x = (draw(one, f"initial {name}").requires_grad_() for one, name in ((prior.latent_shape, "z"), (shape, "x")))
    z_adam = torch.optim.Adam([z], lr=s.lr_z, betas=(0.9, 0.99), eps=4e-8)
    x_adam = torch.optim.Adam([x], lr=s.lr_x, betas=(0.9, 0.99), eps=4e-8 * 3 * 512 * 512 / entries)
    seen = operator.observed.expand(n, *shape)
    text = prior.condition("")
    for step in range(s.steps):
        t = round(T * (1 - step / s.steps)) - 1
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        eps = draw(prior.latent_shape, "diffusion", step)
        z_t = alpha * z.detach() + sigma * eps
        with torch.no_grad():
            r = prior.epsilon(z_t, t, text) - eps
        if gamma and n > 1:
            r = r - gamma * sigma * force(features, prior, z_t)
        # Step on z: coupling to x, and the distillation residual.
        z_adam.zero_grad()
        coupling = 0.5 * ((x.detach() - prior.decode(z)) ** 2).flatten(1).mean(1)
        (coupling + s.lambda_ * sigma / alpha * (r * z).flatten(1).mean(1)).sum().backward()
        z_adam.step()
        # Step on x: data fit, and coupling to the new z.
        x_adam.zero_grad()
        with torch.no_grad():
            decoded = prior.decode(z)
        fit = 0.5 * ((y - operator(x)) ** 2 * seen).flatten(1).sum(1) / seen[0].sum()
        (fit + s.rho * 0.5 * ((x - decoded) ** 2).flatten(1).mean(1)).sum().backward()
        x_adam.step()
        yield x.detach()
