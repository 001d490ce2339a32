"""The forward process z_t = alpha_t z + sigma_t eps of a variance-preserving diffusion model."""

from __future__ import annotations

from typing import Any

import torch


class Schedule:
    """alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t), t = 0 .. T-1, from the model's own cumulative alphas."""

    def __init__(self, alphas_cumprod: torch.Tensor):
        self.alphas_cumprod = alphas_cumprod.double().cpu()

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Schedule:
        """The schedule a diffusers scheduler was trained with (any that has ``alphas_cumprod``)."""
        return cls(scheduler.alphas_cumprod)

    @classmethod
    def scaled_linear(cls, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
        """Stable Diffusion's schedule."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0))

    @property
    def T(self) -> int:
        """Number of training timesteps."""
        return len(self.alphas_cumprod)

    def alpha(self, t: int) -> float:
        return float(self.alphas_cumprod[t] ** 0.5)

    def sigma(self, t: int) -> float:
        return float((1 - self.alphas_cumprod[t]) ** 0.5)

    def noise(self, t: int) -> float:
        """sigma_t / alpha_t, the standard deviation of the noise in z_t / alpha_t."""
        return self.sigma(t) / self.alpha(t)

    def coefficients(self, t: int | torch.Tensor, z: torch.Tensor) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """alpha_t and sigma_t to multiply z [N, ...] with: floats, or for t [N] tensors [N, 1, ...] of z's dtype."""
        if isinstance(t, int):
            return self.alpha(t), self.sigma(t)
        abar = self.alphas_cumprod[t.cpu()].view(-1, *[1] * (z.ndim - 1))
        return (abar**0.5).to(z), ((1 - abar) ** 0.5).to(z)

    def descending(self, steps: int) -> list[int]:
        """Timesteps of Algorithm 1: index_l = round(T (1 - (l-1)/L)) - 1, l = 1..L, from T-1 down.

        A schedule with zero terminal SNR has sigma/alpha = infinity at T-1: its run starts at the next timestep below.
        Raises ValueError if ``steps`` is not in 1..T.
        """
        if not 1 <= steps <= self.T:
            raise ValueError(f"steps is {steps}; give 1 to {self.T}, the number of timesteps of this prior.")
        last = self.T - 1
        while self.alphas_cumprod[last] < 1e-8:
            last -= 1
        return [min(round(self.T * (1 - step / steps)) - 1, last) for step in range(steps)]
