"""The memory that is free for this process, and the most that it has used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

CGROUPS = {
    "": (".", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""For cgroup version 2 ("") and version 1's memory controller: the folder in /sys/fs/cgroup, the files with the limit
and the usage, and the line of memory.stat that counts the file cache, which the system frees when memory is short."""


def available(device: torch.device) -> int:
    """Return the bytes that are free for this process: on the GPU, or its share of the system's and the cgroups'."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    free = min([psutil.virtual_memory().available, *allowed()])
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def allowed(root: Path = Path("/")) -> Iterator[int]:
    """Yield the bytes left below the limit of each cgroup of this process (a container, a scheduler's job) and of its
    parents. Yields nothing without a limit, or outside Linux."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in {*controllers.split(",")} & {*CGROUPS}:
                yield from _left(root / "sys/fs/cgroup", path, *CGROUPS[name])


def _left(groups: Path, path: str, folder: str, limit: str, used: str, files: str) -> Iterator[int]:
    top = groups / folder
    own = top / path.strip("/")  # in a container this may be the path outside: then only the top exists
    for group in [own, *own.parents][: 1 + len(own.parts) - len(top.parts)]:
        with suppress(OSError, ValueError):  # "max" means no limit
            most, now = (int((group / file).read_text()) for file in (limit, used))
            lines = (group / "memory.stat").read_text().splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.split()[0] == files)
            yield most - max(0, now - cached)


def reset_peak(device: torch.device) -> None:
    """Reset the peak. If the system cannot (not Linux, or not permitted), it remains that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak bytes since :func:`reset_peak`: PyTorch's allocations on CUDA, otherwise the resident memory of
    the process (programs and weights included). None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _process_peak()


def _process_peak() -> int | None:
    """Return the peak resident bytes of the whole process."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
