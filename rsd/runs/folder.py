"""Run folders: files are written atomically, and other runs are never overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

SUMMARIES = ("summary.json", "summary.csv")
CONFIG, LOG, METRICS, CHECKPOINT = "config.yaml", "steps.jsonl", "metrics.json", "checkpoint.safetensors"
INPUTS, SAMPLES = "inputs.json", "particles"
LOCK = ".lock"
"""The lock file of a process that works in the folder. A killed process leaves the file, unlocked."""
CHECKSUM = "crc32"
"""The key of the checksum in the metadata of a safetensors file."""


def slug(text: str, limit: int = 60) -> str:
    """Return a safe folder name of lower-case letters without accents, digits, dots and dashes. A long or changed text
    ends in a short hash, so different texts have different names, also on file systems that ignore case."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    safe = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
    if safe and safe == text and len(safe) <= limit:
        return safe
    mark = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{safe[: limit - 9].rstrip('-.')}-{mark}".lstrip("-")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: no reader, killed run or concurrent writer sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException:  # a full disk or an interruption: keep the old file and no partial one
        part.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Create an output folder if necessary, and lock it against other processes. Reentrant. The system's lock on a file
    in it ends with the process.

    Raises ValueError, with the holder, if another process has the lock; PermissionError if the folder cannot be
    created. On a file system without locks, warns and continues.
    """
    key = os.path.realpath(path)
    if key in _LOCKED:
        yield
        return
    made = _missing_folders(path)
    try:
        file = _acquire(path)
        _LOCKED.add(key)
        try:
            yield
        finally:
            _LOCKED.discard(key)
            _release(path, file)
    finally:
        for folder in made:  # remove new folders that stayed empty
            with suppress(OSError):
                folder.rmdir()


_LOCKED: set[str] = set()
TRIES, PAUSE = 5, 0.05
"""Attempts at a lock and seconds between them, since another process may be releasing it."""


def lock_holder(path: Path) -> str | None:
    """Describe the other process that has locked an output folder; None if there is none or it is unknown."""
    if os.path.realpath(path) in _LOCKED:
        return None
    try:
        file = os.open(path / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _lock(file, share=True) is not False else _describe_holder(path)
    finally:
        os.close(file)


def _missing_folders(path: Path) -> list[Path]:
    """Return which of a folder and its parents do not exist, innermost first."""
    try:
        return [folder for folder in (path, *path.parents) if not folder.exists()]
    except OSError as error:
        raise _not_writable(path, error) from error


def _acquire(path: Path) -> int | None:
    """Open and lock the lock file of a folder. Return None, with a warning, if the file system has no locks."""
    for k in range(TRIES):
        time.sleep(PAUSE if k else 0)
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has removed the empty folder
            continue
        except OSError as error:
            raise _not_writable(path, error) from error
        got = _lock(file)
        if got is None:
            os.close(file)
            warnings.warn(
                f"{path} is on a file system without locks; make sure that no other process uses it.", stacklevel=4
            )
            return None
        if got and _is_same_file(path / LOCK, file):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            with suppress(OSError):  # a full disk: it is locked anyway
                os.ftruncate(file, 0)
                os.write(file, json.dumps(about).encode())
            return file
        os.close(file)  # locked by another process, or just deleted by it
    raise _in_use(path)


def _release(path: Path, file: int | None) -> None:
    """Release the lock of :func:`_acquire`."""
    with suppress(OSError):  # Windows cannot delete open files: it stays, unlocked
        (path / LOCK).unlink()
    if file is not None:
        _lock(file, release=True)  # explicitly, since a forked process may have the file open
        os.close(file)


def _is_same_file(path: Path, file: int) -> bool:
    """Return whether an open file is still the one at that path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False


def _lock(file: int, *, share: bool = False, release: bool = False) -> bool | None:
    """Lock an open file (``share``: with a shared lock) or release it. Return whether that worked; None if the file
    system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # a lock at that offset does not prevent reading
            msvcrt.locking(file, msvcrt.LK_UNLCK if release else msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            kind = fcntl.LOCK_UN if release else fcntl.LOCK_SH if share else fcntl.LOCK_EX
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        held = isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
        return False if held else None
    return True


def _describe_holder(path: Path) -> str:
    """Describe the process that wrote the lock file."""
    try:
        about = json.loads((path / LOCK).read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} has used it since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just started or ended
        return "another process uses it"


def _in_use(path: Path) -> ValueError:
    return ValueError(
        f"The output folder {path} is in use: {_describe_holder(path)}; wait until it ends, or choose another --out."
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _final_name(name: str) -> str:
    """Return the name of a file, also of a partial one left by a killed :func:`write_bytes`."""
    half = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part", name)
    return half[1] if half else name


def write_json(path: Path, value: Any) -> None:
    """Write JSON with an indent of 2; NaN is an error."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_own(path: Path, names: Collection[str]) -> None:
    """Raise ValueError if a folder contains a file that is not in ``names``, OSError if it cannot be read."""
    if path.is_dir() and (others := _foreign_names(_names(path), names)):
        raise _foreign_files(path, others)


def _foreign_names(held: set[str], names: Collection[str]) -> set[str]:
    return {name for name in held if _final_name(name) not in names}


def check_folder_of_runs(path: Path, *, resume: bool, own: Collection[str] = SUMMARIES, runs: str = "*") -> None:
    """Check the output folder of several runs before anything is written.

    ``own``: its files beside the runs; ``runs``: the glob pattern of the runs. Raises ValueError if ``path`` is a file,
    contains a single run, other files, or (unless ``resume``) runs; PermissionError if it is not writable.
    """
    held = _contents(path)
    if CONFIG in held:
        raise ValueError(f"The output folder {path} contains a single run; choose another --out.")
    found = [p for p in path.glob(runs) if p.is_dir() and _is_run(p)] if held else []
    places = [p.relative_to(path).parts for p in found]
    if others := _foreign_names(held, {*own, *(parts[0] for parts in places)}):  # others may start runs meanwhile
        raise _foreign_files(path, others)
    if not resume and (
        any((p / CONFIG).exists() for p in found) or held.intersection(own) and not _is_of_failures(path)
    ):
        if lock_holder(path):
            raise _in_use(path)
        raise ValueError(
            f"The output folder {path} contains other runs; choose another --out, or add to it with --resume."
        )


def _is_of_failures(path: Path) -> bool:
    """Return whether the summary in a folder is of no finished run."""
    summary = path / "summary.json"
    return summary.is_file() and not any(
        isinstance(rows, list) and rows for rows in json.loads(summary.read_text()).values()
    )


def _is_run(path: Path) -> bool:
    """Return whether a folder is a run's, possibly killed at its start."""
    held = _names(path)
    return not _foreign_names(held, {CONFIG}) or CONFIG in held


def _names(path: Path) -> set[str]:
    """Return the names in a folder except the lock file."""
    return {p.name for p in path.iterdir()} - {LOCK}


class RunFolder:
    """The folder of one run. Nothing is created before :meth:`open`; writers hold the lock (:func:`locked`).

    Raises ValueError if ``path`` is a file or contains another run (unless ``resume``) or other files, PermissionError
    if it is not writable. ``samples``: how many pictures a finished run has in particles/.
    """

    def __init__(self, path: Path, *, resume: bool = False, samples: int = 0):
        self.path, self.resume, self.samples, self._ours = path, resume, samples, False
        held = _contents(path)
        begun = CONFIG in held
        if not begun and (others := _foreign_names(held, {CONFIG})):  # the config is written first
            raise _foreign_files(path, others)
        if begun and not resume:
            raise _other_run(path)

    @property
    def done(self) -> bool:
        """Whether the run has finished and has all its samples."""
        return self.ended and not self.lost

    @property
    def ended(self) -> bool:
        """Whether the run has written its metrics, which comes last."""
        return (self.path / METRICS).exists()

    @property
    def lost(self) -> int:
        """How many samples are missing."""
        held = {file.stem for file in (self.path / SAMPLES).glob("*")}
        return sum(f"{k:02d}" not in held for k in range(self.samples))

    def check(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None,
        inputs: Collection[Path] = (),
    ) -> None:  # fmt: skip
        """Raise ValueError if the folder contains a run with other settings (:meth:`differences`), or if one of the
        ``inputs``, the files that it reads, has changed since. Older versions kept no digests of them."""
        if other := self.differences(config, later=later, added=added):
            raise ValueError(f"Cannot resume {self.path} with other settings: {other}; choose another --out.")
        file = self.path / INPUTS
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        for name, digest in digests(inputs).items() if before else ():
            if before.get(name, digest) != digest:
                raise ValueError(
                    f"{name} is not the file that the run in {self.path} began with; put that file back, or choose "
                    "another --out."
                )

    def differences(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> str:
        """Describe how the settings of the folder's run differ from ``config``; "" if they do not or there is no run.
        ``later``: settings that may have been None. ``added``: settings that older versions did not have, with the
        values that their runs used. Raises ValueError if the file is damaged."""
        file = self.path / CONFIG
        if not file.exists():
            return ""
        before = {**(added or {}), **_read_config(file)}
        config = yaml.safe_load(yaml.safe_dump(config))  # tuples become lists, as they did in the file
        open_still = {k for k in later if before.get(k) is None}
        other = sorted(k for k in {*before, *config} - open_still if before.get(k) != config.get(k))
        return ", ".join(f"{k} {before.get(k)!r} is now {config.get(k)!r}" for k in other)

    def open(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None,
        inputs: Collection[Path] = (),
    ) -> None:  # fmt: skip
        """Create the folder with its config.yaml and the digests of its ``inputs``, or update the ``later`` settings
        that were None. Raise ValueError if it contains another run (:meth:`check`), PermissionError if it cannot be
        created."""
        file = self.path / CONFIG
        if file.exists() and not (self.resume or self._ours):  # another process has started a run meanwhile
            raise _other_run(self.path)
        self.check(config, later=later, added=added, inputs=inputs)
        self._ours = True
        try:
            if later or not file.exists():
                write_bytes(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
            if inputs and not (self.path / INPUTS).exists():
                self.write_json(INPUTS, digests(inputs))
        except OSError as error:
            raise _not_writable(self.path, error) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file in the folder."""
        write_json(self.path / name, value)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to steps.jsonl, with null for numbers that are not finite."""
        with open(self.path / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), allow_nan=False) + "\n")

    def truncate_log(self, steps: int) -> None:
        """Keep the first ``steps`` rows of steps.jsonl, which the checkpoint covers."""
        file = self.path / LOG
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
            write_bytes(file, "".join(lines).encode())

    def save_checkpoint(self, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        """Save a checkpoint."""
        self.save_tensors(CHECKPOINT, tensors, meta)

    def load_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Load the checkpoint; None if there is none. Raise ValueError if it is damaged."""
        return self.load_tensors(CHECKPOINT, remedy="delete it, then the same command with --resume restarts this run")

    def save_tensors(self, name: str, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        """Save tensors and plain values in a safetensors file, with a checksum."""
        from safetensors.torch import save

        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        about = json.dumps(meta)
        write_bytes(self.path / name, save(plain, metadata={"meta": about, CHECKSUM: _checksum(plain, about)}))

    def load_tensors(self, name: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Load a file of :meth:`save_tensors`; None if it does not exist. Raise ValueError with ``remedy`` if it is
        damaged. Files of older versions have no checksum."""
        from safetensors import SafetensorError, safe_open

        file = self.path / name
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as f:
                about = f.metadata()
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
                meta = json.loads(about["meta"])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is damaged; {remedy}.") from error
        kept = about.get(CHECKSUM)
        if kept is not None and kept != _checksum(tensors, about["meta"]):
            raise ValueError(f"{file} is damaged (its checksum does not match); {remedy}.")
        return tensors, meta

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, which marks the run as finished, and delete the checkpoint."""
        self.write_json(METRICS, metrics)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def metrics(self) -> dict[str, Any]:
        """Read the metrics of a finished run."""
        return json.loads((self.path / METRICS).read_text(encoding="utf-8"))


def digests(files: Collection[Path]) -> dict[str, str]:
    """Return the SHA-256 of each of the files that exist, by its absolute path."""
    found = {}
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.resolve())] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _checksum(tensors: Mapping[str, Any], about: str) -> str:
    """Return the CRC-32 of CPU tensors (names, types, shapes, bytes) and of ``about``. It detects damage, not attacks,
    and is fast enough for gigabytes."""
    import torch

    found = zlib.crc32(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _contents(path: Path) -> set[str]:
    """Return the names in an output folder. Raise ValueError if it is a file, PermissionError if it is not writable."""
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"The output folder {path} is a file; choose another --out.")
        held = _names(path) if path.exists() else set()
        _try_to_write(path)
    except OSError as error:
        raise _not_writable(path, error) from error
    return held


def _other_run(path: Path) -> ValueError:
    if lock_holder(path):  # --resume would not help
        return _in_use(path)
    return ValueError(
        f"The output folder {path} contains another run; choose another --out, or continue with --resume."
    )


def _foreign_files(path: Path, held: set[str]) -> ValueError:
    return ValueError(f"The output folder {path} contains other files ({sorted(held)[0]}, ...); choose another --out.")


def _not_writable(path: Path, error: OSError) -> PermissionError:
    why = error.strerror or str(error)
    return PermissionError(f"The output folder {path} is not writable ({why}); choose another --out.")


def _try_to_write(path: Path) -> None:
    """Raise OSError unless a file can be created in ``path``, or in its nearest existing parent.

    Permission bits are not enough: for root they say yes also in /proc and on read-only disks.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except ValueError as error:  # a null byte
        raise OSError(str(error)) from error
    there = path
    while not there.exists():
        there = there.parent
    with tempfile.TemporaryFile(dir=there):
        pass


def _read_config(file: Path) -> dict[str, Any]:
    """Read a run's config.yaml. Raise ValueError if it is damaged."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged or contains no settings; choose another --out.")
    return found


def finite(value: Any) -> Any:
    """Return a value for JSON, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(*, seed: int, model: str, revision: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """Return the origin of a run: versions, machine, device, model, seed, command and commit."""
    from rsd import __version__

    return {
        "rsd": __version__,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "device": device,
        "model": model,
        "revision": revision,
        "seed": seed,
        "command": ["rsd", *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _versions() -> dict[str, str | None]:
    """Return the versions of the packages that compute a run; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in ("torch", "diffusers", "transformers", "accelerate", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


@cache  # a process runs the code that it started with, also for its later runs
def _commit() -> str | None:
    """Return the commit of this package's checkout, with "+" if there are changes; None outside a checkout."""
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():
        return None
    ask = lambda *a: subprocess.run(  # noqa: E731
        ["git", *a], cwd=here, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
