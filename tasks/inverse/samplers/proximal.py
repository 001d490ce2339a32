"""Proximal guidance: the measurement moves the denoised estimate by a proximal map, and z_t through the network.

One step from level t to s, for a latent prior (for a prior of pixels E and D are the identity):

    z_0 = (z_t - sigma_t eps_theta(z_t, t)) / alpha_t                     the denoised estimate
    d = D(z_0),   x = argmin_x 1/2 |y - f(x)|^2 + tau/2 |x - d|^2         the nearest image that fits
    v = E(x) - E(d)                                                       what the measurement asks of z_0
    g = J^T v / |v|,   J = d z_0 / d z_t                                  and of z_t, by one backward pass
    z_s = DDIM step from z_0 + w/L v  +  zeta/L / (1 + tau) g             tau = sigma_v^2 / sigma_t^2

The result is x of D(z_0) at the last level. The proximal map changes what is measured. J^T carries that to what is
hidden, as the prior's covariance of z_0 given z_t is sigma_t^2 / alpha_t J. No gradient passes the decoder or the
encoder. E(x) - E(d) leaves the autoencoder's own error out, which E(x) - z_0 would contain. So a small autoencoder
(``coder``) may replace D and E here, which take most of a step; the result is decoded by the prior's own D.

``exact`` takes the conditional mean of z_0 given z_t and y for a prior N(0, I) instead, which has no parameters:
z_0 + J^T v / alpha_t with the eps that belongs to it (PiGDM, Song et al. 2023, with the pseudoinverse taken by the
proximal map and the encoder), and the result draws the measurement noise instead of setting it to 0. With many steps
that samples the posterior if the prior is Gaussian.

Relatives: DPS and PSLD (gradients of the data term), DiffPIR and LATINO (proximal steps, then new noise), DDNM (range
and null space). The levels are t_l = (T - 1) (1 - l / L)^1.5, dense where there is little noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from rsd.features.tiny_decoder import TinyDecoder, check_decoder_name, load_autoencoder
from rsd.priors.base import Prior
from rsd.sampling import Level, Method, StepResult, levels
from rsd.schedule import Schedule

from ..operators.base import variance
from ..operators.proximal import proximal
from .guidance import Measurement, Transition, noise_like, norm

POWER = 1.5
"""The exponent of the levels."""
ERROR = 0.03
"""Standard deviation of the last image's own error, for images in [-1, 1]: about that of the autoencoder."""


@lru_cache(maxsize=1)
def autoencoder(name: str, prior: Prior) -> TinyDecoder:
    """Load a small autoencoder once."""
    return load_autoencoder(name, prior)


@dataclass(frozen=True)
class ProximalGuidance(Method):
    """``w``: the share of v that the estimate takes, and ``zeta``: the length of the step through the network, both
    over all L steps: one step has w / L (at most 1) and zeta / L. ``eta``: noise of the DDIM step; ``exact``: the
    conditional mean of a Gaussian prior, without w and zeta. ``coder``: a small autoencoder for D and E, a hub id such
    as madebyollin/taesd (for Stable Diffusion) or a folder; empty: the prior's own."""

    w: float = 10.0
    zeta: float = 50.0
    eta: float = 1.0
    exact: bool = False
    coder: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError if ``coder`` is not a valid name."""
        if self.coder:
            check_decoder_name(self.coder)

    def levels(self, schedule: Schedule, steps: int) -> list[Level]:
        """Return levels t_l = last (1 - l / L)^1.5, each once if there are as many; last is T - 1, or where alpha is 0
        there the next one below."""
        schedule.check_steps(steps)
        spaced = [int(schedule.last * (1 - step / steps) ** POWER + 0.5) for step in range(steps)]
        return levels(schedule, [min(max(t, steps - 1 - k), schedule.last) for k, t in enumerate(spaced)])

    def prepare(self, prior: Prior) -> None:
        """Load the small autoencoder."""
        if self.coder:
            autoencoder(self.coder, prior)

    def step(self, transition: Transition) -> StepResult:
        """Denoise, fit, carry the change through the network, and go to the next level."""
        given, now = transition.given, transition.now
        coder = autoencoder(self.coder, given.prior) if self.coder else given.prior
        z = transition.z.detach().requires_grad_()
        with torch.enable_grad():
            eps = transition.epsilon(z)
            clean = transition.clean(z, eps)
        # What the measurement asks of the estimate.
        d = coder.decode(clean.detach())
        tau = variance(given.y, given.noise_level) / now.sigma**2
        v = coder.encode(proximal(given.operator, given.y, d, tau)) - coder.encode(d)
        # Through the network, to what is hidden.
        (pull,) = torch.autograd.grad(clean, z, v)
        clean, eps = clean.detach(), eps.detach()
        if self.exact:
            fitted = clean + pull / now.alpha
            eps = (transition.z - now.alpha * fitted) / now.sigma
            return StepResult(transition.ddim(fitted, eps, self.eta), fitted, d)
        w, zeta = min(1.0, self.w / transition.steps), self.zeta / transition.steps
        fitted = clean + w * v
        g = pull / norm(v).view(-1, *[1] * (v.ndim - 1))
        return StepResult(transition.ddim(fitted, eps, self.eta) + zeta / (1 + tau) * g, fitted, d)

    def answer(self, given: Measurement, z: torch.Tensor, last: Level, ids: Sequence[int]) -> torch.Tensor:
        """Decode the last estimates and fit them to the measurement; with ``exact``, draw what both leave open."""
        y, sigma_v, r2 = given.y, given.noise_level, last.sigma**2 + ERROR**2
        if self.exact:
            z, r2 = z + last.sigma * given.stream.noise("answer", z.shape[1:], ids).to(z), last.sigma**2
            y = y + sigma_v * noise_like(y, lambda shape: given.stream.noise("answer y", shape, ids).to(z))
        return proximal(given.operator, y, given.prior.decode(z), variance(y, sigma_v) / r2)
