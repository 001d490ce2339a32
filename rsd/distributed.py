"""Several processes that share the particles of one run, or the runs of one command.

Any launcher that sets RANK and WORLD_SIZE starts them (``accelerate launch``, ``torchrun``); Accelerate connects them.
Each process holds a block of a run's particles. At each step the processes exchange the particles' features [N, d], for
the forces between all pairs, and a few numbers for the records.
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
"""How long processes wait for one another, since one may have much more work; dead processes are noticed at once."""
VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
"""Environment variables of a launcher, and the defaults without one."""


@dataclass(frozen=True)
class Processes:
    """The rank of this process, the number of processes, and the rank on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    @property
    def label(self) -> str:
        """The rank for messages; "" if there is one process."""
        return f" (process {self.rank} of {self.size})" if self.size > 1 else ""


def processes() -> Processes:
    """Read the launcher's variables; a single process without a launcher. Does not connect."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in VARIABLES)
    return Processes(rank, size, local)


def connect(device: torch.device | str) -> Processes:
    """Connect the launcher's processes, for tensors on ``device``. Raise RuntimeError if their number is wrong."""
    here = processes()
    if here.size > 1:
        from accelerate import PartialState

        with _peers():
            state = PartialState(cpu=torch.device(device).type == "cpu")
        if state.num_processes != here.size:
            raise RuntimeError(f"{here.size} processes were started, but {state.num_processes} are connected.")
        _plain()
    return here


@cache
def _plain() -> dist.ProcessGroup | None:
    """Return the group for objects and CPU tensors; ``None`` would be the default group."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def _peers() -> Iterator[None]:
    """Turn errors of the connection into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = str(error).splitlines()[0]
        raise ProcessLost(
            f"The connection to the other processes is lost, one of them may have ended ({why}); this run stops. "
            "Continue with the same command and --resume."
        ) from error


def collect(value: Any) -> list[Any] | None:
    """Return every process's ``value`` by rank on the main process, None on the others. Waits for all."""
    here = processes()
    if here.size == 1:
        return [value]
    found: list[Any] | None = [None] * here.size if here.main else None
    with _peers():
        dist.gather_object(value, found, group=_plain())
    return found


def wait() -> None:
    """Wait until every process calls this."""
    if processes().size > 1:
        with _peers():
            dist.barrier(group=_plain())


@contextmanager
def rank_output(*, all_ranks: bool) -> Iterator[None]:
    """Let only the main process print to stdout and warn, unless ``all_ranks``; every rank shows a RankWarning."""
    if all_ranks or processes().main:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", RankWarning)
        yield


def share(items: Sequence[Any], here: Processes) -> list[Any]:
    """Return this process's share of runs: every size-th."""
    return list(items[here.rank :: here.size])


def describe_shares(here: Processes, what: str, number: int, *, several: bool) -> str:
    """Describe in a line how the processes share the work."""
    if several:
        return f"{here.size} processes share {number} {what}: each runs its own, with all their particles"
    parts = " + ".join(str(len(part)) for part in Ensemble.of(number, here).parts)
    return f"{here.size} processes share the {number} particles: {parts}"


def agree(flag: bool) -> bool:
    """Return whether ``flag`` is true on any process."""
    if processes().size == 1:
        return flag
    answer = torch.tensor(int(flag))
    with _peers():
        dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=_plain())
    return bool(answer)


@dataclass(frozen=True)
class Ensemble:
    """How processes share a run's particles. ``parts``: the global rows of each process; ``rank``: of this process.

    In a single process nothing is communicated. ``bytes``: received by this process, its own rows included: "features"
    and "pictures" of :meth:`gather`, "gradients" of :meth:`add`, "sums" of :meth:`means`.
    """

    parts: tuple[tuple[int, ...], ...]
    rank: int = 0
    bytes: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, n: int, here: Processes = Processes()) -> Ensemble:
        """Split n particles into blocks whose sizes differ by at most one. Raise ValueError if n < processes."""
        if n < here.size:
            raise ValueError(
                f"{here.size} processes cannot share {n} particles; start at most {n}, or give more particles."
            )
        edges = [k * n // here.size for k in range(here.size + 1)]
        return cls(tuple(tuple(range(a, b)) for a, b in zip(edges, edges[1:], strict=False)), here.rank)

    @property
    def total(self) -> int:
        """N, the number of all particles."""
        return sum(map(len, self.parts))

    @property
    def alone(self) -> bool:
        """Whether all particles are in this process."""
        return len(self.parts) == 1

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def mine(self) -> list[int]:
        """The global rows of this process."""
        return list(self.parts[self.rank])

    def own(self, values: Any) -> Any:
        """Select the local particles' entries of a tensor [N]; return other values unchanged."""
        return values if self.alone or not isinstance(values, torch.Tensor) else values[self.mine]

    def among(self, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the local rows of those ``members`` (global rows [m]) that are here, and their positions in it."""
        return self._among(members, self.rank)

    def _among(self, members: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = {whole: here for here, whole in enumerate(self.parts[rank])}
        found = [(row[m], place) for place, m in enumerate(members.tolist()) if m in row]
        rows, places = torch.tensor(found, dtype=torch.int64).view(-1, 2).unbind(1)
        return rows, places

    def gather(self, x: torch.Tensor, members: torch.Tensor | None = None, *, what: str = "features") -> torch.Tensor:
        """Gather the values of ``members`` (None: all particles) in their order, [m, ...], detached, from the local x
        [k, ...] of each process. ``what``: the key for the count of bytes."""
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
        """Return the shape and dtype of a row; broadcast them if a process has no rows."""
        kind = [(tuple(x.shape[1:]), x.dtype)]
        if min(counts) == 0:
            dist.broadcast_object_list(kind, src=next(k for k, n in enumerate(counts) if n), group=_plain())
        return kind[0]

    def means(self, values: dict[str, tuple[float, int]]) -> dict[str, float]:
        """Return means over all particles from means over local ones, ``name: (mean, number)``."""
        if self.alone:
            return {name: mean for name, (mean, _) in values.items()}
        sums = torch.tensor([[mean * n, n] for mean, n in values.values()], dtype=torch.float64)
        self._add(sums, "sums", group=_plain())
        return {name: total / max(n, 1.0) for name, (total, n) in zip(values, sums.tolist(), strict=True)}

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over processes."""
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
        """Return whether ``flag`` is true in any process that shares the particles."""
        return flag if self.alone else agree(flag)

    def collect(self, value: Any) -> list[Any] | None:
        """Return the ``value`` of each process on the main one, None on the others."""
        return [value] if self.alone else collect(value)


ALONE = Ensemble(((),))
"""An uncounted number of particles, all in this process."""


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" lets Accelerate choose, and each of several processes on a machine gets
    its own GPU. Raise ValueError if the device cannot compute."""
    here = processes()
    if name == "auto" and here.size > 1 and not torch.cuda.is_available():
        name = "cpu"
    if name == "auto":
        from accelerate import Accelerator

        return Accelerator().device
    if name == "cuda" and here.size > 1:
        name = f"cuda:{here.local}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'Unknown device "{name}"; use auto, cpu, cuda or cuda:N.') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"Device {name} was given, but torch finds no CUDA here; use --device cpu or see `rsd doctor`."
        )
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # torch raises many types if there is no cuda:7 or no mps, or for meta
        raise ValueError(f"Device {name} cannot be used here; use --device cpu or see `rsd doctor`.") from error
    return device
