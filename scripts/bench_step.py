"""A step of ours against a plain transcription of Algorithm 1: ratios of times that take turns in one process.

    python scripts/bench_step.py --size heads --json step.json            # N = 4, a minute or two
    python scripts/bench_step.py --size sd --particles 2 --json sd.json   # random weights; 17 GiB, two hours on a CPU

``gamma0``, ``exact``, ``flat``, ``cheap``: our step over the plain one, without repulsion, with it (fast, flat), and
with a cheap force, ``--cheap`` (bench_force.py has the cosines of all): every second or third step; the noisier half of
the timesteps; smaller pictures for features; a small decoder (at Stable Diffusion's size TAESD's, and DINO at 224 px,
whose random weights have no cosine); bfloat16, in which all our networks multiply (the plain step's do not, so this
is precision's share too). ``cosine``: against the exact force, over all steps, those skipped counted as zero.
``overhead``: the share of our step outside networks.
``max_abs_diff``: between our final images and the plain ones; null, and the runs named, where some are not finite.
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
from scripts.bench import force, output, plain, problem, timing  # noqa: E402

Ratio = Literal["gamma0", "exact", "flat", "cheap"]
RATIOS: dict[str, str] = {"gamma0": "plain, gamma 0", "exact": "plain", "flat": "plain", "cheap": "plain"}
"""What each of ours is divided by."""


@dataclass
class Bench:
    """Time a step."""

    size: problem.Size = "heads"
    json: Path | None = None
    """Where the figures go."""
    particles: int | None = None
    """N (default: 4 for heads, 2 for sd)."""
    steps: int | None = None
    """How many steps of each (default: 10 for heads, 4 for sd); the first is not counted, and of every three of the
    others one repels every third step."""
    cheap: problem.Cheap = "every-3rd"
    """Which cheap force."""
    only: tuple[Ratio, ...] = get_args(Ratio)
    """Which ratios."""
    px: int = 0
    """sd: pictures of so many pixels instead of 512, to try it."""
    device: str = "cpu"
    dtype: str = "float32"
    autocast: bool = False
    """Networks multiply in bfloat16, of the plain step too."""


def contenders(p: problem.Problem, o: Bench) -> tuple[dict[str, Iterator[Any]], dict[str, Run]]:
    """The steps of each, and the runs of ours."""
    runs = {
        "gamma0": p.run(gamma=0.0, memory="fast"),
        "exact": p.run(memory="fast"),
        "flat": p.run(memory="flat"),
        "cheap": p.run(o.cheap, memory="fast"),
    }
    runs = {name: run for name, run in runs.items() if name in o.only}
    wanted = {RATIOS[name] for name in runs}
    gammas = {name: gamma for name, gamma in (("plain", p.settings.gamma), ("plain, gamma 0", 0.0)) if name in wanted}
    printed = {name: plain.steps(p.prior, p.features, p.operator, p.y, p.settings, g) for name, g in gammas.items()}
    return {**{name: last(found) for name, found in printed.items()}, **{n: r.steps() for n, r in runs.items()}}, runs


class last(Iterator[Any]):
    """An iterator that remembers what it gave."""

    def __init__(self, inner: Iterator[Any]):
        self.inner, self.value = inner, None

    def __next__(self) -> Any:
        self.value = next(self.inner)
        return self.value


def overhead(p: problem.Problem, device: str) -> float:
    """The share of our step, repelling and with graphs kept, outside networks; the first step is not counted."""
    run, inside = p.run(memory="fast"), timing.Inside(device)
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
    output.ready(o.json)
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
    told = n > 1 and "cheap" in runs and (heads or o.cheap != "small-decoder")
    found["cosine"] = force.cosines(p, [o.cheap])[o.cheap] if told else None
    report(o, p, n, times, found)


def largest(apart: dict[str, torch.Tensor]) -> float | None:
    """The largest of some differences; None if there is none, or if one is not finite, which is told."""
    if wrong := [name for name, one in apart.items() if not one.isfinite()]:
        print(f"The images of {', '.join(wrong)}, or the plain ones, are not finite.")
        return None
    return max(map(float, apart.values()), default=None)


def precision(o: Bench) -> str:
    """For people."""
    return "bfloat16 (autocast)" if o.autocast else o.dtype


def report(o: Bench, p: problem.Problem, n: int, times: dict[str, float], found: dict[str, Any]) -> None:
    """The table, and the file."""
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
