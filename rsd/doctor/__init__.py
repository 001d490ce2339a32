"""``rsd doctor``: report what this machine supports, and how to fix what it does not."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rsd import __version__
from rsd.hub import BUILT_IN, training
from rsd.priors import index
from rsd.runs.flags import parse

VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "numpy", "safetensors")
BACKENDS = {
    "deepinv": "its physics as operators: pip install 'rsd[deepinv]' (another build of torch)",
    "lpips": "the LPIPS metric: pip install 'rsd[lpips]'",
    "torchvision": "needed by deepinv and lpips: the build that matches torch, from pytorch.org",
    "imageio_ffmpeg": "MP4 files: pip install imageio-ffmpeg",
    "nerfacc": "the packed renderer on CUDA: pip install 'rsd[nerfacc]' (it compiles its kernels when first used)",
    "tinycudann": "hash grids on CUDA: build it from NVIDIA's repository with nvcc",
}
MODELS = {
    **{folder: f"the prior {name}" for name, folder in index.BUILT_IN.items()},
    "features": "the repulsion's features", "tiny": "the small decoder",
    "classifier": "the scoring network", "face": "the detector of faces",
}  # fmt: skip
"""The built-in models by their folders."""


@dataclass(kw_only=True)
class Doctor:
    """Report what this machine supports, and how to fix what it does not."""

    quick: bool = False
    """Skip the time estimates, which take some seconds."""


def main(argv: list[str]) -> int:
    """Print the report. Return the exit code."""
    quick = parse(Doctor, argv, prog="rsd doctor").quick
    for line in report():
        print(line, flush=True)
    for line in [] if quick else section_lines(_times):
        print(line, flush=True)
    return 0


def report() -> list[str]:
    """Return the lines of the report. Never raises."""
    sections = (_versions, _devices, _backends, _built_in, _families, _cache)
    return [line for section in sections for line in section_lines(section)]


def section_lines(section: Callable[[], Iterator[str]]) -> list[str]:
    """Return the lines of a section, or the error that prevents them."""
    lines: list[str] = []
    try:
        lines += section()
    except Exception as error:  # installations may be broken
        lines.append(f"{section.__name__.strip('_')}: not available ({_why(error)})")
    return lines


def _versions() -> Iterator[str]:
    yield f"rsd {__version__} on Python {platform.python_version()}, {platform.platform()}"
    yield "versions: " + ", ".join(f"{name} {_version(name)}" for name in VERSIONS)


def _built_in() -> Iterator[str]:
    yield "built-in models:"
    for folder, what in MODELS.items():
        size = sum(f.stat().st_size for f in (BUILT_IN / folder).rglob("*") if f.is_file())
        state = f"{size / 1e6:.1f} MB" if size else f"missing; train it with {training(folder)} in a clone"
        yield f"  heads/{folder}, {what}: {state}"


def _families() -> Iterator[str]:
    """Report the families of priors: memory, whether it is free, and models on disk."""
    from rsd.doctor.families import lines

    yield from lines()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _why(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _devices() -> Iterator[str]:
    cores = f"cpu: {os.cpu_count()} cores"
    try:
        import torch
    except Exception as error:
        yield f"{cores}; torch does not import ({_why(error)}); reinstall it from pytorch.org"
        return
    yield f"{cores}, {torch.get_num_threads()} torch threads; multiplies in {_multiplies('cpu')}"
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(k)
            multiplies = _multiplies(f"cuda:{k}")
            yield f"cuda:{k}: {about.name}, {about.total_memory / 2**30:.0f} GiB; multiplies in {multiplies}"
    else:
        built = torch.version.cuda
        why = (
            f"this torch is built for CUDA {built}, but there is no driver or device: see nvidia-smi"
            if built
            else "a CPU build of torch; for a GPU install the CUDA build from pytorch.org"
        )
        yield f"cuda: none ({why})"
    yield f"mps: {'available' if torch.backends.mps.is_available() else 'none (Apple silicon only)'}"


def _multiplies(device: str) -> str:
    """Describe the precisions that a device supports in hardware, for --autocast and --dtype."""
    import torch

    from rsd.priors.precision import instructions, multiplies_in

    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    has = [name for name, dtype in halves.items() if multiplies_in(dtype, device)]
    lacks = [name for name in halves if name not in has]
    by = f" ({', '.join(instructions())})" if device == "cpu" and has and instructions() else ""
    slow = f", not in {' or '.join(lacks)} (emulated: 20 to 40 times slower)" if lacks else ""
    refused = "; --autocast is not possible" if "bfloat16" in lacks else ""
    return ", ".join(["float32", *has]) + by + slow + refused


def _times() -> Iterator[str]:
    """Estimate the time of runs on the CPU from a few passes of the built-in networks."""
    from rsd.doctor.estimate import KINDS, estimate, format_range, measure, samples

    seconds = measure(samples())
    yield "time of runs with the built-in priors on this CPU under its current load (from a few network passes):"
    for kind in KINDS:
        yield f"  {kind.title} (N = {kind.particles}, {kind.steps} steps): {format_range(*estimate(kind, seconds))}"


def _backends() -> Iterator[str]:
    yield "optional backends:"
    yield from (f"  {_backend(name, remedy)}" for name, remedy in BACKENDS.items())


def _backend(name: str, remedy: str) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    except Exception as error:  # tinycudann raises OSError without CUDA; others raise other types
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return f"{name}: missing; {remedy}"
        return f"{name} {_version(name)}: does not import ({_why(error)}); {remedy}"
    return f"{name} {_version(name)}"


def _cache() -> Iterator[str]:
    """List the models in the Hugging Face cache, and the free space."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    room = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free"
    if not folder.exists():
        yield f"Hugging Face cache: none yet at {folder}, {room}"
        return
    repos = sorted(scan_cache_dir(folder).repos, key=lambda r: r.repo_id)
    yield f"Hugging Face cache at {folder}: {len(repos)} models, {room}"
    for repo in repos:
        yield f"  {repo.repo_id}: {repo.size_on_disk / 1e9:.2f} GB"
