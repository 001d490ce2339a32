"""Check that outputs of networks are plausible: finite and of a reasonable magnitude.

Damaged weights return values such as 1e30 or NaN for normal inputs, and half precision overflows. If a run diverges,
the inputs themselves are implausible and the network is not at fault: only outputs for plausible inputs count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

MAX_INPUT = 1e3
"""The largest plausible magnitude of an input: latents are about 1, pictures in [-1, 1]."""
MAX_OUTPUT = 1e4
"""That of an output picture, latent or noise, which are about 1 too."""
MAX_FEATURE = 1e15
"""That of features and measurements, which have any scale: sums of their squares still fit into float32."""


class Watch:
    """The largest output magnitude of each network since the last :meth:`check`. It is kept on the network's device;
    reading it synchronises, so it is checked once per step."""

    def __init__(self) -> None:
        self.most: dict[str, torch.Tensor] = {}
        self.limits: dict[str, float] = {}
        self.is_paused = False

    def see(self, network: str, answer: torch.Tensor, given: torch.Tensor | None, limit: float = MAX_OUTPUT) -> None:
        """Record an output ``answer`` for the input ``given`` (None: text), if that is plausible. ``network``: its
        name, as the subject of a sentence."""
        if self.is_paused or answer.is_meta or not answer.numel():  # on meta: a dry run
            return
        most = magnitude(answer)
        if given is not None and given.numel():
            asked = magnitude(given).to(most.device)
            most = torch.where(asked <= MAX_INPUT, most, torch.zeros_like(most))  # NaN is not plausible either
        before = self.most.get(network)
        self.most[network] = most if before is None else torch.maximum(before.to(most.device), most)
        self.limits[network] = limit

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore outputs inside the context, for a modified network that the run itself may have made diverge."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def check(self) -> None:
        """Raise ValueError for the first network with an implausible output; reset the record."""
        seen, self.most = self.most, {}
        if not seen:
            return
        device = next(iter(seen.values())).device
        values = torch.stack([most.to(device) for most in seen.values()]).tolist()  # one synchronisation for all
        for network, value in zip(seen, values, strict=True):
            if not value <= self.limits[network]:
                raise ValueError(f"{network} {beyond(value)}; {REMEDY}")


REMEDY = (
    "its weights are damaged or do not fit its configuration (download them again), or overflow in half precision "
    "(use --dtype float32)."
)


def beyond(value: float) -> str:
    """Describe outputs of that magnitude, as a predicate."""
    if value != value or value == float("inf"):
        return "returned values that are not finite (NaN or infinite)"
    return f"returned values of {value:.0e}, which is implausible"


def magnitude(x: torch.Tensor) -> torch.Tensor:
    """Return the largest |entry| on x's device; NaN if there is one."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x)
    return torch.linalg.vector_norm(x if x.is_floating_point() else x.float(), float("inf")).float()


def watch_of(thing: object) -> Watch:
    """Return the watch of a prior; a new one if it has none."""
    found = getattr(thing, "watch", None)
    return found if isinstance(found, Watch) else Watch()
