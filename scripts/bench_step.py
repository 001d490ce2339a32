"""Time a step against a plain transcription of Algorithm 1, alternating in one process.

    python scripts/bench_step.py --size heads --json step.json            # N = 4, a minute or two
    python scripts/bench_step.py --size sd --particles 2 --json sd.json   # random weights; 17 GiB, two hours on a CPU

``gamma0``, ``exact``, ``flat``, ``cheap``: the time of our step divided by that of the plain one, without repulsion,
with it (fast, flat), and with a cheap force, ``--cheap`` (bench_force.py prints the cosines of all): every second or
third step; the noisier half of the timesteps; smaller pictures for features; a small decoder (at Stable Diffusion's
size TAESD's, and DINO at 224 px, whose random weights have no cosine); bfloat16 for all our networks (the plain step
keeps float32, so the ratio includes the effect of precision). ``cosine``: with the exact force, over all steps; skipped
steps count as zero. ``guidance0``, ``guidance``: a step of proximal guidance, without repulsion and with it (fast),
divided by the plain step of RLSD. ``overhead``: the share of our step outside networks. ``max_abs_diff``: between our
final images and the plain ones; null if some are not finite, with the runs named.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from rsd.runs.flags import script  # noqa: E402
from rsd.tasks.inverse.run import Run  # noqa: E402
from scripts.bench import plain, problem, timing  # noqa: E402

Ratio = Literal["gamma0", "exact", "flat", "cheap", "guidance0", "guidance"]
RATIOS: dict[str, str] = {
    "gamma0": "plain, gamma 0", "exact": "plain", "flat": "plain", "cheap": "plain", "guidance0": "plain, gamma 0",
    "guidance": "plain",
}  # fmt: skip
"""The plain step that each of ours is divided by."""


@dataclass
class Bench:
    """Time a step against the plain one."""

    size: problem.Size = "heads"
    json: Path | None = None
    """File for the figures."""
    particles: int | None = None
    """N (default: 4 for heads, 2 for sd)."""
    steps: int | None = None
    """Steps of each (default: 10 for heads, 4 for sd); the first is not counted. With every-3rd, one of three steps
    repels."""
    cheap: problem.Cheap = "every-3rd"
    """Which cheap force."""
    only: tuple[Ratio, ...] = get_args(Ratio)
    """Which ratios."""
    px: int = 0
    """sd: picture size instead of 512, for a quick trial."""
    device: str = "cpu"
    dtype: str = "float32"
    autocast: bool = False
    """Networks multiply in bfloat16, in the plain step too."""


def contenders(p: problem.Problem, o: Bench) -> tuple[dict[str, Iterator[Any]], dict[str, Run]]:
    """Return an iterator of steps for each contender, and our runs."""
    runs = {
        "gamma0": p.run(gamma=0.0, memory="fast"),
        "exact": p.run(memory="fast"),
        "flat": p.run(memory="flat"),
        "cheap": p.run(o.cheap, memory="fast"),
        "guidance0": p.run(method="proximal-guidance", gamma=0.0, memory="fast"),
        "guidance": p.run(method="proximal-guidance", memory="fast"),
    }
    runs = {name: run for name, run in runs.items() if name in o.only}
    wanted = {RATIOS[name] for name in runs}
    gammas = {name: gamma for name, gamma in (("plain", p.settings.gamma), ("plain, gamma 0", 0.0)) if name in wanted}
    printed = {name: plain.steps(p.prior, p.features, p.operator, p.y, p.settings, g) for name, g in gammas.items()}
    return {**{name: Last(found) for name, found in printed.items()}, **{n: r.steps() for n, r in runs.items()}}, runs


class Last(Iterator[Any]):
    """An iterator that keeps its last value."""

    def __init__(self, inner: Iterator[Any]):
        self.inner, self.value = inner, None

    def __next__(self) -> Any:
        self.value = next(self.inner)
        return self.value


def overhead(p: problem.Problem, device: str) -> float:
    """Return the share of our step (fast, with repulsion) outside networks; the first step is not counted."""
    run, inside = p.run(memory="fast"), timing.NetworkTimer(device)
    steps = run.steps()
    with inside.watching(run.prior, run.embed):
        if p.settings.steps > 1:
            next(steps)
        inside.seconds, start = 0.0, timing.clock(device)
        for _ in steps:
            pass
        return 1 - inside.seconds / (timing.clock(device) - start)


def main() -> None:
    """Time, print, write."""
    o = script(Bench, "bench_step")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    timing.prepare_output(o.json)
    heads = o.size == "heads"
    n, steps = o.particles or (4 if heads else 2), o.steps or (10 if heads else 4)
    p = problem.make(o.size, particles=n, steps=steps, device=o.device, dtype=o.dtype, px=o.px, autocast=o.autocast)
    iterators, runs = contenders(p, o)
    times = timing.alternating(iterators, steps, o.device)
    found: dict[str, Any] = {name: times[name] / times[of] if name in runs else None for name, of in RATIOS.items()}
    apart: dict[str, torch.Tensor] = {
        name: (runs[name].finish() - iterators[RATIOS[name]].value).abs().max()  # type: ignore[attr-defined]
        for name in ("gamma0", "exact", "flat") if name in runs
    }  # fmt: skip
    found["max_abs_diff"] = largest(apart)
    found["overhead"] = overhead(p, o.device) if "exact" in runs else None
    has_cosine = n > 1 and "cheap" in runs and (heads or o.cheap != "small-decoder")
    found["cosine"] = problem.cosines(p, [o.cheap])[o.cheap] if has_cosine else None
    report(o, p, n, times, found)


def largest(apart: dict[str, torch.Tensor]) -> float | None:
    """Return the largest difference; None if there is none. If one is not finite, print which and return None."""
    if wrong := [name for name, one in apart.items() if not one.isfinite()]:
        print(f"The images of {', '.join(wrong)}, or the plain ones, are not finite.")
        return None
    return max(map(float, apart.values()), default=None)


def precision(o: Bench) -> str:
    """Return the precision as text."""
    return "bfloat16 (autocast)" if o.autocast else o.dtype


def report(o: Bench, p: problem.Problem, n: int, times: dict[str, float], found: dict[str, Any]) -> None:
    """Print the table and write the file."""
    where = torch.cuda.get_device_name() if o.device.startswith("cuda") else f"{torch.get_num_threads()} CPU thread(s)"
    print(f"{o.size}, {p.prior.image_size} px, N = {n}, {precision(o)}, {where}; seconds a step")
    for name, seconds in times.items():
        ratio = f"{found[name]:.3f} of {RATIOS[name]}" if found.get(name) else ""
        print(f"  {name:16} {seconds:9.3f}  {ratio}")
    for name in ("overhead", "cosine", "max_abs_diff"):
        print(f"  {name:16} {'-' if found[name] is None else format(found[name], '9.4g')}")
    if o.json:
        about = {
            "size": o.size,
            "px": p.prior.image_size,
            "particles": n,
            "device": where,
            "dtype": precision(o),
            "force": o.cheap,
        }
        o.json.write_text(json.dumps({**found, **about, "seconds": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
