"""Compare each cheap force with the exact one: cosines over a run on half a head, where skipped steps count as zero.

python scripts/bench_force.py --steps 20 --json force.json     # N = 4, about two minutes of a core
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from rsd.runs.flags import script  # noqa: E402
from scripts.bench import problem, timing  # noqa: E402


@dataclass
class Forces:
    """Compare cheap forces with the exact one."""

    steps: int = 20
    particles: int = 4
    json: Path | None = None
    """File for the cosines."""


def main() -> None:
    """Compare, print, write."""
    o = script(Forces, "bench_force")
    timing.prepare_output(o.json)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found = problem.cosines(problem.make("heads", particles=o.particles, steps=o.steps), get_args(problem.Cheap))
    for name, cosine in found.items():
        print(f"{name:14} {cosine:.4f}")
    if o.json:
        o.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
