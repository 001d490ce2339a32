"""The weights of a model: safetensors, plain or of a variant (fp16, bf16 ...), whole or in shards, in a folder or on
the hub.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rsd.hub import broken, fetch, quietly

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SMALLER = {torch.float16: ("fp16",), torch.bfloat16: ("bf16", "fp16")}
"""Variants that are enough for a precision, the best first."""
BEST = ("", "fp32", "ema", "fp16", "bf16")
"""Variants, the most exact first; "" is plain. Others come after, by name."""


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are, on this machine: ``files``, in a ``folder``; ``variant``: None for plain ones."""

    folder: Path
    variant: str | None
    files: tuple[Path, ...]


def load_model(
    kind: Any, name: str, folder: Path | None, *, what: str, dtype: torch.dtype, part: str = "",
    commit: str | None = None, **options: Any,
) -> Any:  # fmt: skip
    """A model of class ``kind``, of diffusers or transformers, in that precision; ``options``: of its from_pretrained.

    Raises ValueError that says what to do; see :func:`find_weights` for the others.
    """
    stem = "diffusion_pytorch_model" if kind.__module__.startswith("diffusers") else "model"
    found = find_weights(name, folder, what=what, stem=stem, dtype=dtype, part=part, commit=commit)
    if folder is None:
        fetch(name, _path(part, "config.json"), revision=commit, what=what)
    try:
        with quietly():
            return kind.from_pretrained(
                str(found.folder), variant=found.variant, dtype=dtype, use_safetensors=True, local_files_only=True,
                **options,
            )  # fmt: skip
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(broken(error, name, what=what, revision=commit)) from error


def find_weights(
    name: str, folder: Path | None, *, what: str, stem: str = "model", dtype: torch.dtype = torch.float32,
    part: str = "", commit: str | None = None,
) -> Weights:  # fmt: skip
    """The weights of a model, or of its ``part`` (a subfolder), in ``folder``, or where that is None of the hub's model
    ``name``, downloaded. ``stem``: of their files' names. In half precision a variant that is enough is taken where
    there is one, else plain ones, and where there are none any variant, which a warning tells.

    ``what`` names the thing in messages ("prior"). Raises ValueError that says what to do if there are none.
    """
    if folder is not None:
        here = folder / part
        variant, first = _choose(_names(here), name, what, stem, dtype, str(here))
        files = tuple(here / file for file in _shards(here / first, name, what))
        for file in files:
            if not file.is_file():
                raise ValueError(f'The {what} "{name}" is not whole: {file} is missing; copy or write it again.')
    else:
        names = _of_hub(name, commit, part, stem, dtype)
        if not names:  # nothing is known: why not, is told by whoever is asked for the likeliest
            return _downloaded(name, commit, part, f"{stem}.safetensors", None, what)
        variant, first = _choose(names, name, what, stem, dtype, name if not part else f"{part} of {name}")
        return _downloaded(name, commit, part, first, variant, what)
    return Weights(here, variant, files)


def _downloaded(name: str, commit: str | None, part: str, first: str, variant: str | None, what: str) -> Weights:
    index = fetch(name, _path(part, first), revision=commit, what=what)
    shards = _shards(index, name, what)
    files = [fetch(name, _path(part, shard), revision=commit, what=what) for shard in shards if shard != first]
    return Weights(index.parent, variant, tuple(files or [index]))


def _choose(
    names: Collection[str], name: str, what: str, stem: str, dtype: torch.dtype, where: str
) -> tuple[str | None, str]:
    """The variant, None for plain, and the file to begin with: the weights, or the index of their shards."""
    variants = _variants(names, stem)
    order = _order(dtype)
    if variants:
        best = min(variants, key=lambda v: (order.index(v) if v in order else len(order), v))
        if best and best not in SMALLER.get(dtype, ()):
            warnings.warn(
                f'The {what} "{name}" has no plain weights: those of the variant "{best}" are taken, as exact as they '
                "were saved.",
                stacklevel=2,
            )
        return best or None, variants[best]
    if pickle := next((file for file in sorted(names) if file.endswith(PICKLES)), None):
        raise ValueError(
            f'The {what} "{name}" did not load: {where} holds {pickle}, but no {stem}.safetensors. Only safetensors '
            "are loaded (pickles can run code): convert it with save_pretrained(FOLDER)."
        )
    raise ValueError(
        f'The {what} "{name}" did not load: {where} holds no {stem}.safetensors, nor one of a variant '
        f"({stem}.fp16.safetensors); write it again with save_pretrained."
    )


def _order(dtype: torch.dtype) -> tuple[str, ...]:
    smaller = SMALLER.get(dtype, ())
    return (*smaller, *(variant for variant in BEST if variant not in smaller))


def _variants(names: Collection[str], stem: str) -> dict[str, str]:
    """The file that each variant begins with, "" being plain; one whole file goes before shards."""
    found: dict[str, str] = {}
    for pattern in (rf"{stem}\.safetensors\.index(?:\.([\w-]+))?\.json", rf"{stem}(?:\.([\w-]+))?\.safetensors"):
        for file in names:
            if match := re.fullmatch(pattern, file):
                found[match[1] or ""] = file
    return found


def _shards(first: Path, name: str, what: str) -> list[str]:
    """The names of the files of weights: of an index those that it lists."""
    if first.suffix != ".json":
        return [first.name]
    try:
        listed = sorted(set(json.loads(first.read_text(encoding="utf-8"))["weight_map"].values()))
        assert listed and all(Path(file).name == file and file.endswith(".safetensors") for file in listed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise ValueError(
            f'The {what} "{name}" did not load: {first} is no list of safetensors; copy or write it again.'
        ) from None
    return listed


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _of_hub(name: str, commit: str | None, part: str, stem: str, dtype: torch.dtype) -> list[str]:
    """The files of a hub model's part: those in the cache, if the best of all are among them, else those on the hub, or
    if it does not answer those in the cache all the same."""
    import huggingface_hub

    cached: list[str] = []
    with suppress(Exception):  # there is no cache of it
        root = huggingface_hub.snapshot_download(name, revision=commit, local_files_only=True)
        cached = _names(Path(root) / part)
    if _order(dtype)[0] in _variants(cached, stem):
        return cached
    with suppress(Exception):  # offline, gated, removed: what is asked of it next tells why
        inside = [Path(file).name for file in _listed(name, commit) if Path(file).parent == Path(part)]
        return inside or cached
    return cached


@cache
def _listed(name: str, commit: str | None) -> list[str]:
    """All files of a hub model, asked once for all of its parts."""
    import huggingface_hub

    return huggingface_hub.list_repo_files(name, revision=commit)


def _path(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file
