"""Run folders: everything in them is written whole or not at all, and nothing of another run is touched."""

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
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

SUMMARIES = ("summary.json", "summary.csv")
CONFIG, LOG, METRICS, CHECKPOINT = "config.yaml", "steps.jsonl", "metrics.json", "checkpoint.safetensors"
LOCK = ".lock"
"""Is there while a process works in the folder. One that was killed leaves the file, which then locks nothing."""
CHECKSUM = "crc32"
"""Where the metadata of a safetensors file keeps the checksum of all else in it."""


def slug(text: str, limit: int = 60) -> str:
    """A safe folder name: lower-case letters, digits, dots and dashes, never empty; a long or changed text ends in a
    short hash, so different texts keep different names, also where "A" and "a" are the same file."""
    safe = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
    if safe and safe == text and len(safe) <= limit:
        return safe
    mark = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{safe[: limit - 9].rstrip('-.')}-{mark}".lstrip("-")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader, a killed run, or a process that writes the same file never sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException:  # a full disk, an interruption: what was there before stays, and no half is left beside it
        part.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Work in an output folder, made if it is not there, as the only process: the system's lock on a file in it, which
    ends with the process, however that ends. What this process has locked already is locked for it.

    Raises ValueError, which says who, if another process works there; PermissionError if the folder cannot be made. On
    a file system without locks a warning says so, and the work goes on.
    """
    key = os.path.realpath(path)
    if key in _LOCKED:
        yield
        return
    made = _missing(path)
    try:
        file = _take(path)
        _LOCKED.add(key)
        try:
            yield
        finally:
            _LOCKED.discard(key)
            _give(path, file)
    finally:
        for folder in made:  # nothing was written: nothing is left
            with suppress(OSError):
                folder.rmdir()


_LOCKED: set[str] = set()
TRIES, PAUSE = 5, 0.05
"""How often a lock is tried, and the seconds between: another process may be giving it back."""


def worker(path: Path) -> str | None:
    """Who works in an output folder, for the user; None if nobody does, if it is this process, or if nobody can say."""
    if os.path.realpath(path) in _LOCKED:
        return None
    try:
        file = os.open(path / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _lock(file, share=True) is not False else _told(path)
    finally:
        os.close(file)


def _missing(path: Path) -> list[Path]:
    """Of a folder and those above it, which are not there, the innermost first."""
    try:
        return [folder for folder in (path, *path.parents) if not folder.exists()]
    except OSError as error:
        raise _unwritable(path, error) from error


def _take(path: Path) -> int | None:
    """The open, locked file of a folder; None, with a warning, where there are no locks."""
    for k in range(TRIES):
        time.sleep(PAUSE if k else 0)
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process found nothing to do, and took the empty folder away
            continue
        except OSError as error:
            raise _unwritable(path, error) from error
        got = _lock(file)
        if got is None:
            os.close(file)
            warnings.warn(
                f"{path} is on a file system without locks; see to it that no other process works there.", stacklevel=4
            )
            return None
        if got and _is_still(path / LOCK, file):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            with suppress(OSError):  # a full disk: locked it is
                os.ftruncate(file, 0)
                os.write(file, json.dumps(about).encode())
            return file
        os.close(file)  # another's, or the file that another has just given back
    raise _busy(path)


def _give(path: Path, file: int | None) -> None:
    """Give back what :func:`_take` took."""
    with suppress(OSError):  # Windows deletes no open file: it stays, and locks nothing
        (path / LOCK).unlink()
    if file is not None:
        _lock(file, release=True)  # said, since a forked process may hold the file too
        os.close(file)


def _is_still(path: Path, file: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False


def _lock(file: int, *, share: bool = False, release: bool = False) -> bool | None:
    """Lock an open file (``share``: together with others that do) or release it; whether it is done. None: no locks
    here."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # a lock there keeps nobody from reading who works here
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


def _told(path: Path) -> str:
    """Who wrote a folder's lock."""
    try:
        about = json.loads((path / LOCK).read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} has worked there since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or has just ended
        return "another process works there"


def _busy(path: Path) -> ValueError:
    return ValueError(
        f"The output folder {path} is in use: {_told(path)}; wait until it has ended, or choose another --out."
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _unless_half(name: str) -> str:
    """The name of a file, also of one that :func:`write_bytes` had half written when it was killed."""
    half = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part", name)
    return half[1] if half else name


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces, NaN refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_own(path: Path, names: Collection[str]) -> None:
    """Raise ValueError, in one sentence, if a folder holds what is not in ``names`` (or a half-written one of them);
    OSError if it cannot be read."""
    if path.is_dir() and (others := _others(_names(path), names)):
        raise _foreign(path, others)


def _others(held: set[str], names: Collection[str]) -> set[str]:
    return {name for name in held if _unless_half(name) not in names}


def check_folder_of_runs(path: Path, *, resume: bool, own: Collection[str] = SUMMARIES, runs: str = "*") -> None:
    """Check the folder of several runs, as :class:`RunFolder` does that of one, before anything is written into it.

    ``own``: what it holds beside its runs; ``runs``: where they are, a pattern relative to ``path``. Raises ValueError
    if ``path`` is a file, holds a single run, anything that is neither a run nor its own, or (unless ``resume``) runs;
    PermissionError if it cannot be written.
    """
    held = _held(path)
    if CONFIG in held:
        raise ValueError(f"The output folder {path} holds a single run; choose another --out.")
    found = [p for p in path.glob(runs) if p.is_dir() and _is_run(p)] if held else []
    places = [p.relative_to(path).parts for p in found]
    if others := _others(held, {*own, *(parts[0] for parts in places)}):  # runs may begin meanwhile, in other processes
        raise _foreign(path, others)
    if not resume and (held.intersection(own) or any((p / CONFIG).exists() for p in found)):
        if worker(path):
            raise _busy(path)
        raise ValueError(
            f"The output folder {path} holds other runs; choose another --out, or add to it with --resume."
        )


def _is_run(path: Path) -> bool:
    """Whether a folder is a run's, or what is left of one that was killed at its start."""
    held = _names(path)
    return not _others(held, {CONFIG}) or CONFIG in held


def _names(path: Path) -> set[str]:
    """What a folder holds, but for its lock."""
    return {p.name for p in path.iterdir()} - {LOCK}


class RunFolder:
    """One run's folder. Nothing is created before :meth:`open`. Who works in it holds its lock (:func:`locked`).

    Raises ValueError if ``path`` is a file, holds another run (unless ``resume``) or files that are no run's, and
    PermissionError if it cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = False):
        self.path, self.resume, self._ours = path, resume, False
        held = _held(path)
        begun = CONFIG in held
        if not begun and (others := _others(held, {CONFIG})):  # the config comes first, if only half of it
            raise _foreign(path, others)
        if begun and not resume:
            raise _other(path)

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return (self.path / METRICS).exists()

    def check(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> None:
        """Raise ValueError if the folder holds a run with other settings than ``config`` (:meth:`differences`)."""
        if other := self.differences(config, later=later, added=added):
            raise ValueError(f"Cannot resume {self.path} with other settings: {other}; choose another --out.")

    def differences(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> str:
        """How the settings of the folder's run, if it holds one, differ from ``config``, in words; "" if they do not.
        ``later``: those that may have been None. ``added``: those that older versions did not have, and what their runs
        were made with. Raises ValueError for a damaged file."""
        file = self.path / CONFIG
        if not file.exists():
            return ""
        before = {**(added or {}), **_settings(file)}
        config = yaml.safe_load(yaml.safe_dump(config))  # tuples become lists, as they did in the file
        open_still = {k for k in later if before.get(k) is None}
        other = sorted(k for k in {*before, *config} - open_still if before.get(k) != config.get(k))
        return ", ".join(f"{k} {before.get(k)!r} is now {config.get(k)!r}" for k in other)

    def open(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> None:
        """Create the folder with its config.yaml, or add to that what was None and is among ``later``. Raises
        ValueError if a run with other settings is to be resumed (:meth:`check`), PermissionError if the folder cannot
        be made."""
        file = self.path / CONFIG
        if file.exists() and not (self.resume or self._ours):  # another process has begun meanwhile
            raise _other(self.path)
        self.check(config, later=later, added=added)
        self._ours = True
        if file.exists() and not later:
            return
        try:
            write_bytes(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file in the folder."""
        write_json(self.path / name, value)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to steps.jsonl; numbers that are not finite become null, since JSON has none."""
        with open(self.path / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")

    def truncate_log(self, steps: int) -> None:
        """Keep the first ``steps`` rows of steps.jsonl: those that a checkpoint covers."""
        file = self.path / LOG
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
            write_bytes(file, "".join(lines).encode())

    def save_checkpoint(self, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        """What a killed run needs to go on."""
        self.save_tensors(CHECKPOINT, tensors, meta)

    def load_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What :meth:`save_checkpoint` saved, or None. Raises ValueError for a damaged file."""
        return self.load_tensors(
            CHECKPOINT, remedy="delete it, and the same command with --resume starts this run from its beginning"
        )

    def save_tensors(self, name: str, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        """Tensors and plain values in one safetensors file, with a checksum of them."""
        from safetensors.torch import save

        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        about = json.dumps(meta)
        write_bytes(self.path / name, save(plain, metadata={"meta": about, CHECKSUM: _checksum(plain, about)}))

    def load_tensors(self, name: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What :meth:`save_tensors` saved, or None. Raises ValueError, which ends in ``remedy``, for a damaged file;
        older versions kept no checksum, so of theirs only what cannot be read is noticed."""
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
            raise ValueError(f"{file} is damaged (its checksum does not fit what it holds); {remedy}.")
        return tensors, meta

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, which marks the run as done, and drop the checkpoint."""
        self.write_json(METRICS, metrics)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def metrics(self) -> dict[str, Any]:
        """The metrics of a finished run."""
        return json.loads((self.path / METRICS).read_text(encoding="utf-8"))


def _checksum(tensors: Mapping[str, Any], about: str) -> str:
    """CRC-32 of tensors on the CPU (names, types, shapes, bytes) and of the text beside them: against damage, not
    malice, and quick enough for gigabytes."""
    import torch

    found = zlib.crc32(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _held(path: Path) -> set[str]:
    """The names in an output folder; raises ValueError if it is a file, PermissionError if it cannot be written."""
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"The output folder {path} is a file; choose another --out.")
        held = _names(path) if path.exists() else set()
        _try_to_write(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    return held


def _other(path: Path) -> ValueError:
    if worker(path):  # --resume would be no remedy
        return _busy(path)
    return ValueError(f"The output folder {path} holds another run; choose another --out, or go on with --resume.")


def _foreign(path: Path, held: set[str]) -> ValueError:
    return ValueError(f"The output folder {path} holds other files ({sorted(held)[0]}, ...); choose another --out.")


def _unwritable(path: Path, error: OSError) -> PermissionError:
    why = error.strerror or str(error)
    return PermissionError(f"The output folder {path} is not writable ({why}); choose another --out.")


def _try_to_write(path: Path) -> None:
    """Raise OSError unless files can be made in ``path``, or in the nearest folder above it that exists.

    Asking for permission is not enough: root may always, except where not (/proc, read-only disks).
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


def _settings(file: Path) -> dict[str, Any]:
    """A run's config.yaml; raises ValueError if it is damaged."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged or no run's settings; choose another --out.")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(*, seed: int, model: str, revision: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """What made a run: versions, machine, device, model, seed, command and commit."""
    packages = ("torch", "diffusers", "transformers", "accelerate", "numpy")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    from rsd import __version__

    return {
        "rsd": __version__,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "device": device,
        "model": model,
        "revision": revision,
        "seed": seed,
        "command": ["rsd", *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "+" if it has changes; None outside a checkout."""
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
