"""Tune every method on the built-in priors with equal budgets: six candidates each, on validation heads.

python -m scripts.tune --shard 0/2     # and 1/2 in another process; hours of a core in all; resumes if interrupted
python -m scripts.tune                 # the remaining runs, then the table: tune.md, tune.json

Networks multiply in bfloat16 if the machine does: half the time, and figures within 0.1 dB (docs/cost.md).

The candidate with the highest mean PSNR wins. Where RLSD's settings repel, methods whose particles interact take the
candidate with the largest Div within 1 dB of it. A method has one setting for all tasks, and a task's own setting if it
gains half a decibel or more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from rsd.distributed import pick_device
from rsd.heads.command import main as write_heads
from rsd.priors import image_size
from rsd.priors.precision import multiplies_in
from rsd.runs.flags import script
from rsd.runs.settings import shard
from rsd.tasks.inverse.compare.run import run_key
from rsd.tasks.inverse.head import check_method, run
from rsd.tasks.inverse.methods import METHODS, load_method
from rsd.tasks.inverse.names import matched
from rsd.tasks.inverse.options import Restore
from rsd.tasks.inverse.packaged import parse

TASKS = ("inpaint_half_face", "inpaint_random", "sr4", "deblur_motion", "hdr", "phase_retrieval")
REPELS = ("inpaint_half_face",)
"""Tasks for which RLSD's settings have gamma above 0."""
LATENT, PIXELS = "heads", "heads-pixels"
WITHIN, GAIN = 1.0, 0.5
"""Thresholds in decibels, see above."""

SCALED = (("lambda=x0.5", "lambda=x1", "lambda=x2"), ("lr_z=x0.5", "lr_z=x1"))
CANDIDATES: dict[str, tuple[tuple[str, ...], ...]] = {
    "rlsd": SCALED,
    "latent-red-diff": SCALED,
    "nonaug": SCALED,
    "red-diff": (("lambda=0.1", "lambda=0.25", "lambda=0.5"), ("lr_z=0.1", "lr_z=0.3")),
    "svgd": (("lambda=0.05", "lambda=0.1", "lambda=0.2"), ("gamma=2", "gamma=6")),
    "particle-guidance": (("zeta=0.2", "zeta=0.5", "zeta=1"), ("gamma=3", "gamma=10")),
    "latent-dps": (("zeta=0.1", "zeta=0.2", "zeta=0.5", "zeta=1", "zeta=2", "zeta=4"),),
    "psld": (("omega=0.2", "omega=0.5", "omega=1"), ("gamma=0.02", "gamma=0.1")),
    "resample": (("every=10 fits=50", "every=5 fits=25"), ("gamma=40", "gamma=160", "gamma=640")),
    "latent-daps": (("tau=0.01 lr=1e-6", "tau=0.01 lr=4e-6", "tau=0.01 lr=1.6e-5"), ("lr_end=0.3", "lr_end=1")),
    "latino": (("ode=1", "ode=3"), ("delta=1", "delta=1e-3", "delta=1e-5")),
    "dps": (("zeta=0.25", "zeta=0.5", "zeta=1", "zeta=2", "zeta=4", "zeta=8"),),
    "pigdm": (("adaptive=true", "adaptive=false"), ("eta=0.3", "eta=0.7", "eta=1")),
    "fps-smc": (("M=1", "M=5"), ("eta=0.5", "eta=0.75", "eta=1")),
    "score-prior": (("lr_last=0.03", "lr_last=0.05", "lr_last=0.1"), ("lr=3e-4", "lr=1e-3")),
    "daps": (("tau=0.01 lr=2.5e-5", "tau=0.02 lr=1e-4", "tau=0.05 lr=6e-4"), ("lr_end=0.1", "lr_end=1")),
}
"""A candidate takes one word of each part; x2 is twice the packaged value, and other settings are the packaged ones."""


Figures = dict[str, tuple[float, float]]
"""Mean PSNR [dB] and Div over the heads by candidate; Div is 0 for one particle."""


@dataclass
class Tune:
    """Run the candidates of every method and choose the best."""

    out: Path = Path("runs/tune")
    """Folder for runs and the table."""
    heads: int = 2
    """Number of validation heads."""
    particles: int = 2
    """N if particles repel one another; otherwise they are independent, and one is used."""
    methods: tuple[str, ...] = tuple(CANDIDATES)
    """Methods to tune."""
    tasks: tuple[str, ...] = TASKS
    """Tasks, named as for 64 px."""
    shard: str | None = None
    """K/N: only every N-th run, from the K-th, and no table (default: all)."""


@dataclass(frozen=True)
class Trial:
    """A candidate of a method on a task, with its options of rsd restore."""

    method: str
    task: str
    candidate: str
    options: Restore

    def run(self) -> None:
        """Restore the heads unless that is done."""
        if self.figures is None:
            print(f"== {self.method}, {self.task}, {self.candidate}", flush=True)
            run(self.options)

    @property
    def figures(self) -> tuple[float, float] | None:
        """Mean PSNR and Div; None if it has not run or diverged on a head."""
        assert self.options.out is not None
        file = self.options.out / "summary.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"failed": "not run"}
        return None if found.get("failed") else (found["mean"]["psnr_mean"], found["mean"]["div"] or 0.0)


def flags(method: str, candidate: str, packaged: Restore) -> list[str]:
    """Return a candidate as flags of rsd restore."""
    own = load_method(method) if METHODS[method].sampler else None
    hyper = dict(text.split("=") for text in packaged.hyper)
    found = []
    for name, _, value in (word.partition("=") for word in candidate.split()):
        if hasattr(own, name):
            hyper[name] = value
            continue
        if value.startswith("x"):
            value = f"{float(value[1:]) * getattr(packaged, {'lambda': 'lambda_'}.get(name, name)):g}"
        found += [f"--{name.replace('_', '-')}", value]
    return [*found, "--hyper", *(f"{name}={value}" for name, value in hyper.items())] if hyper else found


def trials(o: Tune, heads: Path) -> Iterator[Trial]:
    """Yield what rsd compare would run: pairs that fit, have packaged settings, and do not repeat another run."""
    sizes = {prior: image_size(prior) for prior in (LATENT, PIXELS)}
    seen = set()
    fast = ["--autocast"] if multiplies_in(torch.bfloat16, pick_device("auto")) else []
    for method, task in product(o.methods, o.tasks):
        prior = PIXELS if METHODS[method].space == "pixels" else LATENT
        own = matched(task, sizes[prior], sizes[LATENT])
        assert own is not None
        common = [str(heads), "--clean", "--resume", "--task", own, "--method", method, "--prior", prior, *fast]
        packaged, name = parse(common)
        if name is None or not fits(packaged, sizes[prior]) or run_key(packaged) in seen:
            continue
        seen.add(run_key(packaged))
        n = o.particles if packaged.interacts else 1
        for words in product(*CANDIDATES[method]):
            candidate = " ".join(words)
            out = ["-n", str(n), "--out", str(o.out / task / method / candidate.replace(" ", ","))]
            yield Trial(method, task, candidate, parse([*common, *out, *flags(method, candidate, packaged)])[0])


def fits(options: Restore, size: int) -> bool:
    """Return whether a method works on a task."""
    try:
        check_method(options, size)
    except ValueError:
        return False
    return True


def best(found: Figures, *, apart: bool) -> str:
    """Return the candidate with the highest mean PSNR; ``apart``: with the largest Div within 1 dB of it."""
    top = max(psnr for psnr, _ in found.values())
    near = {name: div for name, (psnr, div) in found.items() if apart and psnr > top - WITHIN}
    return max(near or found, key=lambda name: near.get(name, found[name][0]))


def rows(method: str, by_task: dict[str, Figures]) -> Iterator[dict[str, Any]]:
    """Yield the choice for each task, beside the choice for all tasks among candidates that ran on all."""
    candidates = set.intersection(*(set(found) for found in by_task.values()))
    if not candidates:
        return
    means = {name: sum(found[name][0] for found in by_task.values()) / len(by_task) for name in sorted(candidates)}
    shared = max(means, key=lambda name: means[name])
    for task, found in by_task.items():
        apart = task in REPELS and "gamma" in METHODS[method].uses
        own = best(found, apart=apart)
        takes = own if apart or found[own][0] >= found[shared][0] + GAIN else shared
        yield {
            "method": method, "task": task, "all": shared, "psnr of all": found[shared][0], "takes": takes,
            "psnr": found[takes][0], "div": found[takes][1], "worst": min(psnr for psnr, _ in found.values()),
        }  # fmt: skip


def write(out: Path, every: list[Trial]) -> None:
    """Choose, print, and write tune.json (all figures and choices) and tune.md."""
    by: dict[str, dict[str, Figures]] = {}
    for one in every:
        if one.figures is not None:
            by.setdefault(one.method, {}).setdefault(one.task, {})[one.candidate] = one.figures
    choices = [row for method, by_task in by.items() for row in rows(method, by_task)]
    (out / "tune.json").write_text(json.dumps({"figures": by, "choices": choices}, indent=1) + "\n")
    lines = ["| method | task | for all tasks | PSNR [dB] | takes | PSNR [dB] | Div | worst [dB] |", "|---" * 8 + "|"]
    for row in choices:
        same = "the same" if row["takes"] == row["all"] else f"`{row['takes']}`"
        figures = f"{row['psnr']:.1f} | {row['div']:.3f} | {row['worst']:.1f}"
        lines.append(
            f"| `{row['method']}` | {row['task']} | `{row['all']}` | {row['psnr of all']:.1f} | {same} | {figures} |"
        )
    text = "\n".join(lines) + "\n"
    (out / "tune.md").write_text(text)
    print(text)


def main() -> None:
    """Run the missing trials, then choose."""
    o = script(Tune, "python -m scripts.tune")
    heads = o.out / f"heads-validation-{o.heads}"
    write_heads(["--out", str(heads), "--number", str(o.heads), "--split", "validation"])
    every = list(trials(o, heads))
    first, step = shard(o.shard)
    for trial in every[first::step]:
        trial.run()
    if not o.shard:
        write(o.out, every)


if __name__ == "__main__":
    main()
