"""Blur that nobody has measured: the width of a Gaussian from the spectrum, and small kernels from the estimates.

The width is that of greatest marginal likelihood if photographs were Gaussian with a power-law spectrum, which they are
in their second moments (Whittle's likelihood): |Y(f)|^2 has the mean c f^-a G_s(f)^2 + sigma_v^2. A picture that is
merely smooth looks as if it were blurred, so the width is uncertain by the share :data:`DOUBT`.

A kernel of any shape is estimated together with the picture: each particle fits, at each step, the kernel that blurs
its own estimate to y, least squares with a penalty on the kernel's size, then cut to non-negative numbers. What the
particles' kernels disagree about is unknown.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .base import Operator
from .blur import Blur

SLOPES = torch.linspace(2.2, 3.0, 3, dtype=torch.float64)
"""Exponents a of the power spectrum of photographs, all as likely."""
NATIVE = 0.35
"""Standard deviation in px of the blur that a picture has in itself: lens, sensor and shrinking."""
DOUBT = 0.1
"""Relative standard deviation of an estimated width on training photographs."""
WIDTHS = torch.exp(torch.linspace(math.log(0.2), math.log(8.0), 120, dtype=torch.float64))


def spectrum(y: torch.Tensor, bins: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the power of the brightness of a picture [1, C, H, W] at radial frequencies, float64 [bins] each:
    frequencies in cycles per px from 0.02 to 0.5, mean power per entry, and the number of entries."""
    light = y.double().mean(1)[0]
    light = light - light.mean()
    height, width = light.shape
    window = torch.outer(torch.hann_window(height, periodic=False), torch.hann_window(width, periodic=False)).double()
    power = torch.fft.fft2(light * window).abs().square() / window.square().sum()
    radius = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2).sqrt()
    place = ((radius - 0.02) / (0.5 - 0.02) * bins).floor().long()
    inside = (place >= 0) & (place < bins)
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, place[inside], torch.ones_like(power[inside]))
    total = torch.zeros(bins, dtype=torch.float64).index_add_(0, place[inside], power[inside])
    frequency = torch.zeros(bins, dtype=torch.float64).index_add_(0, place[inside], radius[inside].double())
    some = count > 0
    return frequency[some] / count[some], total[some] / count[some], count[some]


def estimate_blur(y: torch.Tensor, sigma_v: float) -> float:
    """Return the standard deviation in px of the Gaussian that blurred a picture [1, C, H, W]; ``sigma_v``: the noise
    of each channel."""
    f, power, count = spectrum(y)
    noise = sigma_v**2 / y.shape[1]
    best, most = 0.0, -math.inf
    gain = torch.exp(-4 * math.pi**2 * (WIDTHS**2 + NATIVE**2)[:, None] * f**2)
    for a in SLOPES:
        shape = f**-a * gain  # [widths, bins]
        # the scale c of greatest likelihood, on a grid around what the low frequencies say
        c0 = (power[:6] / shape[:, :6]).mean(1)
        for factor in torch.exp(torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)):
            mean = (factor * c0)[:, None] * shape + noise + 1e-12
            fit = -(count * (mean.log() + power / mean)).sum(1)
            k = int(fit.argmax())
            if float(fit[k]) > most:
                best, most = float(WIDTHS[k]), float(fit[k])
    return best


class BlindBlur(Operator):
    """y = kernel * x with an unknown kernel of at most ``side`` x ``side`` px (odd); range [-1, 1], padding as
    :class:`Blur`.

    ``kernel``: what it is before anything is estimated, a point. :meth:`refit` returns a blur whose kernels, one a row,
    are estimated from denoised estimates; ``penalty``: of their squares, relative to the power of the edges."""

    blind = True
    kernel: torch.Tensor

    def __init__(self, side: int = 15, penalty: float = 0.02):
        if side % 2 == 0 or not 3 <= side <= 31:
            raise ValueError(f"The side of the unknown kernel is {side} px; give an odd number from 3 to 31.")
        super().__init__("blur with an unknown kernel", linear=False)
        self.side, self.penalty = side, penalty
        point = torch.zeros(side, side)
        point[side // 2, side // 2] = 1
        self.register_buffer("kernel", point, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], with the kernel as it is."""
        return Blur(self.kernel)(x)

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y."""
        return y

    def refit(self, y: torch.Tensor, d: torch.Tensor) -> Blur:
        """Return the blur from each of d [n, 3, H, W] to y [1, 3, H, W], with kernels [n, side, side]."""
        return Blur(fit_kernels(y, d, self.side, self.penalty), self.name)


def fit_kernels(y: torch.Tensor, d: torch.Tensor, side: int, penalty: float) -> torch.Tensor:
    """Return the kernels [n, side, side] of sum 1, nowhere negative, that blur d [n, 3, H, W] to y [1, 3, H, W]: least
    squares of the differences of neighbours, of which only those at edges of d count."""
    n, _, height, width = d.shape
    half = side // 2
    light = (d.float().mean(1), y.float().mean(1).expand(n, -1, -1))
    top, bottom = 0.0, torch.zeros(n, 1, 1, device=d.device)
    window = torch.outer(torch.hann_window(height), torch.hann_window(width)).to(light[0])
    for dim in (-2, -1):
        a, b = (x.diff(dim=dim, append=x.narrow(dim, -1, 1)) * window for x in light)
        strong = a.abs().flatten(1).kthvalue(math.ceil(0.8 * height * width), dim=1).values.view(-1, 1, 1)
        a = torch.where(a.abs() >= strong, a, 0)
        a, b = torch.fft.rfft2(a), torch.fft.rfft2(b)
        top, bottom = top + a.conj() * b, bottom + a.abs().square()
    mean = bottom.flatten(1).mean(1).view(-1, 1, 1)
    whole = torch.fft.irfft2(top / (bottom + penalty * mean), s=(height, width))
    kernel = whole.roll((half, half), (-2, -1))[:, :side, :side]
    kernel = torch.where(kernel > 0.05 * kernel.amax((-2, -1), keepdim=True), kernel, 0)
    total = kernel.sum((-2, -1), keepdim=True)
    point = torch.zeros_like(kernel)
    point[:, half, half] = 1
    kernel = torch.where(total > 1e-6, kernel / total.clamp(min=1e-6), point)
    return _centred(kernel)


def _centred(kernel: torch.Tensor) -> torch.Tensor:
    """Return kernels shifted by whole pixels so that their centres of mass are in the middle: a shift of the kernel and
    the opposite one of the picture cancel."""
    side = kernel.shape[-1]
    place = torch.arange(side, dtype=kernel.dtype, device=kernel.device) - side // 2
    rows = (kernel.sum(-1) * place).sum(-1).round().long().tolist()
    columns = (kernel.sum(-2) * place).sum(-1).round().long().tolist()
    moved = []
    for one, down, right in zip(kernel, rows, columns, strict=True):
        padded = F.pad(one, (side, side, side, side))
        moved.append(padded[side + down : 2 * side + down, side + right : 2 * side + right])
    made = torch.stack(moved)
    return made / made.sum((-2, -1), keepdim=True)
