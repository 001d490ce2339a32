"""Times of contenders that take turns, and the share of them that is spent inside networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def clock(device: str) -> float:
    """Seconds. Of one CPU thread its own time, which other programs do not stretch; else the wall's, kernels done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def alternating(contenders: dict[str, Iterator[Any]], steps: int, device: str) -> dict[str, float]:
    """Mean seconds of a step of each; they take turns, step by step, and the first step of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(steps):
        for name, run in contenders.items():
            start = clock(device)
            next(run)
            times[name].append(clock(device) - start)
    return {name: statistics.fmean(found[1:] or found) for name, found in times.items()}


class Inside:
    """Seconds spent in networks while :meth:`watching`: their forward passes, and from the gradient of their output to
    that of their input."""

    def __init__(self, device: str):
        self.device, self.seconds = device, 0.0
        self.began: list[float] = []

    def call(self, network: Any, x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """``network`` of x, timed, its backward pass too."""
        if x.requires_grad:
            x.register_hook(self._end)
        start = clock(self.device)
        out = network(x, *rest, **named)
        self.seconds += clock(self.device) - start
        if out.requires_grad:
            out.register_hook(self._begin)
        return out

    def _begin(self, _gradient: torch.Tensor) -> None:
        self.began.append(clock(self.device))

    def _end(self, _gradient: torch.Tensor) -> None:
        self.seconds += clock(self.device) - self.began.pop()

    @contextmanager
    def watching(self, prior: Any, embed: Any) -> Iterator[None]:
        """Inside, the prior's and the feature map's calls are timed."""
        epsilon, decode, features = prior.epsilon, prior.decode, embed.features
        prior.epsilon = lambda z, *rest: self.call(epsilon, z, *rest)
        prior.decode = lambda z: self.call(decode, z)
        embed.features = lambda x: self.call(features, x)
        try:
            yield
        finally:
            del prior.epsilon, prior.decode
            embed.features = features
