"""The forward process z_t = alpha_t z + sigma_t eps of a diffusion or flow-matching model."""

from __future__ import annotations

import math
from typing import Any

import torch

MOST_NOISE = 14.6
"""sigma/alpha of Stable Diffusion at its last timestep."""


class Schedule:
    """alpha_t, sigma_t and the network's time input, for t = 0 .. T-1 from least to most noise.

    Variance preserving: alpha_t^2 + sigma_t^2 = 1. A flow-matching model becomes variance preserving if its state is
    rescaled (:meth:`flow`), so everything outside the priors sees one kind of process.

    ``alphas``, ``sigmas``: float64 [T]. ``times``: [T], the time input of the network.
    """

    most = math.inf
    """Bound of sigma/alpha as the weight of a loss (RLSD's prior term)."""

    def __init__(self, alphas: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor):
        self.alphas, self.sigmas, self.times = alphas.double().cpu(), sigmas.double().cpu(), times.cpu()

    @classmethod
    def vp(cls, alphas_cumprod: torch.Tensor) -> Schedule:
        """Create a DDPM schedule: alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t), time input t."""
        abar = alphas_cumprod.double().cpu()
        return cls(abar**0.5, (1 - abar) ** 0.5, torch.arange(len(abar)))

    @classmethod
    def flow(cls, s: torch.Tensor, times: torch.Tensor) -> Schedule:
        """Create the schedule of a flow z_s = (1 - s) z + s eps, s [T] from least to most noise, divided by
        r = sqrt((1 - s)^2 + s^2): alpha = (1 - s) / r, sigma = s / r. Its sigma/alpha is 999 and more near pure noise;
        as a weight of a loss it is bounded by :data:`MOST_NOISE`."""
        s = s.double().cpu()
        r = ((1 - s) ** 2 + s**2) ** 0.5
        made = cls((1 - s) / r, s / r, times)
        made.most = MOST_NOISE
        return made

    @classmethod
    def from_scheduler(cls, scheduler: Any, *, tokens: int | None = None, mu: float | None = None) -> Schedule:
        """Create the training schedule of a diffusers scheduler with ``alphas_cumprod``, of a
        FlowMatchEulerDiscreteScheduler with its shift, or of a solver with ``use_flow_sigmas``. ``tokens``: the length
        of an image's token sequence, required if the shift depends on it (``use_dynamic_shifting``), unless ``mu``, the
        shift's logarithm, is given.

        Raises ValueError for other schedulers, or if both are missing."""
        if getattr(scheduler, "alphas_cumprod", None) is not None and not is_flow(scheduler):
            return cls.vp(scheduler.alphas_cumprod)
        kind = type(scheduler).__name__
        if scheduler.config.get("use_flow_sigmas"):  # a solver for flows, with a fixed shift
            T, shift = scheduler.config.num_train_timesteps, scheduler.config.flow_shift
            s = torch.arange(1, T + 1, dtype=torch.float64) / T
            s = shift * s / (1 + (shift - 1) * s)
            return cls.flow(s, (s * T).float())
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(
                f"The scheduler {kind} has no alphas_cumprod and is not a flow scheduler; use a model "
                "that was trained with a DDPM schedule or as a flow."
            )
        if scheduler.config.invert_sigmas:
            raise ValueError(f"The scheduler {kind} has invert_sigmas, which is not supported; use another model.")
        s = scheduler.sigmas.double()  # from most to least noise, with the fixed shift applied
        if scheduler.config.use_dynamic_shifting:
            if mu is None:
                if tokens is None:
                    raise ValueError(f"The shift of the scheduler {kind} depends on the image's size; give tokens.")
                mu = _mu(scheduler.config, tokens)
            s = scheduler.time_shift(mu, 1.0, s)
        if scheduler.config.shift_terminal:
            s = scheduler.stretch_shift_to_terminal(s)
        s = s.flip(0)
        return cls.flow(s, (s * scheduler.config.num_train_timesteps).float())

    @classmethod
    def scaled_linear(cls, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
        """Create Stable Diffusion's schedule."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2
        return cls.vp((1 - betas).cumprod(0))

    @property
    def T(self) -> int:
        """Number of training timesteps."""
        return len(self.alphas)

    def alpha(self, t: int) -> float:
        """alpha_t."""
        return float(self.alphas[t])

    def sigma(self, t: int) -> float:
        """sigma_t."""
        return float(self.sigmas[t])

    def noise(self, t: int) -> float:
        """sigma_t / alpha_t, the standard deviation of the noise in z_t / alpha_t."""
        return self.sigma(t) / self.alpha(t)

    @property
    def log_noise(self) -> torch.Tensor:
        """log(sigma_t / alpha_t), float64 [T], infinite if alpha_t is 0; the log-SNR is -2 times this."""
        return self.sigmas.log() - self.alphas.log()

    def time(self, t: int | torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the network's time input at t: a tensor [], or [N] if t is [N]."""
        return self.times[torch.as_tensor(t).cpu()].to(device)

    def coefficients(self, t: int | torch.Tensor, z: torch.Tensor) -> tuple[Any, Any]:
        """Return alpha_t and sigma_t to multiply z [N, ...] with: floats if t is an int; if t is a tensor [] or [N],
        tensors [1, 1, ...] or [N, 1, ...] of z's dtype."""
        if isinstance(t, int):
            return self.alpha(t), self.sigma(t)
        shape = (-1, *[1] * (z.ndim - 1))
        return self.alphas[t.cpu()].reshape(shape).to(z), self.sigmas[t.cpu()].reshape(shape).to(z)

    def weight(self, t: int | torch.Tensor, z: torch.Tensor) -> Any:
        """w(t) = sigma_t^2, the weight of score distillation; see :meth:`coefficients`."""
        return self.coefficients(t, z)[1] ** 2

    @property
    def last(self) -> int:
        """The noisiest timestep with finite sigma/alpha: T-1, or the one below if the terminal SNR is zero."""
        return int((self.alphas >= 1e-4).nonzero().max())

    def descending(self, steps: int) -> list[int]:
        """Return the timesteps of Algorithm 1, round(T (1 - (l-1)/L)) - 1 for l = 1..L, at most :attr:`last`.

        Raises ValueError if ``steps`` is not in 1..T.
        """
        self.check_steps(steps)
        return [min(round(self.T * (1 - step / steps)) - 1, self.last) for step in range(steps)]

    def even(self, steps: int, least: float = 0.0) -> list[int]:
        """Return ascending timesteps, without duplicates, that are nearest to ``steps`` + 1 numbers evenly spaced in
        log(sigma/alpha), from the first timestep (or noise level ``least``) to :attr:`last`."""
        log_noise = self.log_noise[: self.last + 1]
        first = log_noise[0] if least == 0 else log_noise[0].clamp(min=math.log(least))
        wanted = torch.linspace(float(first), float(log_noise[-1]), steps + 1, dtype=log_noise.dtype)
        return sorted(set((log_noise - wanted[:, None]).abs().argmin(1).tolist()))

    def nearest(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the timesteps whose sigma/alpha is closest to ``noise`` in log scale; int64 of its shape."""
        wanted = noise.double().cpu().clamp_min(1e-12).log()
        return (wanted[..., None] - self.log_noise).abs().argmin(-1)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError if ``steps`` is not in 1..T."""
        if not 1 <= steps <= self.T:
            raise ValueError(f"steps is {steps}; give 1 to {self.T}, the number of timesteps of this prior.")


def is_flow(scheduler: Any) -> bool:
    """Return whether a diffusers scheduler belongs to a flow-matching model."""
    return type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" or bool(
        scheduler.config.get("use_flow_sigmas")
    )


def _mu(config: Any, tokens: int) -> float:
    """Return the log of the dynamic shift, linear in the number of tokens."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens - config.base_image_seq_len)
