"""``rsd doctor``: what this machine can do, and why not."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rsd import __version__
from rsd.hub import BUILT_IN

VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "numpy", "safetensors")
BACKENDS = {
    "deepinv": "its physics as operators: pip install 'rsd[deepinv]' (another build of torch)",
    "lpips": "the LPIPS metric: pip install 'rsd[lpips]'",
    "peft": "LoRA scores: pip install peft",
    "nerfacc": "occupancy grids on CUDA: pip install nerfacc==0.5.3",
    "tinycudann": "hash grids on CUDA: build it from NVIDIA's repository with nvcc",
}
MODELS = {"latent": "the prior", "features": "the repulsion's features", "classifier": "the scoring network"}


def main(argv: list[str]) -> int:
    """Print the report; returns the exit code."""
    argparse.ArgumentParser(prog="rsd doctor", description="What this machine can do, and why not.").parse_args(argv)
    for line in report():
        print(line)
    return 0


def report() -> Iterator[str]:
    """The lines of the report, section by section; never raises."""
    yield f"rsd {__version__} on Python {platform.python_version()}, {platform.platform()}"
    yield "versions: " + ", ".join(f"{name} {_version(name)}" for name in VERSIONS)
    yield from _devices()
    yield "optional backends:"
    yield from (f"  {_backend(name, remedy)}" for name, remedy in BACKENDS.items())
    yield "built-in models:"
    for folder, what in MODELS.items():
        size = sum(f.stat().st_size for f in (BUILT_IN / folder).rglob("*") if f.is_file())
        state = (
            f"{size / 1e6:.1f} MB" if size else "missing; train them with python -m scripts.heads all (in a checkout)"
        )
        yield f"  heads/{folder}, {what}: {state}"
    yield from _cache()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> Iterator[str]:
    try:
        import torch
    except Exception as error:  # a broken torch is what a doctor is asked about
        yield f"torch does not import: {error}"
        return
    yield f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(k)
            yield f"cuda:{k}: {about.name}, {about.total_memory / 2**30:.0f} GiB"
    else:
        built = torch.version.cuda
        why = (
            f"this torch is built for CUDA {built}, but no driver or device answers"
            if built
            else "a CPU build of torch"
        )
        yield f"cuda: none ({why})"


def _backend(name: str, remedy: str) -> str:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return f"{name}: missing; {remedy}"
    except Exception as error:  # tinycudann raises OSError without CUDA, others whatever they like
        why = (str(error) or repr(error)).splitlines()[0]
        return f"{name} {_version(name)}: does not import ({why}); {remedy}"
    return f"{name} {_version(name)}"


def _cache() -> Iterator[str]:
    """The Stable Diffusion class and feature models in the Hugging Face cache."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.constants import HF_HUB_CACHE

        if not Path(HF_HUB_CACHE).exists():
            yield f"Hugging Face cache: none yet at {HF_HUB_CACHE}"
            return
        repos = sorted(scan_cache_dir().repos, key=lambda r: r.repo_id)
        yield f"Hugging Face cache at {HF_HUB_CACHE}: {len(repos)} models"
        for repo in repos:
            yield f"  {repo.repo_id}: {repo.size_on_disk / 1e9:.2f} GB"
    except Exception as error:
        yield f"Hugging Face cache: cannot be read ({error})"
