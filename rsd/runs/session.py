"""Drive a run in its folder: progress bar, log, frames, checkpoints, Ctrl-C and costs. Also errors, devices, warnings.

If several processes share the particles of a run, the main one writes all files.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rsd import media
from rsd.distributed import agree, collect, processes
from rsd.engine import Record
from rsd.errors import TRACEBACK, describe
from rsd.memory.usage import peak_bytes, reset_peak
from rsd.priors.base import Prior
from rsd.runs.citations import bibtex
from rsd.runs.folder import CHECKPOINT, RunFolder, locked, provenance, write_bytes
from rsd.runs.progress import Progress, output_redirected
from rsd.runs.run import Run

FRAMES = 40
FILM = 512
"""The longer side of a picture in the film and the preview, in pixels, at most."""
PREVIEW = "preview.png"
EMPTY = ("[]", "{}")
"""The last part of a checkpoint key for an empty list and an empty dict."""

Listener = Callable[["Session", Record], bool | None]
"""What is called after each step with the session and the step's record, when its row and pictures are written. True
stops the run as Ctrl-C does: it saves a checkpoint and raises KeyboardInterrupt."""
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` after each step of the runs that this thread drives meanwhile."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


class Session:
    """A run that resumes from its folder's checkpoint, if there is one. Call :meth:`drive`, then :meth:`finish`.

    ``whole``: from the run's images [N, 3, h, w] to those that the film and the preview show."""

    def __init__(
        self, run: Run, folder: RunFolder, prior: Prior, *,
        whole: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
    ):  # fmt: skip
        """Load the checkpoint and truncate the log to it. Raise ValueError if the checkpoint does not fit the run."""
        self.run, self.folder, self.prior, self.whole = run, folder, prior, whole
        self.ensemble = run.ensemble
        self.previous: dict[str, Any] = {"seconds": 0.0, "network_calls": {}}
        saved = folder.load_checkpoint()
        if self.ensemble.agree(saved is not None) and self.ensemble.agree(saved is None):
            raise ValueError(
                f"Some of the processes see no {CHECKPOINT} in {folder.path}, others do; --out must be a folder that "
                f"all processes share. Give one, or delete {CHECKPOINT} there to restart this run."
            )
        if saved is not None:
            tensors, self.previous = saved
            try:
                run.load_state(self._mine(nested(tensors)))
            except KeyError as error:
                raise ValueError(
                    f"The checkpoint in {folder.path} has no {error}: another version of rsd wrote it; delete "
                    f"{CHECKPOINT} there to restart this run."
                ) from error
        if self.ensemble.main:
            folder.truncate_log(0 if saved is None else run.step)
        self.calls_before, self.clock = prior.calls.copy(), time.monotonic()
        reset_peak(prior.device)

    def _mine(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return this process's part of a checkpoint. Raise ValueError if the number of processes has changed."""
        parts, now = state.get("processes", [state]), len(self.ensemble.parts)
        if len(parts) != now:
            raise ValueError(
                f"{len(parts)} process(es) shared the particles in {self.folder.path}, but there are {now} now; start "
                f"{len(parts)} to resume, or delete {CHECKPOINT} there to restart this run."
            )
        return parts[self.ensemble.rank]

    def save(self) -> None:
        """Save a checkpoint of all processes' particles."""
        state = {k: v.detach().cpu() for k, v in flat(self.run.state()).items()}
        parts, spent = self.ensemble.collect(state), self.spent()
        if parts is None:
            return
        if len(parts) > 1:
            state = {f"processes/[{k}]/{name}": v for k, part in enumerate(parts) for name, v in part.items()}
        self.folder.save_checkpoint(state, {"step": self.run.step, **spent})

    def spent(self) -> dict[str, Any]:
        """Return the costs so far, including those before an interruption: ``seconds``, ``network_calls`` and
        ``peak_bytes``. On the main process they include all processes: the sum of the calls, the largest peak."""
        calls = self.prior.calls.copy()
        calls.subtract(self.calls_before)
        calls = sum(self.ensemble.collect(calls) or [], Counter())
        calls.update(self.previous["network_calls"])
        peaks = [*(self.ensemble.collect(peak_bytes(self.prior.device)) or []), self.previous.get("peak_bytes")]
        return {
            "seconds": self.previous["seconds"] + time.monotonic() - self.clock,
            "network_calls": dict(calls),
            "peak_bytes": max((peak for peak in peaks if peak), default=None),
        }

    def drive(self, *, steps: int, name: str, checkpoint_every: int, remedy: str) -> None:
        """Run to the end. After Ctrl-C or SIGTERM, finish the current step, save a checkpoint and raise
        KeyboardInterrupt.

        Raises ValueError, with ``remedy``, if a record is not finite.
        """
        frames = {round(k * (steps - 1) / FRAMES) for k in range(FRAMES + 1)}
        run, folder, main = self.run, self.folder, self.ensemble.main
        lost = sum(step < run.step and not self.frame(step).exists() for step in frames) if main else 0
        if lost:
            warnings.warn(
                f"{lost} of {len(frames)} pictures of the film are missing in {self.frame(0).parent}; "
                "evolution.gif leaves them out.",
                stacklevel=2,
            )
        with interruptible() as signals, progress_bar(steps, name, done=run.step) as show:
            listeners = (show, *_LISTENERS.get())
            for record in run.steps():
                if main:
                    folder.log(record.row())
                if not all(map(math.isfinite, (record.residual, record.repulsion, *record.losses.values()))):
                    raise ValueError(f"The run diverged at step {record.step}; {remedy}.")
                if record.step in frames:
                    images = run.images()
                    if main:
                        shown = strip(media.shrunk(self.whole(images), FILM))
                        media.write_png(self.frame(record.step), shown)
                        media.write_png(folder.path / PREVIEW, shown)
                stopped = [listen(self, record) for listen in listeners]
                interrupted = self.ensemble.agree(bool(signals) or any(stopped))
                if run.step % checkpoint_every == 0 or interrupted:
                    self.save()
                if interrupted:
                    raise KeyboardInterrupt

    def frame(self, step: int) -> Path:
        """Return the file of a step's picture in the film."""
        return self.folder.path / "frames" / f"{step:05d}.png"

    def film(self, images: torch.Tensor) -> None:
        """Write evolution.gif from the frames and the result ``images`` [N, 3, H, W]."""
        folder = self.folder.path
        files = sorted(self.frame(0).parent.glob("*.png"))
        last = media.shrunk(self.whole(images), FILM)
        frames = [_unstrip(media.read_image(f), len(images)) for f in files]
        media.write_gif(folder / "evolution.gif", [*frames, last])

    def finish(
        self, images: torch.Tensor, figures: dict[str, Any], *, seed: int, model: str, cited: list[str],
        notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Write the film, provenance.json (with ``notes`` on the input), citations.bib (``cited``: keys of
        rsd.runs.citations) and metrics.json (``figures`` and costs), then delete the frames. Every process calls it.

        metrics.json marks the run as finished, so it is written last; until then a resumed run needs the frames."""
        spent = self.spent()
        if not self.ensemble.main:
            return
        self.film(images)
        revision, device = self.prior.revision, str(self.prior.device)
        about = provenance(seed=seed, model=model, revision=revision, device=device)
        if notes:
            about["notes"] = list(notes)
        if not self.ensemble.alone:
            about["processes"] = {"number": len(self.ensemble.parts), "bytes_gathered": dict(self.ensemble.bytes)}
        self.folder.write_json("provenance.json", about)
        write_bytes(self.folder.path / "citations.bib", bibtex(cited).encode())
        self.folder.finish({**figures, **spent})
        shutil.rmtree(self.frame(0).parent, ignore_errors=True)
        (self.folder.path / PREVIEW).unlink(missing_ok=True)


@contextmanager
def progress_bar(steps: int, name: str, *, done: int) -> Iterator[Listener]:
    """Yield the listener that shows progress: a bar, or lines if output goes to a file."""
    main = processes().main
    lines = Progress(steps, f"{name}: step", done=done) if output_redirected() and main else None
    with tqdm(total=steps, initial=done, desc=name, leave=False, disable=None if main else True) as bar:

        def show(_: Session, record: Record) -> None:
            bar.set_postfix(**_bar_figures(record), refresh=False)
            bar.update()
            if lines:
                lines.tick(", ".join(f"{k} {v}" for k, v in _line_figures(record).items()))

        yield show


def _bar_figures(record: Record) -> dict[str, Any]:
    """Return the first loss and the repulsion relative to the residual, for the progress bar."""
    first = dict(list(record.losses.items())[:1])
    return {**first, "repulsion ratio": f"{record.ratio:.2f}"}


def _line_figures(record: Record) -> dict[str, str]:
    """Return the same and the residual, for a progress line."""
    first = {name: f"{loss:.3g}" for name, loss in list(record.losses.items())[:1]}
    return {**first, "residual": f"{record.residual:.3g}", "repulsion ratio": f"{record.ratio:.2f}"}


@contextmanager
def working_in(path: Path, *, main: bool) -> Iterator[None]:
    """Lock an output folder on the ``main`` process (:func:`rsd.runs.folder.locked`). If that fails, raise on all
    processes, so that none waits forever."""
    with ExitStack() as stack:
        error: Exception | None = None
        if main:
            try:
                stack.enter_context(locked(path))
            except (ValueError, OSError) as found:
                error = found
        if agree(error is not None):
            raise error or ValueError(f"The main process cannot use {path}; see its message.")
        yield


def collect_failure(name: str, failures: dict[str, str], work: Callable[[], Any], several: bool) -> None:
    """Run ``work``. If there are ``several`` items, catch its error and add the message to ``failures``."""
    try:
        work()
    except Exception as error:
        if not several:
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        failures[name] = describe(error)


def merge_failures(failures: dict[str, str]) -> dict[str, str]:
    """Return the failures of all processes on the main one, nothing on the others. Waits for all processes."""
    return {name: why for part in collect(failures) or [] for name, why in part.items()}


def flat(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Flatten nested dicts and lists of tensors and numbers: "a/b" for a["b"], "a/[0]" for a[0]. Empty ones become the
    empty tensors "a/{}" and "a/[]"."""
    if not isinstance(state, (dict, list)):
        return {prefix: state if isinstance(state, torch.Tensor) else torch.tensor(state)}
    if not state:
        return {f"{prefix}/{EMPTY[isinstance(state, dict)]}".lstrip("/"): torch.zeros(0)}
    items = state.items() if isinstance(state, dict) else ((f"[{k}]", value) for k, value in enumerate(state))
    out: dict[str, torch.Tensor] = {}
    for key, value in items:
        out |= flat(value, f"{prefix}/{key}" if prefix else str(key))
    return out


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Invert :func:`flat`."""
    out: dict[str, Any] = {}
    for name, value in tensors.items():
        *path, last = name.split("/")
        at = out
        for key in path:
            at = at.setdefault(key, {})
        if last != EMPTY[True]:
            at[last] = value
    return {key: _with_lists(value) for key, value in out.items()}


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if EMPTY[False] in value:
        return []
    inside = {key: _with_lists(v) for key, v in value.items()}
    if not inside or not all(key.startswith("[") for key in inside):
        return inside
    return [inside[f"[{k}]"] for k in range(len(inside))]


def strip(images: torch.Tensor) -> torch.Tensor:
    """Put images [N, 3, H, W] side by side, [1, 3, H, N W], clamped."""
    return torch.cat(list(images.detach().cpu().float().clamp(-1, 1)), dim=-1)[None]


def _unstrip(picture: torch.Tensor, number: int) -> torch.Tensor:
    return torch.cat(picture.chunk(number, dim=-1))


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Yield a list that is not empty after Ctrl-C or SIGTERM, so that the current step can be finished first."""
    flag: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.signal(kind, lambda *_: flag.append(1))
    except ValueError:  # not the main thread, which owns the signals
        yield flag
        return
    try:
        yield flag
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
