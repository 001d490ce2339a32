"""Time contenders that alternate, and the share of their time inside networks; prepare the output file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def prepare_output(file: Path | None) -> None:
    """Create the folder of the output file before hours of work."""
    if file:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)


def clock(device: str) -> float:
    """Return seconds: the CPU time of a single thread, which other programs do not affect; otherwise the wall time
    after all kernels are done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def alternating(contenders: dict[str, Iterator[Any]], steps: int, device: str) -> dict[str, float]:
    """Return the mean seconds of a step of each; they alternate step by step, and each first step is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(steps):
        for name, run in contenders.items():
            start = clock(device)
            next(run)
            times[name].append(clock(device) - start)
    return {name: statistics.fmean(found[1:] or found) for name, found in times.items()}


class NetworkTimer:
    """Measure seconds spent in networks inside :meth:`watching`: forward passes, and backward passes from the gradient
    of the output to that of the input."""

    def __init__(self, device: str):
        self.device, self.seconds = device, 0.0
        self.started: list[float] = []

    def call(self, network: Any, x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """Return ``network`` of x, timed with its backward pass."""
        if x.requires_grad:
            x.register_hook(self._end)
        start = clock(self.device)
        out = network(x, *rest, **named)
        self.seconds += clock(self.device) - start
        if out.requires_grad:
            out.register_hook(self._begin)
        return out

    def _begin(self, _gradient: torch.Tensor) -> None:
        self.started.append(clock(self.device))

    def _end(self, _gradient: torch.Tensor) -> None:
        self.seconds += clock(self.device) - self.started.pop()

    @contextmanager
    def watching(self, prior: Any, embed: Any) -> Iterator[None]:
        """Time the calls of the prior and of the feature map in this context."""
        epsilon, decode, features = prior.epsilon, prior.decode, embed.features
        prior.epsilon = lambda z, *rest: self.call(epsilon, z, *rest)
        prior.decode = lambda z: self.call(decode, z)
        embed.features = lambda x: self.call(features, x)
        try:
            yield
        finally:
            del prior.epsilon, prior.decode
            embed.features = features
