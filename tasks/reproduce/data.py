"""The data of experiments: images and prompts, from the package or the user."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from rsd.media import PICTURES
from rsd.runs.folder import write_bytes
from rsd.runs.prompts import read_prompts

from .options import Reproduce

BUILTIN_NUMBER = 4
PAPER_NUMBER = {"faces": 100, "pictures": 100, "captions": 75}
FLAGS = {"faces": "ffhq", "pictures": "imagenet", "captions": "coco"}
"""The flags with the user's paths at the paper's scale."""
VIEWS = {"faces": "frontal", "pictures": "any"}
PROMPTS = {
    "builtin": {
        "kernels": (
            "a man with short black hair and a beard, front view",
            "a woman with short red hair and round glasses, front view",
        ),
        "sundae": ("a woman with short red hair and round glasses",),
        "bulldozer": ("a man with short black hair and a beard",),
    },
    "paper": {
        "kernels": (
            "a gold tie is tied under a brown dress shirt with stripes..",
            "a baseball bat with a batting helmet upsidedown.",
        ),
        "sundae": ("an ice cream sundae",),
        "bulldozer": ("a bulldozer made out of toy bricks",),
    },
}
"""Prompts by scale and kind of data. The package has no models of the paper's objects, so heads replace them."""


def number(kind: str, options: Reproduce) -> int:
    """Return the number of images or prompts of a kind; 1 if there are no data."""
    if not kind:
        return 1
    wanted = options.number or (PAPER_NUMBER.get(kind, BUILTIN_NUMBER) if options.scale == "paper" else BUILTIN_NUMBER)
    return min(wanted, len(PROMPTS[options.scale].get(kind, range(wanted))))


def missing_data(kind: str, options: Reproduce) -> str | None:
    """Return the reason if the data of a kind are missing, else None."""
    flag = FLAGS.get(kind)
    if options.scale == "builtin" or options.dry_run or flag is None or getattr(options, flag):
        return None
    return f"needs --{flag} PATH"


def prepare(kind: str, options: Reproduce, folder: Path) -> Path:
    """Write the data of a kind below ``folder``: a folder of images, a manifest of the user's images, or a file of
    prompts.

    Raise ValueError or OSError, in one sentence, if the user's folder or file is empty.
    """
    count = number(kind, options)
    if kind in PROMPTS[options.scale]:
        return _prompts(folder / f"{kind}.txt", PROMPTS[options.scale][kind][:count])
    if options.scale == "builtin":
        if kind == "captions":
            with as_file(files("rsd.configs") / "text_to_image" / "heads_prompts.txt") as packaged:
                return _prompts(folder / "captions.txt", read_prompts(packaged)[:count])
        return heads(folder / kind, count, VIEWS[kind])
    given: Path = getattr(options, FLAGS[kind])
    if kind == "captions":
        return _prompts(folder / "captions.txt", read_prompts(given)[:count])
    return manifest(given, folder / f"{kind}.jsonl", count)


def how_to_make(kind: str, options: Reproduce, where: Path) -> str:
    """Return the commands that make the data that :func:`prepare` wrote to ``where``, or a comment for a manifest."""
    name = shlex.quote(str(where))
    if where.suffix == ".txt":
        return f"cat > {name} <<'EOF'\n{where.read_text(encoding='utf-8')}EOF"
    count = number(kind, options)
    if where.suffix == ".jsonl":
        return f"# {where}: the first {count} images below {getattr(options, FLAGS[kind])}, by their paths"
    return f"rsd heads --out {name} --number {count} --view {VIEWS[kind]}"


def heads(folder: Path, count: int, view: str) -> Path:
    """Write held-out heads once and atomically: another process may wait for them or write them."""
    from rsd.heads.command import main

    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        with contextlib.redirect_stdout(io.StringIO()):
            main(["--out", str(part), "--number", str(count), "--view", view])
        try:
            part.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(part)
    return folder


def manifest(given: Path, file: Path, count: int) -> Path:
    """Write a manifest of the first ``count`` images below a folder, by path. Raise ValueError if there are none."""
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in PICTURES)[:count]
    if not found:
        raise ValueError(f"{given} has no images ({', '.join(PICTURES)}); check the path.")
    rows = [{"image": str(path.resolve()), "name": str(path.relative_to(given).with_suffix(""))} for path in found]
    write_bytes(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return file


def _prompts(file: Path, prompts: tuple[str, ...] | list[str]) -> Path:
    write_bytes(file, "".join(f"{prompt}\n" for prompt in prompts).encode())
    return file
