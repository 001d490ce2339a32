"""The parts of a pipeline, loaded one by one."""

from __future__ import annotations

from typing import Any

import torch

from rsd.hub import broken, quietly
from rsd.hub.weights import load_model
from rsd.priors.index import Index


def load_network(kind: Any, found: Index, part: str, dtype: torch.dtype) -> Any:
    """The network of class ``kind`` in the subfolder ``part``. Raises ValueError that says what to do."""
    return load_model(kind, found.name, found.folder, what="prior", dtype=dtype, part=part, commit=found.commit)


def load_tokenizer(kind: Any, found: Index, part: str = "tokenizer") -> Any:
    """The pipeline's tokenizer in the subfolder ``part``. Raises ValueError that says what to do."""
    try:
        with quietly():
            return kind.from_pretrained(
                str(found.source), subfolder=part, revision=found.commit or "main",
                local_files_only=found.folder is not None,
            )  # fmt: skip
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(broken(error, found.name, what="prior", revision=found.commit)) from error


def load_scheduler(found: Index) -> Any:
    """The pipeline's scheduler. Raises ValueError if it is none of diffusers, or not there."""
    with quietly():
        import diffusers

    name = found.json("model_index.json")["scheduler"][1]
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ValueError(f'The scheduler of the prior "{found.name}", {name}, is not in diffusers.')
    return kind.from_config(found.json("scheduler/scheduler_config.json"))
