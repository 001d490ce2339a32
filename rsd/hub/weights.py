"""Find and load the weights of a model in a folder or on the hub: safetensors, of a variant (fp16, bf16 ...) or not, in
one file or in shards."""

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
"""Variants that suffice for a precision, the best first."""
BEST = ("", "fp32", "ema", "fp16", "bf16")
"""Variants, the most precise first; "" means no variant. Others follow by name."""


@dataclass(frozen=True)
class Weights:
    """The local ``files`` of a model's weights in a ``folder``; ``variant``: None for weights without one."""

    folder: Path
    variant: str | None
    files: tuple[Path, ...]


def load_model(
    kind: Any, name: str, folder: Path | None, *, what: str, dtype: torch.dtype, part: str = "",
    commit: str | None = None, **options: Any,
) -> Any:  # fmt: skip
    """Load a model of class ``kind`` (of diffusers, transformers, or this package, whose networks save like
    diffusers'). ``options``: for from_pretrained; for the other
    arguments see :func:`find_weights`. Raises ValueError with the remedy.
    """
    stem = "diffusion_pytorch_model" if kind.__module__.startswith(("diffusers", "rsd.")) else "model"
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
    """Find the weights of a model, or of its ``part`` (a subfolder), in ``folder``, or download the hub's model
    ``name`` if that is None. ``stem``: of the file names. A variant that suffices for half precision is preferred, then
    weights without a variant, then any variant, with a warning.

    ``what`` is the noun in messages ("prior"). Raises ValueError with the remedy if there are no weights.
    """
    if folder is not None:
        here = folder / part
        variant, first = _choose(_names(here), name, what, stem, dtype, str(here))
        files = tuple(here / file for file in _shards(here / first, name, what))
        for file in files:
            if not file.is_file():
                raise ValueError(f'The {what} "{name}" is incomplete: {file} is missing; copy or write it again.')
    else:
        names = _of_hub(name, commit, part, stem, dtype)
        if not names:  # no listing: downloading the most likely file raises the reason
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
    """Return the variant (or None) and its first file: the weights, or the index of their shards."""
    variants = _variants(names, stem)
    order = _order(dtype)
    if variants:
        best = min(variants, key=lambda v: (order.index(v) if v in order else len(order), v))
        if best and best not in SMALLER.get(dtype, ()):
            warnings.warn(
                f'The {what} "{name}" has only variants of its weights; using "{best}" in its saved precision.',
                stacklevel=2,
            )
        return best or None, variants[best]
    if pickle := next((file for file in sorted(names) if file.endswith(PICKLES)), None):
        raise ValueError(
            f'The {what} "{name}" did not load: {where} contains {pickle}, but no {stem}.safetensors. Only safetensors '
            "are loaded (pickles can run code): convert it with save_pretrained(FOLDER)."
        )
    raise ValueError(
        f'The {what} "{name}" did not load: {where} contains no {stem}.safetensors, nor one of a variant '
        f"({stem}.fp16.safetensors); write it again with save_pretrained."
    )


def _order(dtype: torch.dtype) -> tuple[str, ...]:
    smaller = SMALLER.get(dtype, ())
    return (*smaller, *(variant for variant in BEST if variant not in smaller))


def _variants(names: Collection[str], stem: str) -> dict[str, str]:
    """Return the first file of each variant ("" for none); a single file is preferred to shards."""
    found: dict[str, str] = {}
    for pattern in (rf"{stem}\.safetensors\.index(?:\.([\w-]+))?\.json", rf"{stem}(?:\.([\w-]+))?\.safetensors"):
        for file in names:
            if match := re.fullmatch(pattern, file):
                found[match[1] or ""] = file
    return found


def _shards(first: Path, name: str, what: str) -> list[str]:
    """Return the names of the weight files: those that an index lists, or the file itself."""
    if first.suffix != ".json":
        return [first.name]
    try:
        listed = sorted(set(json.loads(first.read_text(encoding="utf-8"))["weight_map"].values()))
        assert listed and all(Path(file).name == file and file.endswith(".safetensors") for file in listed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise ValueError(
            f'The {what} "{name}" did not load: {first} is not a list of safetensors; copy or write it again.'
        ) from None
    return listed


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _of_hub(name: str, commit: str | None, part: str, stem: str, dtype: torch.dtype) -> list[str]:
    """Return the files of a hub model's part: the cached ones if they include the preferred variant, otherwise those on
    the hub, or the cached ones if it does not respond."""
    import huggingface_hub

    cached: list[str] = []
    with suppress(Exception):  # it is not cached
        root = huggingface_hub.snapshot_download(name, revision=commit, local_files_only=True)
        cached = _names(Path(root) / part)
    if _order(dtype)[0] in _variants(cached, stem):
        return cached
    with suppress(Exception):  # offline, gated or removed: the next request raises the reason
        inside = [Path(file).name for file in _listed(name, commit) if Path(file).parent == Path(part)]
        return inside or cached
    return cached


@cache
def _listed(name: str, commit: str | None) -> list[str]:
    """List all files of a hub model."""
    import huggingface_hub

    return huggingface_hub.list_repo_files(name, revision=commit)


def _path(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file
