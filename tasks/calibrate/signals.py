"""Random walks with known posteriors, to evaluate samplers where heavy tails and sparse jumps matter.

A signal is x_k = c (u_1 + ... + u_k) with independent jumps u: Gaussian, Laplace, sparse (Bernoulli-Laplace) or
Student-t; c makes the last entry's variance 1 (1-D Lévy processes, the statistical benchmark of diffusion posterior
sampling). Since a random walk is a Markov chain, its denoised estimate E[x | z_t] is exact up to a grid, by the
forward-backward recursion, which makes a prior without training error. A Gibbs sampler gives the posterior under any
linear measurement.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch

from rsd.priors.base import Condition, Prior
from rsd.schedule import Schedule
from rsd.tasks.inverse.samplers.exact import Matrix

GRID = 512
"""Number of values that an entry of a signal can take in the prior's network."""
RANGE = 6.0
"""Largest absolute value on the grid; entries have variance 1 or less."""


@dataclass(frozen=True)
class Jumps:
    """A distribution of jumps. ``kind``: gaussian, laplace, sparse or student. ``scale``: standard deviation, b of
    Laplace, or the scale of Student's t; ``rate``: how often a sparse jump is not 0; ``degrees`` of freedom, above 2.
    """

    kind: str
    scale: float = 1.0
    rate: float = 0.1
    degrees: float = 3.0

    @property
    def variance(self) -> float:
        """The variance of a jump."""
        return {
            "gaussian": self.scale**2,
            "laplace": 2 * self.scale**2,
            "sparse": 2 * self.rate * self.scale**2,
            "student": self.scale**2 * self.degrees / (self.degrees - 2),
        }[self.kind]

    def draw(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        """Draw jumps, float64."""
        tau = self.prior_variances(shape, rng)
        u = tau.sqrt() * torch.randn(shape, generator=rng, dtype=torch.float64)
        if self.kind == "sparse":
            u = u * (torch.rand(shape, generator=rng, dtype=torch.float64) < self.rate)
        return u

    def prior_variances(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        """Draw the variance of each (nonzero) jump: every kind is a Gaussian of random variance."""
        if self.kind == "gaussian":
            return torch.full(shape, self.scale**2, dtype=torch.float64)
        if self.kind == "student":
            half = torch.full(shape, self.degrees / 2, dtype=torch.float64)
            gamma = torch._standard_gamma(half, generator=rng)
            return self.scale**2 * half / gamma
        uniform = torch.rand(shape, generator=rng, dtype=torch.float64).clamp_min(1e-300)
        return -2 * self.scale**2 * uniform.log()

    def posterior_variances(self, u: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Draw the variance of each nonzero jump given its value."""
        if self.kind == "gaussian":
            return torch.full_like(u, self.scale**2)
        if self.kind == "student":
            gamma = torch._standard_gamma(torch.full_like(u, (self.degrees + 1) / 2), generator=rng)
            return (self.scale**2 * self.degrees + u**2) / 2 / gamma
        # Laplace: 1 / tau is inverse Gaussian with mean 1 / (b |u|) and shape 1 / b^2.
        mean, shape = 1 / (self.scale * u.abs().clamp_min(1e-12)), 1 / self.scale**2
        return 1 / inverse_gaussian(mean, shape, rng)

    def density(self, u: torch.Tensor) -> torch.Tensor:
        """Return the density of the continuous part of a jump, which has mass ``rate`` for sparse jumps, else 1."""
        s = self.scale
        if self.kind == "gaussian":
            return (-(u**2) / (2 * s**2)).exp() / (s * math.sqrt(2 * math.pi))
        if self.kind == "student":
            n = self.degrees
            log_c = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - 0.5 * math.log(n * math.pi) - math.log(s)
            return (log_c - (n + 1) / 2 * (1 + (u / s) ** 2 / n).log()).exp()
        mass = self.rate if self.kind == "sparse" else 1.0
        return mass * (-u.abs() / s).exp() / (2 * s)


def inverse_gaussian(mean: torch.Tensor, shape: float, rng: torch.Generator) -> torch.Tensor:
    """Draw from inverse Gaussian distributions (Michael, Schucany and Haas 1976)."""
    y = torch.randn(mean.shape, generator=rng, dtype=mean.dtype) ** 2
    root = (4 * mean * shape * y + (mean * y) ** 2).sqrt()
    x = mean + mean / (2 * shape) * (mean * y - root)
    x = x.clamp_min(1e-300)
    other = torch.rand(mean.shape, generator=rng, dtype=mean.dtype) * (mean + x) > mean
    return torch.where(other, mean**2 / x, x)


class RandomWalk(Prior):
    """Signals [B, d] as a prior; epsilon is exact up to the grid, and differentiable.

    Noise below the grid's spacing is treated as the spacing. ``jumps``: in units before the division by ``unit``, the
    last entry's standard deviation.
    """

    name = "random walk"
    image_size = 0

    def __init__(self, jumps: Jumps, d: int = 32, *, schedule: Schedule | None = None):
        self.jumps, self.unit = jumps, math.sqrt(d * jumps.variance)
        self.schedule = schedule or Schedule.scaled_linear()
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.latent_shape = (d,)
        self.calls: Counter[str] = Counter()
        self.grid = torch.linspace(-RANGE, RANGE, GRID, dtype=torch.float64)
        self.spacing = float(self.grid[1] - self.grid[0])

    @cached_property
    def kernel(self) -> torch.Tensor:
        """The Fourier transform of the probabilities of jumps on the grid, for circular convolution, [GRID + 1]."""
        offset = torch.arange(-GRID, GRID, dtype=torch.float64) * self.spacing
        fine = torch.linspace(-0.5, 0.5, 33, dtype=torch.float64)[:-1] + 1 / 64  # average over a cell: narrow jumps
        inner = (offset[:, None] + fine * self.spacing) * self.unit
        p = self.jumps.density(inner).mean(1) * self.spacing * self.unit
        if self.jumps.kind == "sparse":
            p[GRID] += 1 - self.jumps.rate
        return torch.fft.rfft(torch.roll(p / p.sum(), GRID))

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Return a condition without text. Raise ValueError for a prompt."""
        if prompt or negative_prompt:
            raise ValueError("A random walk takes no prompt.")
        return Condition(guidance=guidance)

    def step(self, message: torch.Tensor) -> torch.Tensor:
        """Convolve messages [B, GRID] with the jumps and normalise them; jumps are symmetric, so both directions are
        equal."""
        moved = torch.fft.irfft(torch.fft.rfft(message, 2 * GRID) * self.kernel, 2 * GRID)[:, :GRID].clamp_min(0)
        return moved / moved.sum(1, keepdim=True)

    def denoised(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return E[signal | x = signal + noise * n], [B, d]; ``noise`` [B, 1]."""
        s = noise.clamp_min(self.spacing)
        seen = (-((x[:, :, None] - self.grid) ** 2) / (2 * s[:, :, None] ** 2)).softmax(2)  # [B, d, GRID]
        d = x.shape[1]
        start = torch.zeros(len(x), GRID, dtype=x.dtype)
        start[:, GRID // 2 - 1 : GRID // 2 + 1] = 0.5  # the walk starts at 0, between two points
        forward = []
        message = start
        for k in range(d):
            message = self.step(message) * seen[:, k]
            message = message / message.sum(1, keepdim=True)
            forward.append(message)
        later = torch.ones_like(start) / GRID
        found = []
        for k in reversed(range(d)):
            both = forward[k] * later
            found.append((both * self.grid).sum(1) / both.sum(1))
            later = self.step(later * seen[:, k])
        return torch.stack(found[::-1], 1)

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Return (z_t - alpha E[z | z_t]) / sigma, [B, d]; t: one index or [B]."""
        z = z_t.double()
        alpha, sigma = self.schedule.coefficients(torch.as_tensor(t), z)
        guess = self.denoised(z / alpha, (sigma / alpha).expand(len(z), 1))
        return ((z - alpha * guess) / sigma).to(z_t.dtype)


def matrices(d: int = 32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the measurement matrices [m, d]: identity, a blur, every fourth entry, and a quarter of the Fourier
    coefficients (the lowest two and random ones, real and imaginary parts)."""
    eye = torch.eye(d, dtype=torch.float64)
    offset = torch.arange(d)[:, None] - torch.arange(d)
    blur = (-(offset.double() ** 2) / (2 * 2.0**2)).exp()
    frequencies = torch.randperm(d // 2 - 2, generator=torch.Generator().manual_seed(seed))[: d // 8 - 2] + 2
    waves = torch.fft.rfft(eye, dim=1, norm="ortho").T[torch.cat([torch.arange(2), frequencies])]
    fourier = torch.cat([waves.real, waves.imag[1:]]) * math.sqrt(2)
    fourier[0] /= math.sqrt(2)
    return {"identity": eye, "blur": blur / blur.sum(1, keepdim=True), "sampling": eye[3::4], "fourier": fourier}


@dataclass(frozen=True)
class Signal:
    """A problem: y [1, m] = A x + sigma_v v for a signal x [d], and draws [n, d] from its posterior."""

    prior: RandomWalk
    operator: Matrix
    y: torch.Tensor
    sigma_v: float
    x: torch.Tensor
    draws: torch.Tensor


def problem(jumps: Jumps, A: torch.Tensor, *, sigma_v: float, seed: int, chains: int = 64, sweeps: int = 200) -> Signal:
    """Draw a signal and its measurement, and sample the posterior by :func:`gibbs`."""
    d = A.shape[1]
    prior = RandomWalk(jumps, d)
    rng = torch.Generator().manual_seed(seed)
    x = jumps.draw((d,), rng).cumsum(0) / prior.unit
    y = A @ x + sigma_v * torch.randn(len(A), generator=rng, dtype=torch.float64)
    draws = gibbs(jumps, A / prior.unit, y, sigma_v, chains=chains, sweeps=sweeps, rng=rng) / prior.unit
    return Signal(prior, Matrix(A), y[None], sigma_v, x, draws)


def gibbs(
    jumps: Jumps, A: torch.Tensor, y: torch.Tensor, sigma_v: float, *, chains: int, sweeps: int, rng: torch.Generator
) -> torch.Tensor:
    """Return draws [chains * kept, d] of the cumulative sums given y [m] = A (sums) + sigma_v v, by Gibbs sampling.

    Given their variances, the jumps are jointly Gaussian; given the jumps, the variances are independent. Which sparse
    jumps are not 0 is drawn with the jumps integrated out. The second half of the sweeps is kept, every tenth.
    """
    m, d = A.shape
    H = A @ torch.tril(torch.ones(d, d, dtype=torch.float64))  # from jumps to y
    tau = jumps.prior_variances((chains, d), rng)
    active = torch.ones(chains, d, dtype=torch.float64)
    if jumps.kind == "sparse":
        active = (torch.rand(chains, d, generator=rng, dtype=torch.float64) < jumps.rate).double()
    kept = []
    for sweep in range(sweeps):
        if jumps.kind == "sparse":
            active = _draw_active(jumps.rate, H, y, sigma_v, tau, active, rng)
        variances = tau * active
        u = variances.sqrt() * torch.randn(chains, d, generator=rng, dtype=torch.float64)
        v = sigma_v * torch.randn(chains, m, generator=rng, dtype=torch.float64)
        S = (H * variances[:, None]) @ H.T + sigma_v**2 * torch.eye(m, dtype=torch.float64)
        wrong = y - u @ H.T - v
        u = u + variances * (torch.linalg.solve(S, wrong[..., None])[..., 0] @ H)
        tau = torch.where(active > 0, jumps.posterior_variances(u, rng), jumps.prior_variances((chains, d), rng))
        if sweep >= sweeps // 2 and sweep % 10 == 0:
            kept.append(u.cumsum(1))
    return torch.cat(kept)


def _draw_active(
    rate: float, H: torch.Tensor, y: torch.Tensor, sigma_v: float, tau: torch.Tensor, active: torch.Tensor,
    rng: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Draw which jumps are not 0, one after another, given the variances they have then, [chains, d]."""
    m, d = H.shape
    S = (H * (tau * active)[:, None]) @ H.T + sigma_v**2 * torch.eye(m, dtype=H.dtype)
    inverse = torch.linalg.inv(S)  # [chains, m, m]
    active = active.clone()
    for k in torch.randperm(d, generator=rng).tolist():
        h, own = H[:, k], tau[:, k]
        g = inverse @ h  # take jump k out of the inverse ...
        own_now = own * active[:, k]
        inverse = inverse + (own_now / (1 - own_now * (g @ h)))[:, None, None] * g[:, :, None] * g[:, None]
        g = inverse @ h
        gain = own * (g @ h)
        odds = math.log(rate / (1 - rate)) - 0.5 * gain.log1p() + 0.5 * own * (g @ y) ** 2 / (1 + gain)
        active[:, k] = (torch.rand(len(tau), generator=rng, dtype=H.dtype) < odds.sigmoid()).double()
        own_now = own * active[:, k]  # ... and put it back if it is active
        inverse = inverse - (own_now / (1 + own_now * (g @ h)))[:, None, None] * g[:, :, None] * g[:, None]
    return active
