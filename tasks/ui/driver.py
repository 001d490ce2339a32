"""Run requests one after the other in a thread, report their progress, cancel and continue them. Knows no page.

The state of a run is its folder. A :class:`Job` adds what no folder holds: its place in the queue, the time left, the
notes and the error.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsd.engine import Record
from rsd.errors import describe
from rsd.runs.batch import run_all
from rsd.runs.folder import CHECKPOINT, CONFIG, METRICS
from rsd.runs.session import Session, listening

from .request import Request, continued

State = Literal["waiting", "running", "stopping", "stopped", "done", "failed"]
LIVE: tuple[State, ...] = ("waiting", "running", "stopping")
"""States of runs that are not over."""
LONGEST = 32
"""Requests that may wait at once."""
NOTE = "rsd: note: "


@dataclass(eq=False)
class Job:
    """A requested run. ``steps``: of the whole run, ``step``: how many are done; ``left``: seconds, None while unknown;
    ``error``: why it failed, one sentence; ``notes``: warnings of the run."""

    request: Request
    folder: Path
    steps: int
    state: State = "waiting"
    step: int = 0
    left: float | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def live(self) -> bool:
        """Whether the run is not over."""
        return self.state in LIVE


class Driver:
    """A queue of runs in the folder ``runs``. ``run``: runs a request to its end; ``clock``: returns seconds.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        runs: Path,
        *,
        device: str = "auto",
        run: Callable[[Request], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.runs, self.device, self.clock = runs.resolve(), device, clock
        self.run = run or (lambda request: run_all(request.head()))
        self.jobs: list[Job] = []
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="rsd-runs", daemon=True)
        self._thread.start()

    # Requests.

    def submit(self, request: Request) -> Job:
        """Check a request as the command line does, and append it to the queue, in a new folder.

        Raises ValueError or OSError, in one sentence, for a request that cannot run.
        """
        request = self._with_device(request)
        head = request.head()
        with self._changed:
            folder = self._free(self.runs / request.command / head.out.name)
            request = request.with_settings(out=folder)
            return self._append(request, folder)

    def resume(self, folder: Path) -> Job:
        """Continue the run in a folder, also one that another process began. Raise ValueError if it is finished, in the
        queue, or outside of the folder of runs."""
        folder = self.inside(folder)
        with self._changed:
            if (job := self.job(folder)) and job.live:
                raise ValueError(f"{folder.name} is already {job.state}; wait until it ends.")
            if (folder / METRICS).exists():
                raise ValueError(f"{folder.name} is finished; start a new run.")
            before = next((job for job in reversed(self.jobs) if job.folder == folder), None)
            if before and not (folder / CONFIG).exists():  # it had not begun
                return self._append(before.request, folder)
            return self._append(self._with_device(continued(folder)), folder)

    def cancel(self, job: Job) -> None:
        """Stop a run after its current step, with a checkpoint; a run that waits does not start."""
        with self._changed:
            if job.state == "waiting":
                job.state = "stopped"
            elif job.state == "running":
                job.state = "stopping"
            job.cancelled.set()
            self._changed.notify_all()

    def close(self, timeout: float | None = None) -> None:
        """Stop the current run as :meth:`cancel` does, wait for it, and run nothing more."""
        with self._changed:
            self._closed = True
            for job in self.jobs:
                if job.live:
                    self.cancel(job)
            self._changed.notify_all()
        self._thread.join(timeout)

    # Reports.

    def job(self, folder: Path | str) -> Job | None:
        """Return the last job in a folder; None if this driver has none."""
        with self._changed:
            return next((job for job in reversed(self.jobs) if job.folder == Path(folder)), None)

    def latest(self, command: str) -> Job | None:
        """Return the last job of a command; None if there is none."""
        with self._changed:
            return next((job for job in reversed(self.jobs) if job.request.command == command), None)

    def place(self, job: Job) -> int:
        """Return how many runs are before a job in the queue, the running one included; 0 if it runs or is over."""
        with self._changed:
            return sum(one.live for one in self.jobs[: self.jobs.index(job)]) if job.state == "waiting" else 0

    def wait(self, job: Job, timeout: float | None = None) -> bool:
        """Wait until a job is over; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not job.live, timeout)

    def inside(self, folder: Path | str) -> Path:
        """Return a folder's path. Raise ValueError if it is not inside the folder of runs."""
        found = (self.runs / folder).resolve()
        if self.runs not in found.parents:
            raise ValueError(f"{folder} is not in the folder of runs {self.runs}; choose a run that the page lists.")
        return found

    # The thread.

    def _with_device(self, request: Request) -> Request:
        return request if self.device == "auto" else request.with_settings(device=self.device)

    def _append(self, request: Request, folder: Path) -> Job:
        if self._closed:
            raise ValueError("rsd ui is ending; start it again.")
        if sum(job.live for job in self.jobs) > LONGEST:
            raise ValueError(f"{LONGEST} runs wait already; wait until one ends, or cancel one.")
        job = Job(request, folder, request.head().options.steps)
        self.jobs.append(job)
        self._changed.notify_all()
        return job

    def _free(self, folder: Path) -> Path:
        """Return the folder, with a number if it is in use."""
        taken = {job.folder for job in self.jobs}
        found, number = folder, 1
        while found in taken or found.exists():
            number += 1
            found = folder.with_name(f"{folder.name}-{number}")
        return found

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if job is None:
                    return
                job.state = "running"
            state, error = self._run(job)
            with self._changed:
                job.state, job.error, job.left = state, error, None
                self._changed.notify_all()

    def _next(self) -> Job | None:
        return next((job for job in self.jobs if job.state == "waiting"), None)

    def _run(self, job: Job) -> tuple[State, str]:
        """Run a job. Return its final state, and why it failed."""
        with listening(self._listener(job)), collected_notes(job.notes):
            try:
                self.run(job.request)
            except KeyboardInterrupt:
                return "stopped", ""
            except Exception as error:
                return "failed", describe(error)
        return "done", ""

    def _listener(self, job: Job) -> Callable[[Session, Record], bool]:
        """Return what follows a job's steps: it counts them, estimates the time left, and stops a cancelled run."""
        first: tuple[float, int] | None = None

        def listen(session: Session, record: Record) -> bool:
            nonlocal first
            now, job.step = self.clock(), record.step + 1
            if first is None:
                first = now, job.step  # the first step is slower: it plans memory and selects kernels
            else:
                began, at = first
                job.left = (now - began) / (job.step - at) * (job.steps - job.step)
            return job.cancelled.is_set()

        return listen


def can_continue(folder: Path) -> bool:
    """Return whether a folder holds a run that has begun and is not finished."""
    return (folder / CONFIG).exists() and not (folder / METRICS).exists()


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run left a checkpoint."""
    return (folder / CHECKPOINT).exists()


class _Notes(io.TextIOBase):
    """Standard error that also collects the notes of the run's thread."""

    def __init__(self, notes: list[str]):
        self.notes, self.out, self.thread = notes, sys.stderr, threading.get_ident()

    def write(self, text: str) -> int:
        """Write text, and keep the notes in it."""
        if threading.get_ident() == self.thread and text.startswith(NOTE):
            self.notes.append(text.removeprefix(NOTE).strip())
        return self.out.write(text)

    def flush(self) -> None:
        """Flush standard error."""
        self.out.flush()

    def isatty(self) -> bool:
        """Return whether standard error is a terminal."""
        return self.out.isatty()


@contextmanager
def collected_notes(notes: list[str]) -> Iterator[None]:
    """Append to ``notes`` the warnings that this thread prints meanwhile."""
    with redirect_stderr(_Notes(notes)):  # type: ignore[type-var]
        yield
