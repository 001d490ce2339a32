"""Whether networks answer what networks answer: finite values, of a magnitude within reason.

Damaged weights answer 1e30, or nothing finite, of healthy questions; half precision overflows. A run that diverged asks
such questions itself, and then it is not the network's fault: only answers to inputs within reason count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ASKED = 1e3
"""The greatest magnitude of an input within reason: latents are about 1, pictures within [-1, 1]."""
ANSWERED = 1e4
"""That of a picture, a latent or a noise: they are about 1 too."""
FEATURES = 1e15
"""That of numbers of any scale, features and measurements: their squares still have sums in float32."""


class Watch:
    """The greatest magnitude that each network answered since the last :meth:`check`. It is kept where the network
    computes, and looking at it waits for that, so that it is done once a step."""

    def __init__(self) -> None:
        self.most: dict[str, torch.Tensor] = {}
        self.limits: dict[str, float] = {}
        self.resting = False

    def see(self, network: str, answer: torch.Tensor, given: torch.Tensor | None, limit: float = ANSWERED) -> None:
        """Remember an ``answer`` to ``given`` (None: to text), if that was within reason. ``network``: whose it is, as
        the subject of a sentence."""
        if self.resting or answer.is_meta or not answer.numel():  # on meta: a dry run
            return
        most = magnitude(answer)
        if given is not None and given.numel():
            asked = magnitude(given).to(most.device)
            most = torch.where(asked <= ASKED, most, torch.zeros_like(most))  # NaN is not within reason either
        before = self.most.get(network)
        self.most[network] = most if before is None else torch.maximum(before.to(most.device), most)
        self.limits[network] = limit

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Do not look: what answers here is something else, that a run itself may have driven astray."""
        before, self.resting = self.resting, True
        try:
            yield
        finally:
            self.resting = before

    def check(self) -> None:
        """Raise ValueError, in one sentence, for the first network whose answers were not within reason; then forget
        them."""
        seen, self.most = self.most, {}
        if not seen:
            return
        device = next(iter(seen.values())).device
        values = torch.stack([most.to(device) for most in seen.values()]).tolist()  # one wait for all
        for network, value in zip(seen, values, strict=True):
            if not value <= self.limits[network]:
                raise ValueError(f"{network} {beyond(value)}; {REMEDY}")


REMEDY = (
    "mend it: its weights are damaged, or do not fit its configuration (get them again), or overflow in half precision "
    "(take --dtype float32)."
)


def beyond(value: float) -> str:
    """What is wrong with answers of that magnitude, as a predicate."""
    if value != value or value == float("inf"):
        return "answered values that are not finite (NaN or infinite)"
    return f"answered values of {value:.0e}, beyond reason"


def magnitude(x: torch.Tensor) -> torch.Tensor:
    """The greatest |entry|, a number on x's device; NaN if one is."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x)
    return torch.linalg.vector_norm(x if x.is_floating_point() else x.float(), float("inf")).float()


def watch_of(thing: object) -> Watch:
    """The watch of a prior; of one that has none, a new one, which nobody looks at."""
    found = getattr(thing, "watch", None)
    return found if isinstance(found, Watch) else Watch()
