"""Restore many heads in one batch: minutes on a GPU, where `rsd restore` takes one head after another and waits for
kernel launches.

    python -m scripts.batch --device cuda --heads 32 --split validation -- --task inpaint_half_face --gamma 6

Arguments after ``--`` are flags of `rsd restore`: task, settings, -n. Only particles of the same head repel one
another. The random numbers differ from those of `rsd restore`, which depend on the picture's name.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from rsd import metrics
from rsd.features import load_features
from rsd.heads.agreement import picture
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.data import head_at
from rsd.priors import load_prior
from rsd.repulsion import Interaction
from rsd.runs.flags import script
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.inverse.run import Decoded, Run, Settings
from scripts.bench import timing


@dataclass
class Batch:
    """Restore many heads at once."""

    heads: int = 32
    first: int = 0
    """Index of the first head."""
    split: Literal["validation", "test"] = "validation"
    view: Literal["frontal", "any", "all"] = "frontal"
    device: str = "cpu"
    json: Path | None = None
    """File to append each run's figures to, one JSON object a line."""


@dataclass(kw_only=True)
class Together(Settings):
    """Settings for the particles of ``heads`` heads, one head after another."""

    heads: int = 1

    @property
    def interaction(self) -> Interaction:
        """Return the repulsion; each head's particles are an ensemble."""
        return replace(super().interaction, ensembles=self.heads)


def solve(o: Batch, flags: list[str]) -> dict[str, Any]:
    """Restore the heads. Return the PSNR of each particle [heads, n] and the Div and Vendi score of each head."""
    options, _ = parse([__file__, "--clean", *flags])
    own, n = Settings.of(options), options.particles
    prior = load_prior("heads", device=o.device, autocast=options.autocast)
    features = load_features("heads", device=o.device)
    side = prior.image_size
    operator = make_operator(options.task, size=side)
    numbers = range(o.first, o.first + o.heads)
    truth = torch.cat([picture(head_at(o.split, k, o.view), side) for k in numbers])
    y = torch.cat([measure(operator, x[None], own.sigma_v, seed=k) for k, x in zip(numbers, truth, strict=True)])
    settings = Together(**{**vars(own), "particles": n * o.heads, "memory": "fast"}, heads=o.heads)
    run = Run(prior, operator, y.repeat_interleave(n, 0), settings, embed=Decoded(prior, features))
    for _ in run.steps():
        pass
    images = run.finish().cpu().clamp(-1, 1)
    with torch.no_grad():
        seen = HeadsClassifier.load().features(images)
    ensembles = zip(images.split(n), seen.split(n), truth, strict=True)
    found = [(metrics.psnr(x, true[None]).tolist(), metrics.spread(phi)) for x, phi, true in ensembles]
    spreads = {name: [one[name] for _, one in found] for name in ("div", "vendi")}
    return {"flags": flags, "psnr": [psnr for psnr, _ in found], **spreads}


def main() -> None:
    """Restore, print, write."""
    own = sys.argv[1:]
    own, flags = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    o = script(Batch, "python -m scripts.batch", own)
    timing.prepare_output(o.json)
    start = time.monotonic()
    found = solve(o, flags)
    mean = sum(sum(one) / len(one) for one in found["psnr"]) / o.heads
    best = sum(map(max, found["psnr"])) / o.heads
    div, vendi = (sum(found[name]) / o.heads for name in ("div", "vendi"))
    took = time.monotonic() - start
    print(f"PSNR mean {mean:.2f} dB, best {best:.2f} dB, Div {div:.4f}, Vendi {vendi:.2f}; {took:.0f} s")
    if o.json:
        which = {"first": o.first, "heads": o.heads, "split": o.split, "view": o.view}
        with o.json.open("a") as file:
            file.write(json.dumps({**which, **found}) + "\n")


if __name__ == "__main__":
    main()
