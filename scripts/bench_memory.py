"""Measure peak memory against N: two steps with repulsion, in a fresh process for each number of particles.

    python scripts/bench_memory.py --json memory.json                             # heads
    python scripts/bench_memory.py --size sd --particles 1 8 --json memory.json   # 512 px, random weights, flat
    python scripts/bench_memory.py --size sd --method proximal-guidance --particles 8 --steps 1
    python scripts/bench_memory.py --size scenes --particles 2 8                  # text to 3D with heads-pixels

The peak is the process's resident memory on a CPU (weights and libraries included), or torch's allocated memory on
CUDA. The run's own share is the peak minus the memory held at its start.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil  # noqa: E402
import torch  # noqa: E402

from rsd.memory.usage import peak_bytes, reset_peak  # noqa: E402
from rsd.runs.flags import script  # noqa: E402
from scripts.bench import timing  # noqa: E402
from scripts.bench.problem import Size, make  # noqa: E402

Sizes = Literal[Size, "scenes"]


@dataclass
class Memory:
    """Measure peak memory."""

    size: Sizes = "heads"
    json: Path | None = None
    """File for the peak bytes by N."""
    particles: tuple[int, ...] = (1, 2, 4, 8)
    memory: Literal["fast", "flat", "lean"] = "flat"
    method: str = "rlsd"
    """heads, sd: the method."""
    steps: int = 2
    px: int = 0
    """sd: picture size instead of 512, for a quick trial."""
    device: str = "cpu"
    dtype: str = "float32"
    autocast: bool = False
    """heads, sd: networks multiply in bfloat16."""
    alone: bool = False
    """Measure one N in this process; the command starts such a process for each N."""


def measure(o: Memory) -> tuple[int, int]:
    """Run in this process. Return the bytes held before the run and at its peak.

    For scenes the first includes their gradients and moments. Neither includes what was loaded for the prompt and
    released before the run.
    """
    (n,) = o.particles
    if o.size == "scenes":
        run, state = scenes(o, n)
        before = resident(o.device) + state
    else:
        p = make(
            o.size, particles=n, steps=o.steps, device=o.device, dtype=o.dtype, px=o.px, autocast=o.autocast
        )  # fmt: skip
        before = resident(o.device)
        run = p.run(memory=o.memory, method=o.method)
    reset_peak(torch.device(o.device))
    for record in run.steps():
        assert record.residual == record.residual, "the run diverged"
    run.finish()
    return before, peak_bytes(torch.device(o.device)) or 0


def scenes(o: Memory, n: int) -> tuple[Any, int]:
    """Return a run of text to 3D with the packaged settings for heads-pixels, and the bytes that its gradients and
    moments will add to its parameters."""
    from rsd.runs.head import load_networks
    from rsd.tasks.text_to_3d.head import SceneHead

    prompt = "a man with a blue mohawk and sunglasses"
    head = SceneHead.of({"prompt": (prompt,), "particles": n, "steps": o.steps, "device": o.device, "dtype": o.dtype})
    networks = load_networks(head, head.items, {}, torch.device(o.device))
    assert networks.prior is not None
    run = head.make_run(networks.prior, prompt, head.options, embed=networks.embed(head.options))
    parameters = [p for scene in run.particles.scenes for p in scene.parameters()]
    return run, 3 * sum(p.numel() * p.element_size() for p in parameters)


def resident(device: str) -> int:
    """Return the bytes that this process holds."""
    gc.collect()
    return torch.cuda.memory_allocated() if device.startswith("cuda") else psutil.Process().memory_info().rss


def main() -> None:
    """Measure each N in a process, print the table, write the file."""
    o = script(Memory, "bench_memory")
    if o.alone:
        print(*measure(o))
        return
    timing.prepare_output(o.json)
    peaks: dict[int, int] = {}
    print(f"{o.size}, {o.method}, {o.memory}, {o.dtype}, {o.device}: peak of {o.steps} steps that repel")
    print("    N   peak [GiB]   the run's own  / first   seconds", flush=True)
    for n in o.particles:
        fields = {"size": o.size, "memory": o.memory, "steps": o.steps, "px": o.px, "device": o.device}
        flags = [f"--{k}={value}" for k, value in {**fields, "dtype": o.dtype, "method": o.method}.items()]
        flags += ["--autocast"] * o.autocast
        start = time.monotonic()
        command = [sys.executable, __file__, *flags, "--particles", str(n), "--alone"]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        before, peaks[n] = map(int, printed[-2:])
        own, share = (peaks[n] - before) / 2**30, peaks[n] / peaks[o.particles[0]]
        seconds = time.monotonic() - start
        print(f"  {n:3}  {peaks[n] / 2**30:9.3f}  {own:9.3f}  {share:9.3f}  {seconds:7.0f}", flush=True)
    if o.json:
        o.json.write_text(json.dumps(peaks, indent=1) + "\n")


if __name__ == "__main__":
    main()
