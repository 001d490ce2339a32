"""RealNVP (Dinh et al. 2017): a normalizing flow of affine couplings, here over all pixels at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class Coupling(nn.Module):
    """One half of the entries, x_a, scales and shifts the other: x_b <- x_b exp(s(x_a)) + t(x_a), with |s| below 1. It
    starts as the identity."""

    mask: torch.Tensor

    def __init__(self, d: int, hidden: int, mask: torch.Tensor):
        super().__init__()
        self.register_buffer("mask", mask)
        self.first, self.second = nn.Linear(d, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 2 * d)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the transformed x [B, d], and each entry's log-scale [B, d]."""
        inside = F.gelu(self.second(F.gelu(self.first(x * self.mask))))
        s, t = self.out(inside).chunk(2, dim=1)
        s, t = s.tanh() * ~self.mask, t * ~self.mask
        return x * s.exp() + t, s


class RealNVP(nn.Module):
    """x = flow(n), n ~ N(0, I) [B, d]. After the couplings each entry has its own scale and mean, initially ``spread``
    and 0."""

    def __init__(self, d: int, *, layers: int, hidden: int, spread: float, generator: torch.Generator):
        super().__init__()
        order = torch.randperm(d, generator=generator) % 2 == 0  # alternating halves
        couplings = [Coupling(d, hidden, order if k % 2 else ~order) for k in range(layers)]
        self.couplings = nn.ModuleList(couplings)
        self.log_scale, self.shift = nn.Parameter(torch.full((d,), math.log(spread))), nn.Parameter(torch.zeros(d))
        for coupling in couplings:
            for layer in (coupling.first, coupling.second):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, n: torch.Tensor, blur: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x [B, d] and log q(x) [B]. With ``blur``, a standard deviation, return instead a value with the mean
        of log q at x plus noise of that deviation, for independent entries."""
        log_n = -0.5 * n.square().sum(1) - n.shape[1] / 2 * math.log(2 * math.pi)
        x, log_scale = n, self.log_scale.expand_as(n)
        for coupling in self.couplings:
            x, s = coupling(x)
            log_scale = log_scale + s
        if blur:
            log_scale = torch.logaddexp(2 * log_scale, torch.full_like(log_scale, 2 * math.log(blur))) / 2
        return x * self.log_scale.exp() + self.shift, log_n - log_scale.sum(1)
