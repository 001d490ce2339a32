"""Count the FLOPs and bytes of a computation by a dry run on the device "meta", whose tensors have no values."""

from __future__ import annotations

import copy
import weakref
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")


def to_meta(thing: T) -> T:
    """Copy networks, or objects that hold them, to the device "meta". No weight is copied."""
    memo: dict[int, Any] = {}
    _collect(thing, memo, set())
    return copy.deepcopy(thing, memo)


def _collect(thing: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Fill deepcopy's ``memo`` with the replacement of each tensor and device in ``thing``."""
    if id(thing) in seen or isinstance(thing, (str, int, float, type, FunctionType)) or thing is None:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        shape = thing.detach().to("meta")
        memo[id(thing)] = nn.Parameter(shape, thing.requires_grad) if isinstance(thing, nn.Parameter) else shape
    elif isinstance(thing, torch.device):
        memo[id(thing)] = torch.device("meta")
    elif isinstance(thing, nn.Module):
        for tensor in (*thing.parameters(), *thing.buffers()):
            _collect(tensor, memo, seen)
    else:
        inside = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
        for part in (*inside, *getattr(thing, "__dict__", {}).values()):
            _collect(part, memo, seen)


def flops(network: Any, x: torch.Tensor) -> tuple[int, int]:
    """Return the FLOPs of ``network`` at x, and of the gradient with respect to x; a multiply-add counts as two."""
    x = x.detach().requires_grad_() * 1  # the counter does not accept leaves
    with FlopCounterMode(display=False) as count:
        out = network(x)
        forward = count.get_total_flops()
        torch.autograd.grad(out, x, torch.empty_like(out))
    return forward, count.get_total_flops() - forward


def weight(module: nn.Module | None) -> int:
    """Return the bytes of a network's parameters."""
    return 0 if module is None else sum(p.numel() * p.element_size() for p in module.parameters())


class Bytes(TorchDispatchMode):
    """Counts the bytes of tensors created inside it: ``now`` alive, and ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        before = {x.untyped_storage()._cdata for x in given}  # views and in-place results are not new
        for x in tree_leaves(found):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self._alive | before:
                self._add(x.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
