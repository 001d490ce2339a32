"""Run folders: everything in them is written whole or not at all, and nothing of another run is touched."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

SUMMARIES = ("summary.json", "summary.csv")
CONFIG, LOG, METRICS, CHECKPOINT = "config.yaml", "steps.jsonl", "metrics.json", "checkpoint.safetensors"


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
    if path.is_dir() and (others := _others({p.name for p in path.iterdir()}, names)):
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
        raise ValueError(
            f"The output folder {path} holds other runs; choose another --out, or add to it with --resume."
        )


def _is_run(path: Path) -> bool:
    """Whether a folder is a run's, or what is left of one that was killed at its start."""
    held = {p.name for p in path.iterdir()}
    return not _others(held, {CONFIG}) or CONFIG in held


class RunFolder:
    """One run's folder. Nothing is created before :meth:`open`.

    Raises ValueError if ``path`` is a file, holds another run (unless ``resume``) or files that are no run's, and
    PermissionError if it cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = False):
        self.path, self.resume = path, resume
        held = _held(path)
        begun = CONFIG in held
        if not begun and (others := _others(held, {CONFIG})):  # the config comes first, if only half of it
            raise _foreign(path, others)
        if begun and not resume:
            raise ValueError(
                f"The output folder {path} holds another run; choose another --out, or go on with --resume."
            )

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return (self.path / METRICS).exists()

    def check(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> None:
        """Raise ValueError if the folder holds a run with other settings than ``config``. ``later``: those that may
        have been None. ``added``: those that older versions did not have, and what their runs were made with."""
        file = self.path / CONFIG
        if not file.exists():
            return
        before = {**(added or {}), **_settings(file)}
        config = yaml.safe_load(yaml.safe_dump(config))  # tuples become lists, as they did in the file
        open_still = {k for k in later if before.get(k) is None}
        other = sorted(k for k in {*before, *config} - open_still if before.get(k) != config.get(k))
        if other:
            told = ", ".join(f"{k} {before.get(k)!r} is now {config.get(k)!r}" for k in other)
            raise ValueError(f"Cannot resume {self.path} with other settings: {told}; choose another --out.")

    def open(
        self, config: dict[str, Any], *, later: Collection[str] = (), added: Mapping[str, Any] | None = None
    ) -> None:
        """Create the folder with its config.yaml, or add to that what was None and is among ``later``. Raises
        ValueError if a run with other settings is to be resumed (:meth:`check`), PermissionError if the folder cannot
        be made."""
        self.check(config, later=later, added=added)
        file = self.path / CONFIG
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
        return self.load_tensors(CHECKPOINT, remedy="delete it to start this run again")

    def save_tensors(self, name: str, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        """Tensors and plain values in one safetensors file."""
        from safetensors.torch import save

        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        write_bytes(self.path / name, save(plain, metadata={"meta": json.dumps(meta)}))

    def load_tensors(self, name: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What :meth:`save_tensors` saved, or None. Raises ValueError, which ends in ``remedy``, for a damaged file."""
        from safetensors import SafetensorError, safe_open

        file = self.path / name
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as f:
                return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["meta"])  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is damaged; {remedy}.") from error

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, which marks the run as done, and drop the checkpoint."""
        self.write_json(METRICS, metrics)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def metrics(self) -> dict[str, Any]:
        """The metrics of a finished run."""
        return json.loads((self.path / METRICS).read_text(encoding="utf-8"))


def _held(path: Path) -> set[str]:
    """The names in an output folder; raises ValueError if it is a file, PermissionError if it cannot be written."""
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"The output folder {path} is a file; choose another --out.")
        held = {p.name for p in path.iterdir()} if path.exists() else set()
        _try_to_write(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    return held


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
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    ask = lambda *a: subprocess.run(  # noqa: E731
        ["git", *a], cwd=here, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
