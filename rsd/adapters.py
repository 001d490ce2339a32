"""What a learned score adds to a prior's UNet: low-rank adapters on its attention, and numbers that it is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rsd.hub import quietly

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""The attention projections that have adapters; the last two are those of the text in UNets of DeepFloyd IF's class."""


class Told(nn.Module):
    """``numbers`` a picture, added to the time embedding of ``unet`` through Linear, SiLU, Linear, as ProlificDreamer
    tells its score the camera. The last layer starts at 0, so that nothing is added at first; the first is drawn from
    ``random``. The UNet is not changed, and hears nothing outside :meth:`telling`. float32 at least."""

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
    def telling(self, unet: Any, numbers: torch.Tensor) -> Iterator[None]:
        """Calls of ``unet`` on pictures [B, ...] are told ``numbers``, [B, k] or [1, k]."""

        def add(_module: nn.Module, _inputs: Any, embedding: torch.Tensor) -> torch.Tensor:
            return embedding + self.layers(numbers.to(embedding.device, self.precision)).to(embedding.dtype)

        hook = unet.time_embedding.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


def add_adapter(unet: Any, name: str, rank: int, random: torch.Generator) -> None:
    """Put LoRA of that rank on every attention projection of ``unet``: B is 0, A from ``random``; float32 where the
    UNet is in half precision. Raises ImportError without peft."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("VSD with LoRA needs peft: pip install peft.") from error
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS))
    with quietly(), seeded(random), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several adapters: as intended
        unet.add_adapter(config, adapter_name=name)
    for path, parameter in unet.named_parameters():
        if f".{name}." in path and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def adapted_layers(unet: Any) -> list[Any]:
    """The layers of ``unet`` that have adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def seeded(random: torch.Generator) -> Iterator[None]:
    """Draw from torch's global CPU generator as ``random`` would, and leave it as it was; other devices' stay."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(random.initial_seed())  # torch.manual_seed would seed the GPUs too
        yield


def remove_adapters(unet: Any, names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet.delete_adapters(names)
