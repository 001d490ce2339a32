"""``--engine ray``: runs as tasks of a Ray cluster. A task is one run in its own folder, so that Ray may retry it.

All nodes must see the output folder and have the same version of rsd.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble, pick_device, processes
from rsd.errors import describe, plain_warnings
from rsd.runs.folder import RunFolder
from rsd.runs.head import Head, Item, Networks, load_networks
from rsd.runs.progress import Progress
from rsd.runs.session import interruptible

RETRIES = 3
"""How often Ray retries a run whose worker died."""
PATIENCE = 60
"""Seconds that workers have to finish their step and save a checkpoint after Ctrl-C."""

Failures = dict[str, str]
"""Error messages by the items' labels."""
RunEach = Callable[[Head, Mapping[Item, RunFolder], Networks, Ensemble], Failures]


class Stopped(Exception):
    """The worker was stopped, for example because its node is taken away. Ray retries its run."""


@dataclass
class Work:
    """What each worker receives once. ``run`` does the run at a position and keeps the networks that it has loaded.
    ``threads``: torch's threads, and the CPUs of a run."""

    run: Callable[[int], Failures]
    folder: str = field(default_factory=os.getcwd)
    threads: int = field(default_factory=lambda: int(os.environ.get("OMP_NUM_THREADS") or 1))
    gpus: Any = None


def check(what: str, *, several: bool, shard: str | None, device: str) -> None:
    """Raise ValueError if an option conflicts with ``--engine ray``, ImportError if Ray is not installed."""
    size = processes().size
    if shard:
        raise ValueError(
            f"--engine ray does not go with --shard {shard}: Ray distributes all {what} itself; leave one of them out."
        )
    if size > 1:
        raise ValueError(
            f"--engine ray does not go with a launcher, which has started {size} processes; start rsd without it."
        )
    if not several:
        raise ValueError(f"--engine ray requires several {what}, but there is one; leave it out.")
    if ":" in device:
        raise ValueError(f"--engine ray does not go with --device {device}: Ray picks the GPUs; give cuda.")
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--engine ray needs Ray: pip install '.[ray]'.")


def run_items(head: Head, folders: Mapping[Item, RunFolder], run_each: RunEach) -> Failures:
    """Do on the workers of a Ray cluster what ``run_each`` does in this process. Return the failures."""
    positions = {item: position for position, item in enumerate(head.items)}  # the workers' items are copies
    todo = [item for item, folder in folders.items() if not folder.done]
    missing = {item: head.missing_figures(folder.metrics(), item) for item, folder in folders.items() if folder.done}
    rescore = any(map(head.needs_scorers, missing.values()))
    labels = {positions[item]: item.label for item in folders if missing.get(item, True)}
    failures: Failures = {}
    if labels:
        ids = [positions[item] for item in folders], [positions[item] for item in todo]
        worker = Worker(head, *ids, load=bool(todo) or rescore, run_each=run_each)
        failures = dispatch(worker, labels, device=head.options.device, what=head.what)
    complete = {item: folder for item, folder in folders.items() if positions[item] not in labels}
    return failures | run_each(head, complete, Networks(torch.device("cpu")), ALONE)


class Worker:
    """Does one run of a head, called with its item's position; loads the networks once. Pickled by Ray.

    ``left``: the positions of the items that passed the checks; ``todo``: those of them that were not finished.
    """

    def __init__(self, head: Head, left: Sequence[int], todo: Sequence[int], *, load: bool, run_each: RunEach):
        self.head, self.left, self.todo, self.load, self.run_each = head, left, todo, load, run_each

    @cached_property
    def networks(self) -> Networks:
        """The networks that a single process would load for the same command."""
        head, device = self.head, pick_device(self.head.options.device)
        if not self.load:
            return Networks(device)
        folders = {head.items[k]: head.run_folder(head.items[k]) for k in self.left}
        return load_networks(head, [head.items[k] for k in self.todo], folders, device)

    def __call__(self, position: int) -> Failures:
        """Do one run, or add to a finished one what it misses. Return its failure, if any, by label."""
        item = self.head.items[position]
        with plain_warnings():
            networks, folder = self.networks, self.head.run_folder(item)
            return self.run_each(self.head, {item: folder}, networks, Ensemble.of(item.options.drawn))


def dispatch(run: Callable[[int], Failures], labels: Mapping[int, str], *, device: str, what: str) -> Failures:
    """Let workers call ``run`` with each position of ``labels``. Return the failures in that order.

    On Ctrl-C the workers save checkpoints, then KeyboardInterrupt is raised. Raises ValueError if the cluster is too
    small for a run.
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
        positions = {task.remote(reference, position): position for position in labels}
        each = "1 GPU" if gpus else "1 CPU" if work.threads == 1 else f"{work.threads} CPUs"
        print(f"Ray distributes {len(positions)} {what}, {each} each", flush=True)
        progress, left = Progress(len(positions), f"{what}:", first=1), list(positions)
        found: dict[int, Failures] = {}
        with interruptible() as signals:
            while left:
                ended, left = ray.wait(left, timeout=1)
                for one in ended:
                    found[positions[one]] = outcome(partial(ray.get, one), labels[positions[one]])
                    progress.tick()
                if signals and left:
                    for one in left:
                        ray.cancel(one)
                    ray.wait(left, num_returns=len(left), timeout=PATIENCE)
                    raise KeyboardInterrupt
    return {label: why for position in labels for label, why in found[position].items()}


@contextmanager
def connected() -> Iterator[None]:
    """Connect to a Ray cluster: an existing connection, RAY_ADDRESS, or a cluster on this machine; otherwise start one
    with this machine's CPUs and GPUs, and stop it afterwards."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage reports by default
    try:
        ray.init(include_dashboard=False, logging_level="warning")
    except ConnectionError as error:
        raise OSError(f"No Ray cluster answers ({error}); check RAY_ADDRESS, or unset it.") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_each(device: str, has: Mapping[str, float], threads: int) -> int:
    """Return the number of GPUs per run. ``has``: the cluster's resources. Raise ValueError if they do not suffice: Ray
    would wait forever."""
    gpus = int(device in ("auto", "cuda") and has.get("GPU", 0) >= 1)
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda was given, but the Ray cluster has no GPU; use --device cpu.")
    if threads > has.get("CPU", 0):
        raise ValueError(
            f"OMP_NUM_THREADS is {threads}, the CPUs per run, but the Ray cluster has {has.get('CPU', 0):g}; lower it."
        )
    return gpus


_WORK: dict[bytes, Work] = {}
"""In a worker: the work that it received last, by Ray's id."""


def work_on(reference: list[Any], position: int) -> Failures:
    """Run one Ray task. ``reference``: to the :class:`Work`, in a list so that Ray does not fetch it for each task."""
    import ray

    name, gpus = reference[0].binary(), ray.get_gpu_ids()
    if name not in _WORK:
        _WORK.clear()  # free the networks of another command
        work = ray.get(reference[0])
        with suppress(FileNotFoundError):
            os.chdir(work.folder)
        if os.getcwd() != work.folder:
            raise FileNotFoundError(f"{work.folder} is not on the node {platform.node()}; all nodes must see it.")
        torch.set_num_threads(work.threads)
        work.gpus = gpus
        _WORK[name] = work
    if _WORK[name].gpus != gpus:
        os._exit(1)  # CUDA cannot change its GPU; Ray retries the run in a new process
    try:
        return _WORK[name].run(position)
    except KeyboardInterrupt:
        raise Stopped from None


def outcome(get: Callable[[], Failures], label: str) -> Failures:
    """Return the failures of an ended task. ``get``: Ray's, which raises the task's error or how its worker died."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return get()
    except RayTaskError as error:
        if not isinstance(error.cause, Stopped):
            return {label: describe(error.cause)}
        why = "was stopped"
    except RayError as error:
        why = f"died ({type(error).__name__})"
    return {label: f"Its worker {why}, also after Ray's retries; continue with --resume."}
