"""The memory that is free for this process: on CUDA the card's, elsewhere the system's and its control groups'."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

CGROUPS = {
    "": (".", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of version 2, and of version 1's memory controller: the folder in /sys/fs/cgroup, the files of what may be used and
is, and the line of memory.stat that counts pages of files, which the system gives back when memory is short."""


def available(device: torch.device) -> int:
    """Bytes that are free for this process; of several on a machine each has its share."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    free = min([psutil.virtual_memory().available, *allowed()])
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def allowed(root: Path = Path("/")) -> Iterator[int]:
    """Bytes that each control group of this process (a container, a job of a cluster's scheduler), and each above it,
    has left below its limit. Nothing where there is no limit, or no Linux."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in {*controllers.split(",")} & {*CGROUPS}:
                yield from _left(root / "sys/fs/cgroup", path, *CGROUPS[name])


def _left(groups: Path, path: str, folder: str, limit: str, used: str, files: str) -> Iterator[int]:
    top = groups / folder
    own = top / path.strip("/")  # in a container this may be the name outside of it: then only the top is here
    for group in [own, *own.parents][: 1 + len(own.parts) - len(top.parts)]:
        with suppress(OSError, ValueError):  # "max" is no number
            most, now = (int((group / file).read_text()) for file in (limit, used))
            lines = (group / "memory.stat").read_text().splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.split()[0] == files)
            yield most - max(0, now - cached)
