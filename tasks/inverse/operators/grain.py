"""Noise itself as the damage, Gaussian or of photon counts, its estimation from one picture, and lost colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rsd.formats import LUMA

from .base import Operator

PATCH = 5
"""Side of the patches of :func:`estimate_sigma` in pixels."""
PATCHES = 60_000
"""At most so many patches are compared."""
MANY = 200
"""Mean counts above which a Poisson distribution is nearly normal."""


class Denoise(Operator):
    """y = x with Gaussian noise; range [-1, 1], no padding."""

    gram_scale = 1.0

    def __init__(self, sigma: float | None = None):
        super().__init__("denoising", linear=True)
        self.sigma = sigma
        """The noise as estimated from a picture; None: sigma_v."""

    def noise_level(self, sigma_v: float) -> float:
        """Return the estimated noise, or sigma_v."""
        return sigma_v if self.sigma is None else self.sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W]."""
        return x.clone()

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y."""
        return y


class PoissonDenoise(Operator):
    """y = counts / peak of photons, Poisson with mean peak x, x and y mapped to [0, 1] and back; no padding.

    ``peak``: the mean count at white. Its measurements have no Gaussian noise: sigma_v is the noise at mid-grey,
    2 sqrt(0.5 / peak) (:attr:`sigma`), in whose units residuals are.
    """

    def __init__(self, peak: float):
        if not 1 <= peak <= 1e6:
            raise ValueError(f"The peak of the photon counts is {peak:g}; give 1 to 1,000,000, the count at white.")
        super().__init__(f"denoising of photon counts, {peak:g} at white", linear=False)
        self.peak, self.sigma = peak, 2 * (0.5 / peak) ** 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W]."""
        return x.clone()

    def noise_level(self, sigma_v: float) -> float:
        """Return the noise at mid-grey."""
        return self.sigma

    def add_noise(self, y: torch.Tensor, normal: torch.Tensor, sigma_v: float) -> torch.Tensor:
        """Return counts with the mean of the noiseless y: the quantiles of a Poisson distribution (of a mean above
        200, where it is nearly normal, by Anscombe's root) that belong to the normal numbers."""
        mean, normal = self.peak * ((y.double() + 1) / 2).clamp(0, 1), normal.double()
        many = ((mean + 3 / 8).sqrt() + normal / 2).square().sub(3 / 8).clamp(min=0).round()
        few = mean <= MANY
        count = many.masked_scatter(few, _quantiles(mean[few], normal[few])) if few.any() else many
        return (2 * count / self.peak - 1).to(y)

    def proximal(self, y: torch.Tensor, d: torch.Tensor, tau: float) -> torch.Tensor:
        """Return argmin_x sigma^2 N(x) + tau/2 |x - d|^2, N the negative log-likelihood of the counts: the root of a
        quadratic equation."""
        u, c = (d + 1) / 2, ((y + 1) / 2).clamp(min=0) * self.peak
        weight = 4 * tau / self.sigma**2  # of (v - u)^2 / 2 beside peak v - c log v
        b = self.peak / weight - u
        root, product = (b.square() + 4 * c / weight).sqrt(), c / weight
        # For b > 0 root - b would cancel. 2 v - 1 with v the positive root:
        return 2 * torch.where(b > 0, 2 * product / (root + b.clamp(min=0)), (root - b) / 2) - 1

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y."""
        return y


class Colorize(Operator):
    """y = the brightness 0.299 R + 0.587 G + 0.114 B, [B, 1, H, W]; range [-1, 1], no padding."""

    gram_scale = sum(w**2 for w in LUMA)

    def __init__(self) -> None:
        super().__init__("colouring", linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1, H, W]."""
        return torch.einsum("c,bchw->bhw", x.new_tensor(LUMA), x)[:, None]

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y as a grey picture."""
        return y.expand(-1, 3, -1, -1)

    def picture(self, y: torch.Tensor) -> torch.Tensor:
        """Return y in grey."""
        return y.detach().expand(-1, 3, -1, -1)


def _quantiles(mean: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Return the quantiles of Poisson distributions that belong to normal numbers."""
    uniform = 0.5 * (1 + torch.erf(normal / 2**0.5))
    count, term = torch.zeros_like(mean), torch.exp(-mean)
    total, most = term.clone(), float(mean.max())
    for k in range(1, int(most + 10 * most**0.5 + 20)):
        count += total < uniform
        term = term * mean / k
        total += term
    return count


def estimate_sigma(y: torch.Tensor) -> float:
    """Return the standard deviation of white Gaussian noise in a picture [1, C, H, W] of at least 16 x 16 px.

    The noise alone fills the smallest eigenvalues of the covariance of patches. Chen, Zhu & Heng 2015, "An Efficient
    Statistical Method for Image Noise Level Estimation": the largest are removed until the mean of the others is no
    more than their median. Cut highlights and shadows have less noise: patches with values at the ends are left out if
    enough others remain."""
    most = F.max_pool2d(y.abs().amax(1, keepdim=True), PATCH, stride=1)[0, 0]  # of each patch
    inside = most < 1 - 1e-6
    if int(inside.sum()) <= 20 * y.shape[1] * PATCH**2:
        inside = torch.ones_like(inside)
    rows, columns = inside.nonzero(as_tuple=True)
    every = -(-len(rows) // PATCHES)
    rows, columns = (place[::every, None] for place in (rows, columns))
    down, across = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    patches = y[0][:, rows + down.flatten(), columns + across.flatten()].double().transpose(0, 1).flatten(1)
    values = torch.linalg.eigvalsh(torch.cov(patches.T)).clamp(min=0)
    for count in range(len(values), 0, -1):
        mean = float(values[:count].mean())
        if mean <= float(values[:count].quantile(0.5)) or count == 1:
            return float(mean**0.5)
    raise AssertionError


def estimate_peak(y: torch.Tensor) -> float:
    """Return the count at white of a picture [1, 3, H, W] of photon counts: in the square root of the counts the noise
    is 1/2 everywhere, up to dark pixels."""
    return 0.25 / max(estimate_sigma(((y + 1) / 2).clamp(min=0).sqrt()), 1e-4) ** 2
