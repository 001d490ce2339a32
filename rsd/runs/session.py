"""A run in its folder: the progress bar, the log, frames of a film, checkpoints, Ctrl-C, and what it has cost.

Any head's :class:`rsd.runs.run.Run` works. Where several processes share its particles, the main one writes all files.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rsd import media
from rsd.distributed import ALONE, Ensemble, agree, collect, processes
from rsd.engine import Record
from rsd.errors import TRACEBACK, told
from rsd.memory.peak import peak_bytes, reset_peak
from rsd.priors.base import Prior
from rsd.runs.citations import bibtex
from rsd.runs.folder import CHECKPOINT, RunFolder, locked, provenance, write_bytes
from rsd.runs.progress import Progress, unseen
from rsd.runs.run import Run

FRAMES = 40
EMPTY = ("[]", "{}")
"""The last part of the name, in a checkpoint, of an empty list and an empty dict."""


class Session:
    """A run that goes on from its folder's checkpoint, if there is one: :meth:`drive` it, then :meth:`finish` it."""

    def __init__(self, run: Run, folder: RunFolder, prior: Prior):
        """Load the checkpoint and drop the log beyond it. Raises ValueError for a checkpoint that does not fit."""
        self.run, self.folder, self.prior = run, folder, prior
        self.ensemble: Ensemble = getattr(run, "ensemble", ALONE)
        self.before: dict[str, Any] = {"seconds": 0.0, "network_calls": {}}
        saved = folder.load_checkpoint()
        if self.ensemble.agree(saved is not None) and self.ensemble.agree(saved is None):
            raise ValueError(
                f"Some of the processes see no {CHECKPOINT} in {folder.path}, others do; --out must be a folder that "
                f"all of them share. Give one, or delete {CHECKPOINT} there to start this run again."
            )
        if saved is not None:
            tensors, self.before = saved
            try:
                run.load_state(self._mine(nested(tensors)))
            except KeyError as error:
                raise ValueError(
                    f"The checkpoint in {folder.path} lacks {error}: another version of rsd wrote it; delete "
                    f"{CHECKPOINT} there to start this run again."
                ) from error
        if self.ensemble.main:
            folder.truncate_log(0 if saved is None else run.step)
        self.calls_before, self.clock = prior.calls.copy(), time.monotonic()
        reset_peak(prior.device)

    def _mine(self, state: dict[str, Any]) -> dict[str, Any]:
        """This process's part of a checkpoint. Raises ValueError if there were more processes or fewer."""
        parts, now = state.get("processes", [state]), len(self.ensemble.parts)
        if len(parts) != now:
            raise ValueError(
                f"The particles in {self.folder.path} were shared by {len(parts)} process(es), here are {now}; start "
                f"{len(parts)} to go on, or delete {CHECKPOINT} there to start this run again."
            )
        return parts[self.ensemble.rank]

    def save(self) -> None:
        """The checkpoint, of all processes' particles."""
        state = {k: v.detach().cpu() for k, v in flat(self.run.state()).items()}
        parts, spent = self.ensemble.collect(state), self.spent()
        if parts is None:
            return
        if len(parts) > 1:
            state = {f"processes/[{k}]/{name}": v for k, part in enumerate(parts) for name, v in part.items()}
        self.folder.save_checkpoint(state, {"step": self.run.step, **spent})

    def spent(self) -> dict[str, Any]:
        """``seconds`` and ``network_calls`` of the run so far, those before an interruption and of all processes
        included (in what the main one is told), and ``peak_bytes``, the most memory of any."""
        calls = self.prior.calls.copy()
        calls.subtract(self.calls_before)
        calls = sum(self.ensemble.collect(calls) or [], Counter())
        calls.update(self.before["network_calls"])
        peaks = [*(self.ensemble.collect(peak_bytes(self.prior.device)) or []), self.before.get("peak_bytes")]
        return {
            "seconds": self.before["seconds"] + time.monotonic() - self.clock,
            "network_calls": dict(calls),
            "peak_bytes": max((peak for peak in peaks if peak), default=None),
        }

    def drive(self, *, steps: int, name: str, checkpoint_every: int, remedy: str) -> None:
        """Run to the end. Ctrl-C, or a launcher's SIGTERM, finishes the step in progress, saves a checkpoint and raises
        KeyboardInterrupt.

        Raises ValueError, which ends in ``remedy``, if a record is not finite.
        """
        frames = {round(k * (steps - 1) / FRAMES) for k in range(FRAMES + 1)}
        run, folder, main = self.run, self.folder, self.ensemble.main
        lines = Progress(steps, f"{name}: step", done=run.step) if unseen() and processes().main else None
        with (
            interruptible() as signals,
            tqdm(
                total=steps, initial=run.step, desc=name, leave=False, disable=None if processes().main else True
            ) as bar,
        ):
            for record in run.steps():
                if main:
                    folder.log(record.row())
                if not all(map(math.isfinite, (record.residual, record.repulsion, *record.losses.values()))):
                    raise ValueError(f"The run diverged at step {record.step}; {remedy}.")
                if record.step in frames:
                    images = run.images()
                    if main:
                        media.write_png(folder.path / "frames" / f"{record.step:05d}.png", strip(images))
                bar.set_postfix(**_told(record), refresh=False)
                bar.update()
                if lines:
                    lines.tick(", ".join(f"{k} {v}" for k, v in _figures(record).items()))
                interrupted = self.ensemble.agree(bool(signals))
                if run.step % checkpoint_every == 0 or interrupted:
                    self.save()
                if interrupted:
                    raise KeyboardInterrupt

    def film(self, images: torch.Tensor) -> None:
        """evolution.gif from the frames and the result ``images`` [N, 3, H, W]."""
        folder = self.folder.path
        files = sorted((folder / "frames").glob("*.png"))
        media.write_gif(folder / "evolution.gif", [_unstrip(media.read_image(f)) for f in files] + [images])

    def finish(self, images: torch.Tensor, figures: dict[str, Any], *, seed: int, model: str, cited: list[str]) -> None:
        """The film of a run that ends in ``images``, provenance.json, citations.bib (``cited``: keys of rsd.citations)
        and, last, metrics.json: ``figures`` and what the run has cost. Only then, when nothing can be resumed any more,
        the frames go: a run killed before and resumed makes the whole film again. All processes come here."""
        spent = self.spent()
        if not self.ensemble.main:
            return
        self.film(images)
        revision, device = getattr(self.prior, "revision", None), str(self.prior.device)
        about = provenance(seed=seed, model=model, revision=revision, device=device)
        if not self.ensemble.alone:
            about["processes"] = {"number": len(self.ensemble.parts), "bytes_gathered": dict(self.ensemble.bytes)}
        self.folder.write_json("provenance.json", about)
        write_bytes(self.folder.path / "citations.bib", bibtex(cited).encode())
        self.folder.finish({**figures, **spent})
        shutil.rmtree(self.folder.path / "frames", ignore_errors=True)


def _told(record: Record) -> dict[str, Any]:
    """What the progress bar says: the first loss, if any, and the repulsion beside the score."""
    first = dict(list(record.losses.items())[:1])
    return {**first, "repulsion": f"{record.ratio:.2f}"}


def _figures(record: Record) -> dict[str, str]:
    """What a line of progress says: the same, and the residual of steps.jsonl."""
    first = {name: f"{loss:.3g}" for name, loss in list(record.losses.items())[:1]}
    return {**first, "residual": f"{record.residual:.3g}", "repulsion": f"{record.ratio:.2f}"}


@contextmanager
def working_in(path: Path, *, main: bool) -> Iterator[None]:
    """Hold an output folder's lock (:func:`rsd.runs.folder.locked`) on the process that is ``main``. Raises on all of
    a run's processes what the main one raises, so that none waits for it."""
    with ExitStack() as stack:
        error: Exception | None = None
        if main:
            try:
                stack.enter_context(locked(path))
            except (ValueError, OSError) as found:
                error = found
        if agree(error is not None):
            raise error or ValueError(f"The main process cannot work in {path}; it says why.")
        yield


def alone(folder: RunFolder, work: Callable[[], Any]) -> Any:
    """Do ``work`` in a run's folder, as the only process that works there."""
    with locked(folder.path):
        return work()


def survives(name: str, failures: dict[str, str], work: Callable[[], Any], several: bool) -> None:
    """Run ``work``; among several any error is kept, as a sentence, in ``failures`` for the end, that of a single one
    is raised."""
    try:
        work()
    except Exception as error:
        if not several:
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        failures[name] = told(error)


def of_all(failures: dict[str, str]) -> dict[str, str]:
    """On the main process what failed on any; nothing on the others. Waits for all."""
    return {name: why for part in collect(failures) or [] for name, why in part.items()}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is what Accelerate picks. Of several processes on a machine each has its own GPU.
    Raises ValueError if nothing can be computed on it."""
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
            f"Device {name} was asked for, but torch sees no CUDA here; use --device cpu or see `rsd doctor`."
        )
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # torch has many ways to say that there is no cuda:7, no mps, no numbers on meta
        raise ValueError(f"Device {name} cannot be used here; use --device cpu or see `rsd doctor`.") from error
    return device


def flat(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested dicts and lists of tensors and numbers as one dict, "a/b" for a["b"], "a/[0]" for a[0]; empty ones are
    the empty tensors "a/{}" and "a/[]"."""
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
    """The inverse of :func:`flat`."""
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
    """[N, 3, H, W] as one picture [1, 3, H, N W], clamped."""
    return torch.cat(list(images.detach().cpu().float().clamp(-1, 1)), dim=-1)[None]


def _unstrip(picture: torch.Tensor) -> torch.Tensor:
    return torch.cat(picture.split(picture.shape[-2], dim=-1))


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM make true: the step in progress is finished first, so that nothing is left half
    done."""
    flag: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.signal(kind, lambda *_: flag.append(1))
    except ValueError:  # not the main thread: leave signals to whoever owns it
        yield flag
        return
    try:
        yield flag
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
