"""Measure what autograd keeps between forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def most_kept(work: Callable[[], Any]) -> int:
    """Return the peak number of bytes of saved tensors during ``work``."""
    live = peak = 0

    class Kept:
        def __init__(self, tensor):
            nonlocal live, peak
            self.tensor, self.bytes = tensor.detach(), tensor.nbytes  # no cycle with the node that keeps it
            live += self.bytes
            peak = max(peak, live)

        def __del__(self):
            nonlocal live
            live -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        work()
    return peak
