"""What particles are compared by: features of decoded latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from rsd.priors.base import Prior, multiplying
from rsd.priors.watch import ASKED, FEATURES, REMEDY, beyond, magnitude, watch_of

Features = Callable[[torch.Tensor], torch.Tensor]


class Decoded:
    """phi = features(D(z_t)), [N, d]: what the paper repels in. ``decode``: in the place of D, a cheaper one."""

    lean = False

    def __init__(self, prior: Prior, features: Features, decode: Features | None = None):
        self.prior, self.features, self.decode = prior, features, decode

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Features of latents [N, *latent_shape]. Raises ValueError, which names the network, if the decoder's pictures
        of latents within reason, or the features of such pictures, are not."""
        with multiplying(z.device, self.prior.autocast):
            x = (self.decode or self.prior.decode)(z).to(z.dtype)
            phi = checkpoint(self.features, x, use_reentrant=False) if self.lean else self.features(x)
        phi = phi.to(x.dtype)
        if x.is_meta:  # a dry run
            return phi
        most = float(magnitude(phi)) if phi.numel() else 0.0
        if not most <= FEATURES:
            watch_of(self.prior).check()  # its pictures may be at fault
            if float(magnitude(x)) <= ASKED:  # else the run diverged, which it says itself
                name = getattr(self.features, "name", None)
                told = f'The feature map "{name}"' if name else "The feature map"
                raise ValueError(f"{told} {beyond(most)}, of healthy pictures; choose other --features, or {REMEDY}")
        return phi

    def save_memory(self, lean: bool) -> None:
        """Whether the feature map's graph is made again when it is needed, not kept."""
        self.lean = lean
