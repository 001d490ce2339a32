"""Trade memory for time, with the same results: how many particles go through a network at once, which graphs are kept.

fast   keep the graphs of all particles' features until the force is backpropagated
flat   recompute them chunk by chunk, so that memory does not grow with N
lean   also checkpoint the decoder's blocks and the feature map
auto   the first of these that fits into the free memory, by a dry run of the networks (rsd.memory.meta)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from rsd.distributed import processes
from rsd.errors import RankWarning, is_out_of_memory
from rsd.memory.meta import Bytes, to_meta
from rsd.memory.usage import available

T = TypeVar("T")
GIB = 2**30
SHARE = 0.8
"""The part of the free memory that a plan may use; the rest is for workspaces and fragmentation."""
LATENT, PIXEL, SMALL = 64 * 2**10, 2**20, 64
"""Upper bounds of bytes per pixel for networks on latents (Stable Diffusion's UNet, decoder and encoder in one graph:
47 KiB) and on pixels (DeepFloyd IF-XL's UNet with its gradient: 595 KiB). Up to images of side SMALL they replace a dry
run, which would take longer than a step."""


@runtime_checkable
class Thrifty(Protocol):
    """A prior or feature map that supports gradient checkpointing."""

    def save_memory(self, lean: bool) -> None:
        """Switch checkpointing on or off."""
        ...


@dataclass
class Memory:
    """``chunk``: particles that go through a network at once; None: all. ``keep``: keep the features' graphs of all
    chunks. ``lean``: use checkpointing. ``why``: the reason of the plan in a line. ``parts``: the prior and the feature
    map, for :func:`save_memory`."""

    chunk: int | None = None
    keep: bool = False
    lean: bool = False
    why: str = ""
    parts: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    def each(self, n: int, work: Callable[[slice], T], graphs: dict[Any, Any] | None = None) -> list[T]:
        """Apply ``work`` to n rows, one chunk at a time.

        If memory is full, permanently need less and repeat the chunk: drop ``graphs`` and keep no more; without graphs
        halve the chunk; at one row use checkpointing. So ``work`` must have no effect if it raises, and must not
        communicate with other processes."""
        found: list[T] = []
        row = 0
        while row < n:
            rows = slice(row, min(row + (self.chunk or n), n))
            try:
                found.append(work(rows))
                row = rows.stop
                continue
            except Exception as error:
                if not (is_out_of_memory(error) and self._less(rows.stop - row, graphs)):
                    raise
            if torch.cuda.is_available():  # the error, and the memory that it kept alive, is gone
                torch.cuda.empty_cache()
        return found

    def _less(self, rows: int, graphs: dict[Any, Any] | None) -> bool:
        """Need less memory from now on, with a warning; return False if that is not possible."""
        held = bool(graphs)
        if graphs:
            graphs.clear()  # free them in any case
        if held and self.keep:
            self.keep = False
            change = "features are computed twice from now on (--memory flat)"
        elif rows > 1:
            self.chunk = rows // 2
            change = f"{self.chunk} instead of {rows} particles go through a network at once from now on (--chunk)"
        elif not self.lean and any(isinstance(part, Thrifty) for part in self.parts):
            self.lean = True
            save_memory(True, *self.parts)
            change = "parts of the graphs are recomputed from now on (--memory lean)"
        else:
            return False
        warnings.warn(f"Memory is full{processes().label}: {change}; the step continues.", RankWarning, stacklevel=4)
        return True


@dataclass(frozen=True)
class Need:
    """Bytes per particle, temporary: for the prior's prediction (with its gradient if the method needs it), the graph
    of the features, their vector-Jacobian product including that graph, and the decoder's. ``state``: permanent."""

    epsilon: int
    graph: int
    pull: int
    decode: int
    state: int = 0

    def of(self, n: int, chunk: int, keep: bool) -> int:
        """Return the peak of n particles, ``chunk`` at once."""
        pull = (n - chunk) * self.graph * keep + chunk * self.pull
        return n * self.state + max(chunk * self.epsilon, pull, chunk * self.decode)


def needs(prior: Any, embed: Any, condition: Any, *, lean: bool, through: Sequence[str] = (), state: int = 0) -> Need:
    """Measure the bytes per particle by a dry run (see :func:`plan`). Raises the errors of networks without support."""
    prior, embed, condition = to_meta((prior, embed, condition))
    save_memory(lean, prior, embed)
    epsilon = max(of_prediction(prior, condition), of_chain(prior, condition, through))
    graph, pull = of_features(prior, embed) if embed else (0, 0)
    return Need(epsilon, graph, pull, of_chain(prior, condition, ("decode",)), state)


def of_prediction(prior: Any, condition: Any) -> int:
    """Return the peak of the prediction without its gradient; for a prior on the device "meta", as those below."""
    with torch.no_grad(), Bytes() as count:
        prior.epsilon(_latent(prior), prior.schedule.T // 2, condition)
    return count.peak


def of_chain(prior: Any, condition: Any, through: Sequence[str]) -> int:
    """Return the peak of the gradient through these of the prior's functions, one after another; 0 without any."""

    def chain(x: torch.Tensor) -> torch.Tensor:
        for name in through:
            x = prior.epsilon(x, prior.schedule.T // 2, condition) if name == "epsilon" else getattr(prior, name)(x)
        return x

    return _differentiated(chain, _latent(prior))[1] if through else 0


def of_features(prior: Any, embed: Any) -> tuple[int, int]:
    """Return the bytes of the features' graph, and the peak of its vector-Jacobian product."""
    return _differentiated(embed, _latent(prior))


def _latent(prior: Any) -> torch.Tensor:
    return torch.empty(1, *prior.latent_shape, dtype=prior.dtype, device="meta")


def _differentiated(network: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> tuple[int, int]:
    """Return the bytes of a network's graph, and the peak of its vector-Jacobian product."""
    z.requires_grad_()
    with Bytes() as count:
        out = network(z)
        graph = count.now
        torch.autograd.grad(out, z, torch.empty_like(out))
    return graph, count.peak


def save_memory(lean: bool, *parts: Any) -> None:
    """Switch checkpointing of the parts that support it on or off."""
    for part in parts:
        if isinstance(part, Thrifty):
            part.save_memory(lean)


def plan(
    mode: str, *, chunk: int | None, n: int, prior: Any, embed: Any = None, condition: Any = None,
    through: Sequence[str] = (), state: int = 0,
) -> Memory:  # fmt: skip
    """Plan the memory of a run of n particles in this process.

    ``mode``: fast, flat, lean or auto. ``chunk``: given by the user; None: all for fast, as many as fit for auto, one
    otherwise. ``embed``: the feature map of the force, or None. ``condition``: of the prior. ``through``: the prior's
    functions that the method differentiates in one graph, of "epsilon", "decode", "encode" in that order. ``state``:
    bytes of a particle and its optimiser's moments.
    """
    if mode == "auto":
        found = _measured(chunk, n, prior, embed, condition, through, state)
    else:
        found = Memory(chunk or (None if mode == "fast" else 1), keep=mode == "fast", lean=mode == "lean")
    found.parts = prior, embed
    return found


def _measured(
    chunk: int | None, n: int, prior: Any, embed: Any, condition: Any, through: Sequence[str], state: int
) -> Memory:
    """Return the plan of "auto"."""
    free = available(prior.device)
    small = n * prior.image_size**2 * (LATENT if prior.latent else PIXEL)
    if prior.image_size <= SMALL and small < SHARE * free:
        return Memory(chunk, keep=True, why=f"fast, less than {_gib(small)} of the {_gib(free)} free")
    try:
        need, lean = (needs(prior, embed, condition, lean=k, through=through, state=state) for k in (False, True))
    except Exception:  # a user's networks may not support a dry run
        why = f"flat, {chunk or 1} of {n} particles at once, since the memory of these networks cannot be measured"
        return Memory(chunk or 1, why=f"{why} (--memory fast may be faster)")
    return fitting(need, lean, n, chunk, free)


class Plans:
    """Plans shared by runs with the same networks, so that a run starts with the reduced memory of the one before.
    ``report``: called with each new plan's ``why``."""

    def __init__(self, report: Callable[[str], None]):
        self.report, self.plans, self.alive = report, dict[Any, Memory](), list[Any]()

    def __call__(self, mode: str, *, embed: Any = None, condition: Any = None, prior: Any, **rest: Any) -> Memory:
        """Return the plan for these arguments; see :func:`plan`."""
        guided = condition is not None and condition.negative is not None
        shape = tuple(getattr(prior, "latent_shape", ()))
        networks = getattr(embed, "features", embed), getattr(embed, "decode", None)  # a run may wrap them anew
        key = mode, *map(id, networks), guided, shape, *sorted(rest.items())
        if key not in self.plans:
            self.alive += networks  # so that ids are unique
            self.plans[key] = plan(mode, embed=embed, condition=condition, prior=prior, **rest)
            if self.plans[key].why:
                self.report(self.plans[key].why)
        self.plans[key].parts = prior, embed
        return self.plans[key]


def fitting(need: Need, lean: Need, n: int, chunk: int | None, free: int) -> Memory:
    """Return the first plan that fits into SHARE of ``free``: keep graphs, then recompute them, in chunks halved from n
    to 1, then ``lean`` with chunks of one; the last even if it does not fit."""
    sizes = [chunk] if chunk else [max(1, n >> k) for k in range(n.bit_length())]
    plans = [Memory(size, keep=keep) for keep in (True, False) for size in sizes] + [Memory(chunk or 1, lean=True)]
    takes = [(lean if one.lean else need).of(n, min(one.chunk or n, n), one.keep) for one in plans]
    best = next((k for k, size in enumerate(takes) if size <= SHARE * free), len(plans) - 1)
    found = plans[best]
    name = "fast" if found.keep else "lean" if found.lean else "flat"
    found.why = f"{name}, {found.chunk} of {n} particles at once: {_gib(takes[best])} of the {_gib(free)} free"
    if best:
        found.why += f" (all at once, graphs kept: {_gib(takes[0])})"
    return found


def _gib(size: float) -> str:
    return f"{size / GIB:.2g} GiB"
