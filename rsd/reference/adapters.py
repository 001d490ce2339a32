"""Learned additions to a prior's UNet: low-rank adapters on its attention, and an embedding of the camera."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""The attention projections with adapters; the last two are text projections in UNets like DeepFloyd IF's."""


class CameraEmbedding(nn.Module):
    """Adds an embedding of ``numbers`` per picture to the time embedding of ``unet``, through Linear, SiLU, Linear,
    as ProlificDreamer conditions its score on the camera.

    The first layer is drawn from ``random``; the last starts at 0, so that nothing is added at first. The hook is
    active only inside :meth:`on`. At least float32."""

    def __init__(self, unet: Any, numbers: int, random: torch.Generator):
        super().__init__()
        width = unet.time_embedding.linear_2.out_features
        with seeded(random):
            self.layers = nn.Sequential(nn.Linear(numbers, width), nn.SiLU(), nn.Linear(width, width))
        for zero in self.layers[-1].parameters():
            nn.init.zeros_(zero)
        self.precision = torch.float64 if unet.dtype == torch.float64 else torch.float32
        self.to(unet.device, self.precision)

    @contextmanager
    def on(self, unet: Any, numbers: torch.Tensor) -> Iterator[None]:
        """Condition calls of ``unet`` on pictures [B, ...] on ``numbers``, [B, k] or [1, k]."""

        def add(_module: nn.Module, _inputs: Any, embedding: torch.Tensor) -> torch.Tensor:
            return embedding + self.layers(numbers.to(embedding.device, self.precision)).to(embedding.dtype)

        hook = unet.time_embedding.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


class Adapters(nn.Module):
    """LoRA (Hu et al. 2022) with the given ``rank`` and scale 1 on every attention projection of ``unet``: B A x is
    added to the projection's output at x, with A drawn from ``random`` and B starting at 0.

    The hooks are active only inside :meth:`on`; the UNet's modules do not change. At least float32."""

    def __init__(self, unet: Any, rank: int, random: torch.Generator):
        super().__init__()
        found = projections(unet)
        self.paths = list(found)
        with seeded(random):
            self.pairs = nn.ModuleList(_pair(layer.in_features, rank, layer.out_features) for layer in found.values())
        self.precision = torch.float64 if unet.dtype == torch.float64 else torch.float32
        self.to(unet.device, unet.dtype).to(self.precision)  # round A to the UNet's precision

    @contextmanager
    def on(self, unet: Any) -> Iterator[None]:
        """Activate the adapters in calls of ``unet``."""
        with ExitStack() as stack:
            for path, pair in zip(self.paths, self.pairs, strict=True):
                hook = unet.get_submodule(path).register_forward_hook(partial(self._add, pair))
                stack.callback(hook.remove)
            yield

    def _add(self, pair: nn.Module, _layer: nn.Module, inputs: Any, answer: torch.Tensor) -> torch.Tensor:
        return (answer + pair(inputs[0].to(self.precision))).to(answer.dtype)


def projections(unet: Any) -> dict[str, Any]:
    """Return the attention projections of ``unet`` by path, including any adapters that they already have."""
    return {path: layer for path, layer in unet.named_modules() if any(f".{path}".endswith(f".{t}") for t in TARGETS)}


def _pair(inputs: int, rank: int, outputs: int) -> nn.Sequential:
    """Return x -> B A x, initialised as peft does: A like a linear layer's weight, drawn again after both."""
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=5**0.5)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)


@contextmanager
def seeded(random: torch.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator with ``random``'s seed inside the context; leave other devices' unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(random.initial_seed())  # torch.manual_seed would seed the GPUs too
        yield
