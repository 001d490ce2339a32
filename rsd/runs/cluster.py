"""Several runs as tasks of a Ray cluster. Each task is one run in its own folder, so that Ray may start it again.

A task whose worker died goes on from the checkpoint. A run that has finished is not made again. The process that asked
for the runs holds the lock of the folder of all runs, and writes the summary. All nodes must see that folder.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rsd.distributed import Ensemble, processes
from rsd.errors import told
from rsd.runs import batch
from rsd.runs.folder import RunFolder
from rsd.runs.progress import Progress
from rsd.runs.session import interruptible, pick_device, plain_warnings

RETRIES = 3
"""How often Ray starts a run again whose worker died."""
PATIENCE = 60
"""Seconds that workers have to finish their step and save a checkpoint after Ctrl-C."""


class Stopped(Exception):
    """A worker was told to end, as one on a node that is taken away; Ray starts its run again."""


def check(head: batch.Head) -> None:
    """Raise ValueError for what does not go with ``--engine ray``, ImportError where Ray is not installed."""
    size, device = processes().size, head.options.device
    if named := batch.option(head.options, "shard"):
        raise ValueError(
            f"--engine ray does not go with --shard {named}, since Ray shares out all {head.what}; leave one out."
        )
    if size > 1:
        raise ValueError(
            f"--engine ray does not go with a launcher, which has started {size} processes; start rsd without one."
        )
    if not head.several:
        raise ValueError(
            f"--engine ray shares out several {head.what}, but there is one; leave it out, or start several processes "
            "with a launcher: they share the particles."
        )
    if ":" in device:
        raise ValueError(f"--engine ray does not go with --device {device}, since Ray picks the GPUs; give cuda.")
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--engine ray needs Ray: pip install '.[ray]'.")


def own_device(options: Any) -> torch.device:
    """What the process that asks for the runs computes on: it may have no GPU where the workers have one."""
    return pick_device("auto" if options.device == "cuda" else options.device)


def run_each(
    head: batch.Head, folders: Mapping[batch.Item, RunFolder], failures: dict[str, str], device: torch.device
) -> batch.Networks:
    """Do what :func:`rsd.runs.batch.run_each` does, each run by a worker of the cluster; what fails is added to
    ``failures``. The networks for the summary. Ctrl-C lets the workers save checkpoints, then raises
    KeyboardInterrupt."""
    left = {item: folder for item, folder in folders.items() if item.label not in failures}
    todo = [item for item, folder in left.items() if not folder.done]
    ask = [item for item, folder in left.items() if not folder.done or head.lacking(folder.metrics(), item)]
    if ask:
        # Items are known by their place: in another process they are other objects.
        places = {item: place for place, item in enumerate(head.items)}
        work = Work(head, [places[item] for item in left], [places[item] for item in todo])
        failed = on_cluster(work, [places[item] for item in ask], head.what)
        failures |= {label: why for item in ask for label, why in failed[places[item]].items()}
    for item, folder in left.items():
        if item not in ask:
            batch.look_again(head, item, batch.Networks(device), folder, Ensemble.of(item.options.particles))
    done = {item: folder for item, folder in left.items() if folder.done}
    together = bool(done) and head.scored_together()
    return batch.Networks(device, scorers=head.scorers([], done, device) if together else None)


class Work:
    """What every worker is told once, and keeps with the networks that it has loaded."""

    def __init__(self, head: batch.Head, left: Sequence[int], todo: Sequence[int]):
        self.head, self.left, self.todo, self.folder = head, left, todo, os.getcwd()
        self.threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
        self.networks: batch.Networks | None = None
        self.gpus: Any = None

    def load(self) -> batch.Networks:
        """The networks for all runs that were to do at the start, loaded once."""
        if self.networks is None:
            head, device = self.head, pick_device(self.head.options.device)
            folders = {head.items[place]: batch.folder_of(head, head.items[place]) for place in self.left}
            self.networks = batch.load_networks(head, [head.items[place] for place in self.todo], folders, device)
        return self.networks

    def run(self, place: int) -> dict[str, str]:
        """One run, or what a finished one lacks; why it failed, by label."""
        item, failures = self.head.items[place], dict[str, str]()
        try:
            with plain_warnings():
                networks, folder = self.load(), batch.folder_of(self.head, item)
                # whose own line of progress would tell of one run
                batch.run_each(self.head, {item: folder}, failures, networks, Ensemble.of(item.options.particles))
        except KeyboardInterrupt:
            raise Stopped from None
        except Exception as error:  # of the networks: the other workers may have better luck
            failures[item.label] = told(error)
        return failures


_WORK: dict[bytes, Work] = {}
"""In a worker: the work that it knows, by Ray's name for it."""


def work_on(reference: list[Any], place: int) -> dict[str, str]:
    """A task: in a worker, do the run at a ``place``. ``reference``: to the :class:`Work`, in a list so that Ray sends it
    only where it is asked for."""
    import ray

    name, gpus = reference[0].binary(), ray.get_gpu_ids()
    if name not in _WORK:
        _WORK.clear()  # of another command, with its networks
        work = ray.get(reference[0])
        work.gpus = gpus
        if not os.path.isdir(work.folder):
            raise FileNotFoundError(f"{work.folder} is not on node {os.uname().nodename}; all nodes must see it.")
        os.chdir(work.folder)
        torch.set_num_threads(work.threads)
        _WORK[name] = work
    if _WORK[name].gpus != gpus:
        os._exit(1)  # CUDA stays on the GPU that this process began with: a new one begins on the one it is given now
    return _WORK[name].run(place)


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to a Ray cluster: the one that Python is connected to already, that of RAY_ADDRESS, or one that runs
    here; else one on this machine, which ends afterwards."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told not to
    ray.init(include_dashboard=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


def on_cluster(work: Work, places: Sequence[int], what: str) -> dict[int, dict[str, str]]:
    """Have each of the ``places`` done by a worker; what failed at each. Raises ValueError for a device that the cluster
    does not have."""
    import ray

    with connected(), interruptible() as signals:
        has, device = ray.cluster_resources(), work.head.options.device
        gpus = 1 if device in ("auto", "cuda") and has.get("GPU", 0) >= 1 else 0
        if device == "cuda" and not gpus:
            raise ValueError("--device cuda was asked for, but the Ray cluster has no GPU; use --device cpu.")
        if work.threads > has.get("CPU", 0):
            raise ValueError(
                f"A run takes {work.threads} CPUs (OMP_NUM_THREADS), but the Ray cluster has {has.get('CPU', 0):g} in "
                "all; lower OMP_NUM_THREADS."
            )
        # max_calls: else a worker with a GPU ends after each run, and its networks with it
        task = ray.remote(
            num_cpus=work.threads, num_gpus=gpus, max_calls=0, max_retries=RETRIES, retry_exceptions=[Stopped]
        )(work_on)
        reference = [ray.put(work)]
        asked = {task.remote(reference, place): place for place in places}
        told_so = f"on {gpus} GPU each" if gpus else f"on {work.threads} CPU{'s' * (work.threads > 1)} each"
        print(f"Ray shares {len(asked)} {what}, {told_so}", flush=True)
        progress, left, found = Progress(len(asked), f"{what}:", first=1), list(asked), {}
        while left:
            ended, left = ray.wait(left, timeout=1)
            for one in ended:
                place = asked[one]
                found[place] = outcome(partial(ray.get, one), work.head.items[place])
                progress.tick()
            if signals:
                for one in left:
                    ray.cancel(one)
                ray.wait(left, num_returns=len(left), timeout=PATIENCE) if left else None
                raise KeyboardInterrupt
    return found


def outcome(get: Any, item: batch.Item) -> dict[str, str]:
    """What failed of a task that has ended; ``get`` is Ray's, which raises for a task that found no worker."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return get()
    except RayTaskError as error:
        if isinstance(error.cause, Stopped):
            return {item.label: f"Its worker was told to end {RETRIES + 1} times; go on with --resume."}
        return {item.label: told(error.cause)}
    except RayError as error:
        why = type(error).__name__
        return {item.label: f"Its worker died {RETRIES + 1} times (Ray: {why}); go on with --resume."}
