"""A prior of pixels as a denoiser of deepinv, so that its DPS, DiffPIR and DDRM run on the same model as ours."""

from __future__ import annotations

from typing import Any

import torch

from rsd.priors.base import Prior


class PriorDenoiser(torch.nn.Module):
    """E[x | x + sigma n] by a prior of pixels, as deepinv asks for it: images [B, 3, H, W] in [0, 1] and sigma.

    sigma_t / alpha_t of the nearest timestep stands for 2 sigma: our images are in [-1, 1]. Differentiable in x. Made
    without importing deepinv. Raises ValueError for a prior of latents, which deepinv's samplers do not know.
    """

    def __init__(self, prior: Prior):
        super().__init__()
        if prior.image_size == 0 or prior.latent_shape[-1] != prior.image_size:
            raise ValueError(
                f"{prior.name} is no prior of pixels, but deepinv denoises images; take one such as heads-pixels."
            )
        self.prior = prior

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The timestep whose sigma_t / alpha_t is the nearest to 2 sigma, by ratio; int64 of sigma's shape."""
        return self.prior.schedule.nearest(2 * sigma)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The denoised images [B, 3, H, W]; sigma: a number, or one an image, of any shape with B entries."""
        t = self.timestep(torch.as_tensor(sigma).detach().flatten()).expand(len(x))
        alpha, sigma = self.prior.schedule.coefficients(t, x)
        z = 2 * x - 1
        eps = self.prior.epsilon(alpha * z, t)
        return (z - sigma / alpha * eps + 1) / 2
