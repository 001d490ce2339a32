"""Several processes: they share the particles of one run, or take their share of many runs.

Any launcher that sets RANK and WORLD_SIZE starts them (``accelerate launch``, ``torchrun``); Accelerate connects them.
Of a run's particles each process holds a block; what travels at each step is their features [N, d], which the force of
all on all needs, and a few numbers for the records.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from rsd.errors import ProcessLost, RankWarning, is_out_of_memory

PATIENCE = timedelta(days=30)
"""How long processes wait for one another where one may have much more to do; one that dies is noticed at once."""
VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
"""What a launcher sets, and what holds without one."""


@dataclass(frozen=True)
class Processes:
    """This process's number, how many there are, and its number on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    @property
    def named(self) -> str:
        """For the user, which of several this is; nothing if there is one."""
        return f" (process {self.rank} of {self.size})" if self.size > 1 else ""


def processes() -> Processes:
    """What the launcher says; one process without a launcher. Connects nothing."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in VARIABLES)
    return Processes(rank, size, local)


def connect(device: torch.device | str) -> Processes:
    """Let the launcher's processes find one another, for tensors on ``device``. Raises RuntimeError if they are not as
    many as it said."""
    here = processes()
    if here.size > 1:
        from accelerate import PartialState

        with _peers():
            state = PartialState(cpu=torch.device(device).type == "cpu")
        if state.num_processes != here.size:
            raise RuntimeError(f"{here.size} processes were started, but {state.num_processes} found one another.")
        _plain()
    return here


@cache
def _plain() -> dist.ProcessGroup | None:
    """The group for what is no tensor on the device; ``None`` would be the default one."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def _peers() -> Iterator[None]:
    """Errors of the connection as one sentence."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = str(error).splitlines()[0]
        raise ProcessLost(
            f"The connection to the other processes is lost, one of them may have ended ({why}); this run stops, go on "
            "with the same command and --resume."
        ) from error


def collect(value: Any) -> list[Any] | None:
    """On the main process every process's ``value``, in order; None on the others. Waits for all."""
    here = processes()
    if here.size == 1:
        return [value]
    found: list[Any] | None = [None] * here.size if here.main else None
    with _peers():
        dist.gather_object(value, found, group=_plain())
    return found


def wait() -> None:
    """Return when every process has come here."""
    if processes().size > 1:
        with _peers():
            dist.barrier(group=_plain())


@contextmanager
def rank_output(*, all_ranks: bool) -> Iterator[None]:
    """Let only the main process print to stdout and warn, unless ``all_ranks`` have something to say; an RankWarning is
    told by any."""
    if all_ranks or processes().main:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", RankWarning)
        yield


def share(items: Sequence[Any], here: Processes) -> list[Any]:
    """This process's share of runs: every size-th."""
    return list(items[here.rank :: here.size])


def describe_shares(here: Processes, what: str, number: int, *, several: bool) -> str:
    """How the processes divide the work, in a line: a sentence for the user."""
    if several:
        return f"{here.size} processes share {number} {what}: each makes its own, with all their particles"
    parts = " + ".join(str(len(part)) for part in Ensemble.of(number, here).parts)
    return f"{here.size} processes share the {number} particles: {parts}"


def agree(flag: bool) -> bool:
    """Whether it is true on any process."""
    if processes().size == 1:
        return flag
    answer = torch.tensor(int(flag))
    with _peers():
        dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=_plain())
    return bool(answer)


@dataclass(frozen=True)
class Ensemble:
    """A run's particles, shared out. ``parts``: the rows of the whole that each process holds; ``rank``: which this is.

    Alone, nothing travels and nothing is changed. ``bytes``: what this process has got, its own rows included:
    "features" and "pictures" of :meth:`gather`, "gradients" of :meth:`add`, "sums" of :meth:`means`.
    """

    parts: tuple[tuple[int, ...], ...]
    rank: int = 0
    bytes: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, n: int, here: Processes = Processes()) -> Ensemble:
        """n particles in blocks whose sizes differ by no more than one. Raises ValueError for fewer than processes."""
        if n < here.size:
            raise ValueError(f"{here.size} processes cannot share {n} particles; start {n} at most, or more particles.")
        edges = [k * n // here.size for k in range(here.size + 1)]
        return cls(tuple(tuple(range(a, b)) for a, b in zip(edges, edges[1:], strict=False)), here.rank)

    @property
    def total(self) -> int:
        """N, particles in all."""
        return sum(map(len, self.parts))

    @property
    def alone(self) -> bool:
        """Whether all of them are here."""
        return len(self.parts) == 1

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def mine(self) -> list[int]:
        """The rows of the whole that are here."""
        return list(self.parts[self.rank])

    def own(self, values: Any) -> Any:
        """Of values for all [N] those of the particles here; what is one for all stays."""
        return values if self.alone or not isinstance(values, torch.Tensor) else values[self.mine]

    def among(self, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of ``members``, rows of the whole [m], those that are here: their rows here, and their places in it."""
        return self._among(members, self.rank)

    def _among(self, members: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = {whole: here for here, whole in enumerate(self.parts[rank])}
        found = [(row[m], place) for place, m in enumerate(members.tolist()) if m in row]
        rows, places = torch.tensor(found, dtype=torch.int64).view(-1, 2).unbind(1)
        return rows, places

    def gather(self, x: torch.Tensor, members: torch.Tensor | None = None, *, what: str = "features") -> torch.Tensor:
        """Values of all ``members`` (None: of all particles) in their order, [m, ...], from each process's own, x
        [k, ...], detached. ``what`` they are: for the count of bytes."""
        if self.alone:
            return x.detach()
        members = torch.arange(self.total) if members is None else members
        places = [self._among(members, rank)[1] for rank in range(len(self.parts))]
        with _peers():
            shape, dtype = self._kind(x, [len(p) for p in places])
            parts = [x.new_empty(len(p), *shape, dtype=dtype) for p in places]
            parts[self.rank].copy_(x.detach()) if len(x) else None
            sent = [dist.broadcast(part, src, async_op=True) for src, part in enumerate(parts) if len(part)]
            for work in sent:
                work.wait()
        whole = torch.cat(parts)[torch.cat(places).argsort().to(x.device)]
        self.bytes[what] += whole.numel() * whole.element_size()
        return whole

    def _kind(self, x: torch.Tensor, counts: list[int]) -> tuple[tuple[int, ...], torch.dtype]:
        """Of what shape and type a row is; a process without rows has to be told."""
        kind = [(tuple(x.shape[1:]), x.dtype)]
        if min(counts) == 0:
            dist.broadcast_object_list(kind, src=next(k for k, n in enumerate(counts) if n), group=_plain())
        return kind[0]

    def means(self, values: dict[str, tuple[float, int]]) -> dict[str, float]:
        """Means over all particles from means over a number of those here, ``name: (mean, number)``."""
        if self.alone:
            return {name: mean for name, (mean, _) in values.items()}
        sums = torch.tensor([[mean * n, n] for mean, n in values.values()], dtype=torch.float64)
        self._add(sums, "sums", group=_plain())
        return {name: total / max(n, 1.0) for name, (total, n) in zip(values, sums.tolist(), strict=True)}

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put into each tensor its sum over processes."""
        if self.alone or not tensors:
            return
        together = torch.cat([t.flatten() for t in tensors])
        self._add(together, "gradients")
        for tensor, value in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(value.view_as(tensor))

    def _add(self, x: torch.Tensor, what: str, group: dist.ProcessGroup | None = None) -> None:
        with _peers():
            dist.all_reduce(x, group=group)
        self.bytes[what] += x.numel() * x.element_size()

    def agree(self, flag: bool) -> bool:
        """Whether it is true of any process's particles."""
        return flag if self.alone else agree(flag)

    def collect(self, value: Any) -> list[Any] | None:
        """On the process that writes the ``value`` of each; None on the others."""
        return [value] if self.alone else collect(value)


ALONE = Ensemble(((),))
"""Of particles that nobody counted, all here."""
