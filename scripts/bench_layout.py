"""Measure how precision, memory layout and torch.compile change the time of the UNet and of the decoder.

    python scripts/bench_layout.py                            # heads, N = 4, on this CPU
    python scripts/bench_layout.py --size sd --device cuda    # Stable Diffusion 2.1-base at random weights, N = 2
    python scripts/bench_layout.py --compile                  # torch.compile too: takes minutes to start

Times the UNet's forward pass and the decoder's forward and backward pass, alternating in one process. Prints each
median and its ratio to plain float32.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from rsd.randomness import noise  # noqa: E402
from rsd.runs.flags import script  # noqa: E402
from scripts.bench import problem, timing  # noqa: E402

PLAIN = "float32"


@dataclass
class Bench:
    """Time networks."""

    size: problem.Size = "heads"
    particles: int | None = None
    """N (default: 4 for heads, 2 for sd)."""
    repeats: int = 20
    """Number of timings of each."""
    compile: bool = False
    """torch.compile too, in its default mode and with CUDA's graphs (reduce-overhead)."""
    px: int = 0
    """sd: picture size instead of 512, for a quick trial."""
    device: str = "cpu"
    json: Path | None = None
    """File for the figures."""


def variants(prior: Any, o: Bench) -> dict[str, Any]:
    """Return the prior unchanged and with each possible speed-up, by name."""
    layout = with_networks(prior, lambda network: network.to(memory_format=torch.channels_last))
    found = {PLAIN: prior, "channels_last": layout, "bfloat16": halved(prior), "both": halved(layout)}
    if o.compile:
        quick = with_networks(prior, torch.compile)
        found |= {"compiled": quick, "compiled, bfloat16": halved(quick)}
    if o.compile and o.device.startswith("cuda"):
        graphs = with_networks(prior, lambda network: torch.compile(network, mode="reduce-overhead"))
        found |= {"CUDA graphs": graphs, "CUDA graphs, bfloat16": halved(graphs)}
    return found


def halved(prior: Any) -> Any:
    """Return a copy whose networks multiply in bfloat16 (`--autocast`)."""
    prior = copy.copy(prior)
    prior.autocast = True
    return prior


def with_networks(prior: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy with ``change`` applied to its UNet and its VAE decoder; it has its own weights."""
    prior = copy.copy(prior)
    prior.unet, prior.vae = change(copy.deepcopy(prior.unet)), copy.deepcopy(prior.vae)
    prior.vae.decoder = change(prior.vae.decoder)
    return prior


def passes(prior: Any, n: int) -> dict[str, Callable[[], None]]:
    """Return the UNet's forward pass, and the decoder's forward and backward pass, for n latents."""
    z = noise(prior.latent_shape, seed=0, purpose="benchmark", particles=range(n)).to(prior.device, prior.dtype)
    condition = prior.condition()

    def unet() -> None:
        with torch.no_grad():
            prior.epsilon(z, prior.schedule.T // 2, condition)

    def decoder() -> None:
        leaf = z.clone().requires_grad_()
        prior.decode(leaf).square().mean().backward()

    return {"UNet": unet, "decoder": decoder}


def medians(contenders: dict[str, Callable[[], None]], o: Bench) -> dict[str, float]:
    """Return the median seconds of each, after one call that is not counted (and compiles)."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, call in contenders.items():
        start = time.monotonic()
        call()
        timing.clock(o.device)
        print(f"  {name}: the first call took {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    for _ in range(o.repeats):
        for name, call in contenders.items():
            start = timing.clock(o.device)
            call()
            times[name].append(timing.clock(o.device) - start)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Time, print, write."""
    o = script(Bench, "bench_layout")
    timing.prepare_output(o.json)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    n = o.particles or (4 if o.size == "heads" else 2)
    prior = problem.make(o.size, particles=n, steps=1, device=o.device, px=o.px).prior
    calls = {name: passes(one, n) for name, one in variants(prior, o).items()}
    where = torch.cuda.get_device_name() if o.device.startswith("cuda") else f"{torch.get_num_threads()} CPU thread(s)"
    print(f"{o.size}, {prior.image_size} px, N = {n}, {where}; milliseconds, and ratio to float32")
    found = {}
    for network in ("UNet", "decoder"):
        times = found[network] = medians({name: one[network] for name, one in calls.items()}, o)
        for name, seconds in times.items():
            print(f"  {network:8} {name:22} {1e3 * seconds:9.2f}  {seconds / times[PLAIN]:.2f}", flush=True)
    if o.json:
        about = {"size": o.size, "px": prior.image_size, "particles": n, "device": where}
        o.json.write_text(json.dumps({**about, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
