"""How many particles go through a network at once, and which graphs are kept: memory against time, the same results.

fast   the graphs of all particles' features are kept until the force is pulled back
flat   they are computed again, chunk by chunk, so that memory does not grow with N
lean   and inside a chunk only the inputs of the decoder's blocks and of the feature map are kept
auto   the first of these that fits into what is free, by a dry run of the networks (rsd.dryrun)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from rsd.distributed import processes
from rsd.errors import RankWarning, is_out_of_memory
from rsd.memory.available import available
from rsd.memory.meta import Bytes, ghost

T = TypeVar("T")
GIB = 2**30
SHARE = 0.8
"""Of the memory that is free, what a plan may use: the rest is for kernels' workspaces and fragmentation."""
LATENT, PIXEL, SMALL = 64 * 2**10, 2**20, 64
"""Bytes a pixel that no network on latents comes near (Stable Diffusion's UNet, decoder and encoder in one graph: 47
KiB), nor one on pixels (DeepFloyd IF-XL's UNet with its gradient: 595 KiB), and the side of a picture up to which that
is taken for granted: to measure it would take longer than a step."""


@runtime_checkable
class Thrifty(Protocol):
    """A part of a run (a prior, a feature map) that can keep its graphs in part only."""

    def save_memory(self, lean: bool) -> None:
        """Keep them in part, or whole again."""
        ...


@dataclass
class Memory:
    """``chunk``: particles in a network at once; None: all. ``keep``: whether the features' graphs of all chunks are
    kept. ``lean``: whether graphs are kept in part only. ``why``: what :func:`plan` found, in a line. ``parts``: of the
    run, those that :func:`save_memory` speaks to."""

    chunk: int | None = None
    keep: bool = False
    lean: bool = False
    why: str = ""
    parts: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    def each(self, n: int, work: Callable[[slice], T], graphs: dict[Any, Any] | None = None) -> list[T]:
        """``work`` of n rows, a chunk at a time. Where memory is full, ``graphs`` are dropped and no more are kept, or
        if there are none the chunk is halved, and at one row graphs are kept in part only, all for good, and the rows
        are done again: ``work`` must leave nothing behind when it raises, and take part in nothing that several
        processes do together."""
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
            if torch.cuda.is_available():  # the error is gone, and with it what the failed work held
                torch.cuda.empty_cache()
        return found

    def _less(self, rows: int, graphs: dict[Any, Any] | None) -> bool:
        """Need less memory from now on, and say so; False if there is no less."""
        held = bool(graphs)
        if graphs:
            graphs.clear()  # whatever is done about it, they must not stand in its way
        if held and self.keep:
            self.keep = False
            told = "the features of all particles are computed twice from now on (--memory flat)"
        elif rows > 1:
            self.chunk = rows // 2
            told = f"networks see {self.chunk} of the particles at once from now on, not {rows} (--chunk)"
        elif not self.lean and any(isinstance(part, Thrifty) for part in self.parts):
            self.lean = True
            save_memory(True, *self.parts)
            told = "graphs are kept in part only, and the rest is made again, from now on (--memory lean)"
        else:
            return False
        warnings.warn(f"Memory is full{processes().named}: {told}; the step goes on.", RankWarning, stacklevel=4)
        return True


@dataclass(frozen=True)
class Need:
    """Bytes that one particle takes for a while: the prior's prediction (with its gradient, for methods that take it),
    the graph of its features, their vector-Jacobian product with that graph made, and the decoder's. ``state``: what
    it takes for good."""

    epsilon: int
    graph: int
    pull: int
    decode: int
    state: int = 0

    def of(self, n: int, chunk: int, keep: bool) -> int:
        """The peak of n particles, ``chunk`` at once."""
        pull = (n - chunk) * self.graph * keep + chunk * self.pull
        return n * self.state + max(chunk * self.epsilon, pull, chunk * self.decode)


def needs(prior: Any, embed: Any, condition: Any, *, lean: bool, through: Sequence[str] = (), state: int = 0) -> Need:
    """What one particle takes, by a run without numbers; see :func:`plan`. Raises whatever networks that cannot do that
    raise."""
    prior, embed, condition = ghost((prior, embed, condition))
    save_memory(lean, prior, embed)

    def z() -> torch.Tensor:
        return torch.empty(1, *prior.latent_shape, dtype=prior.dtype, device="meta")

    def epsilon(z: torch.Tensor) -> torch.Tensor:
        return prior.epsilon(z, prior.schedule.T // 2, condition)

    def chain(x: torch.Tensor) -> torch.Tensor:
        for name in through:
            x = epsilon(x) if name == "epsilon" else getattr(prior, name)(x)
        return x

    with torch.no_grad(), Bytes() as guess:
        epsilon(z())
    chained = _differentiated(chain, z())[1] if through else 0
    graph, pull = _differentiated(embed, z()) if embed else (0, 0)
    return Need(max(guess.peak, chained), graph, pull, _differentiated(prior.decode, z())[1], state)


def _differentiated(network: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> tuple[int, int]:
    """Bytes of the graph that a network leaves, and the peak of its vector-Jacobian product."""
    z.requires_grad_()
    with Bytes() as count:
        out = network(z)
        graph = count.now
        torch.autograd.grad(out, z, torch.empty_like(out))
    return graph, count.peak


def save_memory(lean: bool, *parts: Any) -> None:
    """Let the parts of a run that can (a prior, a feature map) keep their graphs in part only, or whole again."""
    for part in parts:
        if isinstance(part, Thrifty):
            part.save_memory(lean)


def plan(
    mode: str, *, chunk: int | None, n: int, prior: Any, embed: Any = None, condition: Any = None,
    through: Sequence[str] = (), state: int = 0,
) -> Memory:  # fmt: skip
    """The memory of a run of n particles in this process.

    ``mode``: fast, flat, lean or auto. ``chunk``: the user's own; None: all in fast, one in the others, in auto as many
    as fit. ``embed``: what the force is differentiated through, or None. ``condition``: of the prior. ``through``:
    what a method differentiates in one piece besides, the prior's "epsilon", "decode", "encode" in that order.
    ``state``: bytes of a particle itself, its optimiser's moments included.
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
    """The plan of "auto"."""
    free = available(prior.device)
    small = n * prior.image_size**2 * (LATENT if prior.latent else PIXEL)
    if prior.image_size <= SMALL and small < SHARE * free:
        return Memory(chunk, keep=True, why=f"fast, less than {_gib(small)} of the {_gib(free)} that are free")
    try:
        need, lean = (needs(prior, embed, condition, lean=k, through=through, state=state) for k in (False, True))
    except Exception:  # networks of users' own, that do not run without numbers
        why = (
            f"flat, {chunk or 1} of {n} particles at once, since it cannot be told how much memory these networks take"
        )
        return Memory(chunk or 1, why=f"{why} (--memory fast may be quicker)")
    return fitting(need, lean, n, chunk, free)


class Plans:
    """Plans of runs on the same networks, each made once: what one run learned, of memory that was full, holds for the
    next. ``tell``: is given each new plan's ``why``."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell, self.made = tell, dict[Any, Memory]()

    def __call__(self, mode: str, *, embed: Any = None, condition: Any = None, prior: Any, **rest: Any) -> Memory:
        """As :func:`plan`."""
        guided = condition is not None and condition.negative is not None
        key = mode, id(embed), guided, *sorted(rest.items())  # a plan holds its embed, so that no other has its id
        if key not in self.made:
            self.made[key] = plan(mode, embed=embed, condition=condition, prior=prior, **rest)
            if self.made[key].why:
                self.tell(self.made[key].why)
        return self.made[key]


def fitting(need: Need, lean: Need, n: int, chunk: int | None, free: int) -> Memory:
    """The first plan that fits into SHARE of what is ``free``: graphs kept, then computed again, in chunks that halve
    from n to 1, then ``lean`` in chunks of one; the last even if it does not fit."""
    sizes = [chunk] if chunk else [max(1, n >> k) for k in range(n.bit_length())]
    plans = [Memory(size, keep=keep) for keep in (True, False) for size in sizes] + [Memory(chunk or 1, lean=True)]
    takes = [(lean if one.lean else need).of(n, min(one.chunk or n, n), one.keep) for one in plans]
    best = next((k for k, size in enumerate(takes) if size <= SHARE * free), len(plans) - 1)
    found = plans[best]
    name = "fast" if found.keep else "lean" if found.lean else "flat"
    found.why = f"{name}, {found.chunk} of {n} particles at once: {_gib(takes[best])} of the {_gib(free)} that are free"
    if best:
        found.why += f" (all at once, graphs kept: {_gib(takes[0])})"
    return found


def _gib(size: float) -> str:
    return f"{size / GIB:.2g} GiB"
