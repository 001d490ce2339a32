"""Blur by a kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .base import Operator


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return x, in float32 if it is in half precision, which some functions of torch do not support."""
    return x if x.dtype == torch.float64 else x.float()


class Blur(Operator):
    """y = kernel * x, a convolution of each channel (the kernel is the image of a point).

    ``kernel``: [height, width], odd, sum 1, or [B, height, width], one for each image; if it is nowhere negative, y has
    range [-1, 1]. Padding: reflection without
    repeating the edge, by half the kernel. Computed by FFTs, whose cost does not grow with the kernel (61 x 61 at 512
    px); half precision is computed in float32.
    """

    kernel: torch.Tensor

    def __init__(self, kernel: torch.Tensor, name: str = "blur"):
        super().__init__(name, linear=True)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W]."""
        rows, columns = (side // 2 for side in self.kernel.shape[-2:])
        height, width = x.shape[-2:]
        if rows >= height or columns >= width:
            raise ValueError(
                f"The {self.name} reaches {max(rows, columns)} px to each side, past an image of {width} x {height} "
                "px; give a smaller blur or kernel, or a larger image."
            )
        padded = F.pad(at_least_float32(x), (columns, columns, rows, rows), mode="reflect")
        size = padded.shape[-2:]
        spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(self.kernel.to(padded.dtype), s=size).unsqueeze(-3)
        # drop the first rows and columns, which wrapped around in the circular convolution
        return torch.fft.irfft2(spectrum, s=size)[..., 2 * rows :, 2 * columns :].to(x.dtype)

    def adjoint(self, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return A^T y: the transposed convolution, and the padding folded back."""
        rows, columns = (side // 2 for side in self.kernel.shape[-2:])
        height, width = like.shape[-2:]
        size = torch.Size((height + 2 * rows, width + 2 * columns))
        wide = F.pad(at_least_float32(y), (2 * columns, 0, 2 * rows, 0))
        spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(self.kernel.to(wide.dtype), s=size).unsqueeze(-3).conj()
        x = torch.fft.irfft2(spectrum, s=size)
        return _folded(_folded(x, -2, rows), -1, columns).to(y.dtype)

    def first(self, y: torch.Tensor) -> torch.Tensor:
        """Return y."""
        return y

    def preconditioner(self, like: torch.Tensor, plus: float) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return E^T (K K^T + plus)^-1 E, E the even extension of a picture, after which the blur is a periodic
        convolution K: nearly the inverse of A A^T + plus for kernels that equal their mirror images; None for others,
        for which it saves nothing."""
        mirrored = (torch.allclose(self.kernel, self.kernel.flip(dim), atol=1e-7) for dim in (0, 1))
        if self.kernel.ndim == 3 or not all(mirrored):
            return None
        height, width = like.shape[-2:]
        size = torch.Size((max(1, 2 * height - 2), max(1, 2 * width - 2)))
        gain = 1 / (torch.fft.rfft2(_wrapped(at_least_float32(self.kernel), size)).abs().square() + max(plus, 1e-6))

        def inverse(u: torch.Tensor) -> torch.Tensor:
            for dim in (-2, -1):
                u = _even(u, dim)
            u = torch.fft.irfft2(torch.fft.rfft2(u) * gain, s=size)
            return _even_transposed(_even_transposed(u, -1, width), -2, height)

        return inverse


def _folded(x: torch.Tensor, dim: int, margin: int) -> torch.Tensor:
    """Return the transpose of padding by ``margin`` reflected entries at both ends of a dimension."""
    n = x.shape[dim] - 2 * margin
    if margin == 0:
        return x
    middle = x.narrow(dim, margin, n).clone()
    middle.narrow(dim, 1, margin).add_(x.narrow(dim, 0, margin).flip(dim))
    middle.narrow(dim, n - 1 - margin, margin).add_(x.narrow(dim, margin + n, margin).flip(dim))
    return middle


def _even(u: torch.Tensor, dim: int) -> torch.Tensor:
    """Return u [.., n, ..] extended to 2n - 2 entries that are even around both ends, scaled so that its length |u| is
    kept."""
    n = u.shape[dim]
    if n < 3:
        return u if n < 2 else u.clone()
    inner = u.narrow(dim, 1, n - 2) * 0.5**0.5
    return torch.cat([u.narrow(dim, 0, 1), inner, u.narrow(dim, n - 1, 1), inner.flip(dim)], dim)


def _even_transposed(v: torch.Tensor, dim: int, n: int) -> torch.Tensor:
    """Return the transpose of :func:`_even`, [.., n, ..]."""
    if n < 3:
        return v
    inner = (v.narrow(dim, 1, n - 2) + v.narrow(dim, n, n - 2).flip(dim)) * 0.5**0.5
    return torch.cat([v.narrow(dim, 0, 1), inner, v.narrow(dim, n - 1, 1)], dim)


def _wrapped(kernel: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return a kernel as a periodic picture of that size; larger kernels wrap around."""
    wrapped = kernel.new_zeros(size)
    rows, columns = (torch.arange(k, device=kernel.device) % n for k, n in zip(kernel.shape, size, strict=True))
    return wrapped.index_put_((rows[:, None], columns[None]), kernel, accumulate=True)
