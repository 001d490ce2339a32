"""What a learned score adds to a prior's UNet: low-rank adapters on its attention, and numbers that it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""The attention projections that have adapters; the last two are those of the text in UNets of DeepFloyd IF's class."""


class CameraEmbedding(nn.Module):
    """``numbers`` a picture, added to the time embedding of ``unet`` through Linear, SiLU, Linear, as ProlificDreamer
    tells its score the camera. The last layer starts at 0, so that nothing is added at first; the first is drawn from
    ``random``. The UNet is not changed, and hears nothing outside :meth:`on`. float32 at least."""

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
        """Calls of ``unet`` on pictures [B, ...] are told ``numbers``, [B, k] or [1, k]."""

        def add(_module: nn.Module, _inputs: Any, embedding: torch.Tensor) -> torch.Tensor:
            return embedding + self.layers(numbers.to(embedding.device, self.precision)).to(embedding.dtype)

        hook = unet.time_embedding.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


class Adapters(nn.Module):
    """LoRA (Hu et al. 2022) of that ``rank`` and scale 1 on every attention projection of ``unet``: B A x is added to
    what a projection answers to x, where A is drawn from ``random`` and B starts at 0. The UNet is not changed, so that
    it can be saved at any time, and knows nothing of them outside :meth:`on`. float32 at least."""

    def __init__(self, unet: Any, rank: int, random: torch.Generator):
        super().__init__()
        found = projections(unet)
        self.paths = list(found)
        with seeded(random):
            self.pairs = nn.ModuleList(_pair(layer.in_features, rank, layer.out_features) for layer in found.values())
        self.precision = torch.float64 if unet.dtype == torch.float64 else torch.float32
        self.to(unet.device, unet.dtype).to(self.precision)  # A begins as the UNet's precision has it

    @contextmanager
    def on(self, unet: Any) -> Iterator[None]:
        """Calls of ``unet`` go through the adapters."""
        with ExitStack() as stack:
            for path, pair in zip(self.paths, self.pairs, strict=True):
                hook = unet.get_submodule(path).register_forward_hook(partial(self._add, pair))
                stack.callback(hook.remove)
            yield

    def _add(self, pair: nn.Module, _layer: nn.Module, inputs: Any, answer: torch.Tensor) -> torch.Tensor:
        return (answer + pair(inputs[0].to(self.precision))).to(answer.dtype)


def projections(unet: Any) -> dict[str, Any]:
    """The attention projections of ``unet`` by their paths; one that has adapters of its owner's counts with them."""
    return {path: layer for path, layer in unet.named_modules() if any(f".{path}".endswith(f".{t}") for t in TARGETS)}


def _pair(inputs: int, rank: int, outputs: int) -> nn.Sequential:
    """x to B A x, begun as by peft: A as a linear layer's weight, drawn once more after both."""
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=5**0.5)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)


@contextmanager
def seeded(random: torch.Generator) -> Iterator[None]:
    """Draw from torch's global CPU generator as ``random`` would, and leave it as it was; other devices' stay."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(random.initial_seed())  # torch.manual_seed would seed the GPUs too
        yield
