"""Several runs as tasks of a Ray cluster. Each task is one run in its own folder, so that Ray may start it again.

All nodes must see the output folder, and have the same rsd. This module knows Ray and nothing of the runs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from rsd.distributed import processes
from rsd.errors import describe
from rsd.runs.progress import Progress
from rsd.runs.session import interruptible

RETRIES = 3
"""How often Ray starts a run again whose worker died."""
PATIENCE = 60
"""Seconds that workers have to finish their step and save a checkpoint after Ctrl-C."""

Failures = dict[str, str]
"""Why runs failed, by label."""


class Stopped(Exception):
    """A worker was told to end, say because its node is taken away. Ray starts its run again."""


@dataclass
class Work:
    """What a worker is told once. ``run``: do the run at a place; it keeps the networks that it has loaded.
    ``threads``: those that torch uses, and the CPUs that a run takes."""

    run: Callable[[int], Failures]
    folder: str = field(default_factory=os.getcwd)
    threads: int = field(default_factory=lambda: int(os.environ.get("OMP_NUM_THREADS") or 1))
    gpus: Any = None


def check(what: str, *, several: bool, shard: str | None, device: str) -> None:
    """Raise ValueError for what does not go with ``--engine ray``, ImportError where Ray is not installed."""
    size = processes().size
    if shard:
        raise ValueError(
            f"--engine ray does not go with --shard {shard}: Ray shares out all {what} itself; leave one of them out."
        )
    if size > 1:
        raise ValueError(
            f"--engine ray does not go with a launcher, which has started {size} processes; start rsd without it."
        )
    if not several:
        raise ValueError(f"--engine ray goes with several {what}, but there is one; leave it out.")
    if ":" in device:
        raise ValueError(f"--engine ray does not go with --device {device}: Ray picks the GPUs; give cuda.")
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--engine ray needs Ray: pip install '.[ray]'.")


def run_on_ray(run: Callable[[int], Failures], labels: Mapping[int, str], *, device: str, what: str) -> Failures:
    """Have ``run`` called by a worker for each of the places, whose labels these are; what failed, in their order.

    Ctrl-C lets the workers save checkpoints, then raises KeyboardInterrupt. Raises ValueError if the cluster lacks what
    a run takes.
    """
    import ray

    work = Work(run)
    with connected():
        gpus = gpus_each(device, ray.cluster_resources(), work.threads)
        # Without max_calls a worker with a GPU ends after each run, and its networks with it.
        task = ray.remote(
            num_cpus=work.threads, num_gpus=gpus, max_calls=0, max_retries=RETRIES, retry_exceptions=[Stopped]
        )(work_on)
        reference = [ray.put(work)]
        places = {task.remote(reference, place): place for place in labels}
        each = "1 GPU" if gpus else "1 CPU" if work.threads == 1 else f"{work.threads} CPUs"
        print(f"Ray shares out {len(places)} {what}, {each} for each", flush=True)
        progress, left, found = Progress(len(places), f"{what}:", first=1), list(places), dict[int, Failures]()
        with interruptible() as signals:
            while left:
                ended, left = ray.wait(left, timeout=1)
                for one in ended:
                    found[places[one]] = outcome(partial(ray.get, one), labels[places[one]])
                    progress.tick()
                if signals and left:
                    for one in left:
                        ray.cancel(one)
                    ray.wait(left, num_returns=len(left), timeout=PATIENCE)
                    raise KeyboardInterrupt
    return {label: why for place in labels for label, why in found[place].items()}


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to a Ray cluster: the one that Python is connected to already, that of RAY_ADDRESS, or one that runs
    on this machine; else to a new one of this machine's CPUs and GPUs, which ends afterwards."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told not to
    try:
        ray.init(include_dashboard=False, logging_level="warning")
    except ConnectionError as error:
        raise OSError(f"No Ray cluster answers ({error}); check RAY_ADDRESS, or unset it.") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_each(device: str, has: Mapping[str, float], threads: int) -> int:
    """The GPUs that a run takes. ``has``: the cluster's resources. Raises ValueError if it lacks what a run takes: Ray
    would wait for it without an end."""
    gpus = int(device in ("auto", "cuda") and has.get("GPU", 0) >= 1)
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda was asked for, but the Ray cluster has no GPU; use --device cpu.")
    if threads > has.get("CPU", 0):
        raise ValueError(
            f"OMP_NUM_THREADS is {threads}, the CPUs that a run takes, but the Ray cluster has {has.get('CPU', 0):g}; "
            "lower it."
        )
    return gpus


_WORK: dict[bytes, Work] = {}
"""In a worker: what it was told last, by Ray's name for it."""


def work_on(reference: list[Any], place: int) -> Failures:
    """A task. ``reference``: to the :class:`Work`, in a list, so that Ray does not fetch it for each task anew."""
    import ray

    name, gpus = reference[0].binary(), ray.get_gpu_ids()
    if name not in _WORK:
        _WORK.clear()  # the networks of another command
        work = ray.get(reference[0])
        with suppress(FileNotFoundError):
            os.chdir(work.folder)
        if os.getcwd() != work.folder:
            raise FileNotFoundError(f"{work.folder} is not on the node {platform.node()}; all nodes must see it.")
        torch.set_num_threads(work.threads)
        work.gpus = gpus
        _WORK[name] = work
    if _WORK[name].gpus != gpus:
        os._exit(1)  # CUDA keeps to the GPU that it began with; Ray starts the run again in a new process
    try:
        return _WORK[name].run(place)
    except KeyboardInterrupt:
        raise Stopped from None


def outcome(get: Callable[[], Failures], label: str) -> Failures:
    """What failed of a task that has ended. ``get``: Ray's, which raises what the task raised, or how it died."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return get()
    except RayTaskError as error:
        if not isinstance(error.cause, Stopped):
            return {label: describe(error.cause)}
        why = "was told to end"
    except RayError as error:
        why = f"died ({type(error).__name__})"
    return {label: f"Its worker {why}, also when Ray tried again; go on with --resume."}
