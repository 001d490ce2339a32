"""DiffPIR (Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration"), begun at an estimate.

One step from noise level t to s, sigma~ = sigma / alpha, for a prior of pixels:

    d = the denoised estimate of z_t
    x = argmin_x 1/2 |y - f(x)|^2 + tau/2 |x - d|^2,      tau = weight sigma_v^2 / sigma~_t^2
    eps' = (z_t - alpha_t x) / sigma_t                    the noise that belongs to x
    z_s = alpha_s x + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) n)

With ``start`` the particles do not begin at pure noise but at an estimate with noise of sigma~ = start, which saves the
steps that would only find the large shapes again: where a measurement leaves little open, 5 steps do. The estimate is
that of DPIR (Zhang et al. 2021, "Plug-and-Play Image Restoration with Deep Denoiser Prior"): the same steps without
noise, ``calls`` of them, from the operator's first estimate. As there, each call sees the picture turned or mirrored
another way (of priors that allow it, :meth:`rsd.priors.base.Prior.turned`), so that errors of the network that depend
on the direction average out. It is one picture, the best in squared error; samples differ as what the measurement
leaves open does, and so are twice as far from the truth in squared error.

Samples of few steps differ too little: a denoised estimate is a mean, and each step keeps less of the spread around it
than there is. With zeta = 1, which keeps none of z_t's own noise, the standard deviation is 0.6 of the posterior's, of
any Gaussian and with any number of steps. With zeta = 0.3 and 8 steps it is 0.8, and ``boost`` = 1.2, a factor of the
new noise (S_noise of Karras et al. 2022), makes it right within 5% whatever the posterior's width, between the last
level and the first (tests/inverse/test_diffpir.py).

Of Gaussian noise alone the measurement is a state z_t itself, so the particles start there, at the noise of y, and
take DDPM's steps with nothing to fit. (The estimate takes several calls all the same: a small network leaves noise,
which it removes when it sees its own answer.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from rsd.sampling import Level, Method, StepResult, fresh_noise, level, levels
from rsd.schedule import Schedule

from ..operators import Denoise, Operator
from ..operators.base import variance
from ..operators.proximal import proximal
from .guidance import Measurement, Transition

BOUND = 2.0
"""Estimates are cut at this; pictures are in [-1, 1]."""


@dataclass(frozen=True)
class DiffPIR(Method):
    """``weight``: of the prior, lambda of both papers. ``zeta``: the share of new noise; ``boost``: a factor of it.
    ``start``: sigma~ of the first level, 0: pure noise; ``stop``: of the last. ``calls``: of the network for the first
    estimate; ``fits``: whether that ends with the measurement's proximal map, not with the network."""

    weight: float = 1.0
    zeta: float = 1.0
    boost: float = 1.0
    start: float = 0.0
    stop: float = 0.02
    calls: int = 8
    fits: bool = False
    positive: ClassVar[tuple[str, ...]] = ("weight", "boost", "stop")
    fractions: ClassVar[tuple[str, ...]] = ("zeta",)
    renoises: ClassVar[bool] = True

    def levels(self, schedule: Schedule, steps: int) -> list[Level]:
        """Return levels evenly spaced in log(sigma / alpha) from ``start`` to ``stop``, each once."""
        schedule.check_steps(steps)
        found = self.timesteps(schedule, steps)
        return levels(schedule, [min(max(t, steps - 1 - k), schedule.last) for k, t in enumerate(found)])

    def timesteps(self, schedule: Schedule, steps: int) -> list[int]:
        """Return the timesteps of :meth:`levels`, the same one twice if there are too many."""
        most = schedule.noise(schedule.last)
        top = min(self.start or most, most)
        wanted = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
        found: list[int] = schedule.nearest(top * (min(self.stop, top) / top) ** wanted).tolist()
        return found

    def adapted(self, given: Measurement) -> DiffPIR:
        """Return the method for a measurement: of Gaussian noise alone it starts at the noise of y, of an operator
        without a first estimate at pure noise."""
        if isinstance(given.operator, Denoise):
            return replace(self, start=given.noise_level)
        return self if self.start == 0 or given.operator.first(given.y) is not None else replace(self, start=0.0)

    def estimate(self, given: Measurement) -> torch.Tensor | None:
        """Return the estimate that the particles start from, [1, 3, H, W]; None if they start from pure noise."""
        x = given.operator.first(given.y) if self.start else None
        if x is None:
            return None
        schedule = given.prior.schedule
        for k, t in enumerate(self.timesteps(schedule, self.calls)):
            now = level(schedule, t)
            x = denoised(replace(given, prior=given.prior.turned(k)), self.fit(given, x, now)[0], now)
        return self.fit(given, x, now)[0] if self.fits else x

    def initial(self, given: Measurement, estimate: torch.Tensor, first: Level, noise: torch.Tensor) -> torch.Tensor:
        """Return the particles at the first level, like the standard normal ``noise`` [n, 3, H, W]."""
        if isinstance(given.operator, Denoise):
            rest = max(0.0, first.sigma**2 - (first.alpha * given.noise_level) ** 2) ** 0.5
            return first.alpha * given.y + rest * noise
        return first.alpha * estimate + self.boost * first.sigma * noise

    def fit(self, given: Measurement, d: torch.Tensor, now: Level) -> tuple[torch.Tensor, Operator]:
        """Return the proximal map at d, and the operator, whose kernel may be estimated from d."""
        operator = given.operator.refit(given.y, d)
        tau = self.weight * variance(given.y, given.noise_level) * (now.alpha / now.sigma) ** 2
        return proximal(operator, given.y, d, tau), operator

    def step(self, transition: Transition) -> StepResult:
        """Denoise, fit, add noise."""
        given, now, then = transition.given, transition.now, transition.then
        eps = transition.epsilon(transition.z)
        clean = transition.clean(transition.z, eps).clamp(-BOUND, BOUND)
        if isinstance(given.operator, Denoise) and self.start:
            z = transition.ddim(clean, eps, 1.0)
            more = (self.boost - 1) * fresh_noise(now, then, 1.0)
            return StepResult(z + more * transition.noise("ddim") if more else z, clean, clean)
        fitted, _ = self.fit(given, clean, now)
        eps = (transition.z - now.alpha * fitted) / now.sigma
        z = then.alpha * fitted
        if then.sigma > 0:
            fresh = self.boost * transition.noise("diffpir")
            z = z + then.sigma * ((1 - self.zeta) ** 0.5 * eps + self.zeta**0.5 * fresh)
        return StepResult(z, fitted, clean)

    def added(self, transition: Transition) -> tuple[str | None, float]:
        """Return the purpose and the standard deviation of the noise that :meth:`step` adds."""
        if isinstance(transition.given.operator, Denoise) and self.start:
            return "ddim", self.boost * fresh_noise(transition.now, transition.then, 1.0)
        return "diffpir", self.boost * self.zeta**0.5 * transition.then.sigma

    def answer(self, given: Measurement, z: torch.Tensor, last: Level, ids: Sequence[int]) -> torch.Tensor:
        """Return the last pictures."""
        return z


def denoised(given: Measurement, x: torch.Tensor, now: Level) -> torch.Tensor:
    """Return the denoised estimate of a picture x with noise of the level ``now``."""
    z = now.alpha * x
    eps = given.prior.epsilon(z, now.t, given.condition)
    return ((z - now.sigma * eps) / now.alpha).clamp(-BOUND, BOUND)
