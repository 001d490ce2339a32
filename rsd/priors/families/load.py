"""Load pipelines of the families: only safetensors, only the classes in the table."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from rsd.hub import quietly
from rsd.priors.families import Family
from rsd.priors.families.base import FamilyPrior, Size
from rsd.priors.index import MARKER, Index
from rsd.priors.parts import load_network, load_scheduler, load_tokenizer
from rsd.priors.pixel import cache_folder
from rsd.priors.t5 import roomy


def load_family(
    found: Index, *, device: str | torch.device, dtype: torch.dtype, size: Size | None = None
) -> FamilyPrior:
    """Load the pipeline ``found`` from a folder or the hub. Text encoders are loaded for the first prompt that is not
    in the cache, onto ``device`` if all of them fit. Raise ValueError with the remedy."""
    assert found.family is not None, "load_prior has found the family"
    family, listed = found.family, found.json(MARKER)
    with quietly():
        import diffusers
        import transformers

    half = dtype in (torch.float16, torch.bfloat16)
    parts: dict[str, Any] = dict.fromkeys(family.texts)
    for part in (family.network, "vae"):
        kind = getattr(diffusers, family.parts[part][0])
        parts[part] = load_network(kind, found, part, torch.float32 if half and part == "vae" else dtype)
    for part in family.texts:
        if part.startswith("tokenizer") and listed[part][1]:
            parts[part] = load_tokenizer(getattr(transformers, listed[part][1]), found, part)
    with quietly():  # the pipelines' modules say that torchvision is missing
        kind = getattr(diffusers, family.pipeline)
    takes = inspect.signature(kind.__init__).parameters
    settings = {k: v for k, v in listed.items() if k in takes and not isinstance(v, list)}
    if "add_watermarker" in takes:
        settings["add_watermarker"] = False
    with quietly():
        pipeline = kind(**parts, **settings, scheduler=load_scheduler(found))

    def load_text(prior: FamilyPrior) -> None:
        encoders = {}
        for part in family.texts:
            if part.startswith("text_encoder") and listed[part][1]:
                encoder = load_network(getattr(transformers, listed[part][1]), found, part, dtype)
                encoders[part] = encoder.to(roomy(encoder, prior.device))
        fit = all(encoder.device.type == prior.device.type for encoder in encoders.values())
        for part, encoder in encoders.items():  # together, since SD3 gives all of them tokens on one device
            setattr(prior.pipeline, part, encoder if fit else encoder.to("cpu"))

    return prior_class(family)(
        pipeline, name=found.name, device=device, revision=found.commit, size=size, load_text=load_text,
        cache=cache_folder(found, dtype),
    )  # fmt: skip


def prior_of(pipeline: Any, **options: Any) -> FamilyPrior:
    """Create the prior of a pipeline in memory. ``options``: of FamilyPrior. Raise ValueError for other classes."""
    from rsd.priors.families.base import check_pipeline

    family = check_pipeline(pipeline, options.get("name", "pipeline"))
    return prior_class(family)(pipeline, **options)


def prior_class(family: Family) -> type[FamilyPrior]:
    """Return the class of a family's priors."""
    module, name = family.module.split(":")
    found: type[FamilyPrior] = getattr(importlib.import_module(f"rsd.priors.families.{module}"), name)
    return found
