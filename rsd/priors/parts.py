"""Load the parts of a pipeline one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rsd.hub import broken, fetch, quietly
from rsd.hub.weights import load_model
from rsd.priors.index import Index


def load_network(kind: Any, found: Index, part: str, dtype: torch.dtype) -> Any:
    """Load the network of class ``kind`` from the subfolder ``part``, or from the single checkpoint if it has one.
    Raise ValueError with the remedy."""
    if found.file is not None and part in _held(found.file):
        return _single(kind, found, part, dtype)
    return load_model(kind, found.name, found.home(part), what="prior", dtype=dtype, part=part, commit=found.commit)


def load_tokenizer(kind: Any, found: Index, part: str = "tokenizer") -> Any:
    """Load the tokenizer in the subfolder ``part``. Raise ValueError with the remedy."""
    folder = found.home(part)
    if folder is not None and not (folder / part).is_dir():  # transformers would return an empty one
        raise ValueError(
            f'The prior "{found.name}" is incomplete: {folder / part} is missing; write it again with save_pretrained.'
        )
    try:
        with quietly():
            return kind.from_pretrained(
                str(folder or found.name), subfolder=part, revision=found.commit or "main",
                local_files_only=folder is not None,
            )  # fmt: skip
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(broken(error, found.name, what="prior", revision=found.commit)) from error


def load_scheduler(found: Index) -> Any:
    """Load the pipeline's scheduler. Raise ValueError if it is missing or not in diffusers."""
    with quietly():
        import diffusers

    name = found.json("model_index.json")["scheduler"][1]
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ValueError(f'The scheduler of the prior "{found.name}", {name}, is not in diffusers.')
    return kind.from_config(found.json("scheduler/scheduler_config.json"))


def _held(file: Path) -> tuple[str, ...]:
    """Return the parts that a single checkpoint contains: the network, and often the autoencoder."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as held:
            names = list(held.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} is no safetensors file that can be read: {error}") from None
    autoencoder = any(name.startswith(("first_stage_model.", "vae.")) for name in names)
    return ("unet", "transformer", "vae") if autoencoder else ("unet", "transformer")


def _single(kind: Any, found: Index, part: str, dtype: torch.dtype) -> Any:
    """Load a network from a single checkpoint, with diffusers' conversion."""
    name = str(found.file)
    if not hasattr(kind, "from_single_file"):
        raise ValueError(
            f'The prior "{name}" is a single file, which {kind.__name__} has no conversion of; give a folder.'
        )
    found.json(f"{part}/config.json")  # fetched, if it is on the hub
    folder = found.folder
    if folder is None:
        folder = fetch(found.name, f"{part}/config.json", revision=found.commit, what="prior").parent.parent
    try:
        with quietly():
            return kind.from_single_file(
                name, config=str(folder), subfolder=part, torch_dtype=dtype, local_files_only=True
            )
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f'The prior "{name}" did not load as the {part} of "{found.name}" ({type(error).__name__}: '
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}); name the pipeline that it is one of."
        ) from error
