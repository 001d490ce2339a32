"""SVGD on the posterior (Liu & Wang 2016, Eq. 8) by score distillation: CSD (Kim et al. 2023) and a data term.

Latents alone, as NonAug, but each particle follows the kernel's average of *all* particles' gradients:

    g_j = grad_{z_j} 1/2 mean((y - f(D(z_j)))^2) + c (eps_theta - eps_j),     c = lambda sigma_t/alpha_t / entries of z
    Adam on  1/n sum_j [ k_ij g_j - c gamma sigma_t grad_{z_j} k(z_j, z_i) ]          the sums include j = i

The kernel is on features of the decoded noisy latents and gamma is in the units of RLSD's, so that the two differ in
the average alone (the paper's Eq. 37 and F.1, which says where it collapses).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from rsd.engine import Record, mean_square
from rsd.randomness import noise
from rsd.repulsion import Interaction

from .rlsd import NonAugmented, Weights
from .run import Run


class Stein(Run):
    """One restoration by SVGD in progress; used as :class:`rsd.tasks.inverse.run.Run`."""

    particles: NonAugmented

    def begin(self, ids: Sequence[int]) -> NonAugmented:
        s = self.settings
        if not self.ensemble.alone:
            raise ValueError("Method svgd averages over all particles, so they must be in one process; start just one.")
        weights = Weights(lambda_=s.lambda_, lr_z=s.lr_z)
        return NonAugmented(
            self.prior, self.operator, self.y, weights, ids=ids, seed=s.seed, image=self.image, memory=self.memory
        )

    def records(self) -> Iterator[Record]:
        s, p, schedule = self.settings, self.particles, self.prior.schedule
        for step in range(self.step, s.steps):
            t = self.timesteps[step]
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            z = p.render()
            eps = noise(z.shape[1:], seed=s.seed, purpose="diffusion", image=self.image, step=step, particles=p.ids)
            eps = eps.to(z)
            z_t = alpha * z + sigma * eps
            data, r, losses = self._gradients(z, z_t, t)
            r = r - eps
            c = s.lambda_ * sigma / alpha / z[0].numel()
            R, force, average = self._kernel(z_t, t)
            gradient = average(data + c * r) - c * s.gamma * sigma * R
            for leaf, row in zip(p.z, gradient, strict=True):
                leaf.grad = row
            p.z_optimiser.step()
            p.z_optimiser.zero_grad()
            residual, push = math.sqrt(mean_square(r)), math.sqrt(mean_square(s.gamma * sigma * R))
            yield Record(
                step=step, t=t, losses={"data": float(losses.mean())}, residual=residual, repulsion=push,
                ratio=push / max(residual, 1e-12), bandwidth=force.bandwidth if force else None,
                distance=force.distance if force else None,
            )  # fmt: skip

    def _kernel(self, z_t: torch.Tensor, t: int):  # type: ignore[no-untyped-def]
        """1/n sum_j grad_{z_j} k_ij [N, ...], its Force, and the average of gradients over particles; outside of the
        window, or of one particle, nothing and the gradients themselves."""
        stein = Interaction(self.settings.gamma, self.settings.window, kind="svgd")
        n = len(z_t)
        if not stein.active(t, self.prior.schedule.T, n):
            return torch.zeros_like(z_t), None, lambda g: g
        assert self.embed is not None, "SVGD needs a feature map"
        R, force = stein.force(self.embed, z_t, memory=self.memory)
        return R, force, lambda g: force.average(g, stein.groups(n))

    def _gradients(self, z: torch.Tensor, z_t: torch.Tensor, t: int) -> tuple[torch.Tensor, ...]:
        """The data term's gradient in each z, eps_theta of each z_t [N, ...], and the data term [N]."""

        def work(rows: slice) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                eps = self.prior.epsilon(z_t[rows], t, self.condition)
            v = z[rows].detach().requires_grad_()
            loss = self.particles.fit(self.prior.decode(v), rows)["data"]
            return torch.autograd.grad(loss.sum(), v)[0], eps, loss.detach()

        return tuple(torch.cat(parts) for parts in zip(*self.memory.each(len(z), work), strict=True))
