"""Describe a prior from its small files, and check that all of it is there, without loading weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rsd.hub.weights import Weights, find_weights
from rsd.priors import index, is_own, own_prior
from rsd.priors.families import scale_factor
from rsd.priors.families.load import prior_class
from rsd.priors.parts import load_scheduler, load_tokenizer
from rsd.schedule import Schedule, is_flow


def describe(
    name: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32, size: tuple[int, int] | None = None
) -> Iterator[str]:
    """Return lines on a prior: classes, size of pictures and latents, schedule, and weights with their GiB.

    ``size``: height and width of the pictures in pixels; None: the prior's own. Weights of a hub model are not
    downloaded. Raises ValueError with the remedy for a missing part, file or tokenizer, as ``load_prior`` does."""
    if is_own(name):
        own = own_prior(name)
        yield f"prior: {name}, your own; pictures of {own.image_size} px"
        return
    found = index.find(name, revision)
    listed = found.json(index.MARKER)
    network = "transformer" if "transformer" in found.parts else "unet"
    half = dtype in (torch.float16, torch.bfloat16)
    precision = str(dtype).removeprefix("torch.")
    kinds = f"{listed[network][1]} in {precision}"
    if "vae" in found.parts:
        kinds += f", {listed['vae'][1]} in {'float32' if half else precision}"
    title = found.family.title if found.family else listed["_class_name"]
    yield f"prior: {found.name} ({title}); {kinds}"
    side = index.image_size(found)
    height, width = size or (side, side)
    scheduler = load_scheduler(found)
    factor, tokens = 1, None
    if "vae" in found.parts:
        factor = scale_factor(found.json("vae/config.json"))
    if found.family:
        kind = prior_class(found.family)
        factor *= kind.latent_patch
        tokens = height * width // (factor * kind.patch) ** 2
    entries = f", latents {width // factor} x {height // factor}" if "vae" in found.parts else ""
    sides = "of any size" if index.is_photos(name) else f"{width} x {height} px (width x height)"
    yield f"  pictures {sides}{entries}"
    schedule = Schedule.from_scheduler(scheduler, tokens=tokens)
    predicts = "flow" if is_flow(scheduler) else scheduler.config.get("prediction_type", "epsilon")
    levels = f"sigma/alpha {schedule.noise(0):.2g} to {schedule.noise(schedule.last):.3g}"
    yield f"  {predicts} by {type(scheduler).__name__}, {levels}"
    sizes = []
    for part in found.parts:
        library, kind_name = listed.get(part) or (None, None)
        if kind_name is None:
            continue
        if part.startswith("tokenizer"):
            import transformers

            load_tokenizer(getattr(transformers, kind_name), found, part)
        elif found.file is not None and part == network:
            sizes.append(f"{part} {found.file.stat().st_size / 2**30:.2g} GiB in {found.file}")
        elif found.folder is not None:
            stem = "model" if library == "transformers" else "diffusion_pytorch_model"
            weights = find_weights(found.name, found.home(part), what="prior", stem=stem, dtype=dtype, part=part)
            sizes.append(f"{part} {_gib(weights):.2g} GiB{f' ({weights.variant})' if weights.variant else ''}")
    if found.folder is None:
        sizes.append(f"from the hub, commit {found.commit}")
    yield f"  weights: {', '.join(sizes)}"


def _gib(weights: Weights) -> float:
    """Return the size of weights in GiB."""
    return sum(file.stat().st_size for file in weights.files) / 2**30
