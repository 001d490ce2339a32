"""Say what draws from the exact posterior would reach on half a face: the most that a sampler can hope for.

    python -m scripts.ceiling --heads 32

The samples are the posterior's heads (docs/calibration.md), encoded and decoded by the prior's autoencoder, with the
measured half as it is. Printed are the expected PSNR of a sample and of the best of four, over heads, and how much
above each row of docs/half-face.json that is, with 95% intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rsd.heads.agreement import picture
from rsd.heads.data import head_at
from rsd.metrics import psnr
from rsd.priors import load_prior
from rsd.priors.base import Prior
from rsd.runs.flags import script
from rsd.tasks.calibrate.posterior import exact
from rsd.tasks.inverse.operators import Inpaint, make_operator
from scripts.study import interval

DRAWS = 2000
"""Groups of four samples for the best of four."""
COLUMNS = ("PSNR mean [dB]", "PSNR best of N [dB]")


@dataclass
class Ceiling:
    """Evaluate exact posterior draws on held-out frontal heads."""

    heads: int = 32
    """Number of heads."""
    split: Literal["test", "validation"] = "test"
    """validation: for tuning; test: for reporting."""
    figures: Path = Path("docs/half-face.json")
    """The figures of samplers on the test heads."""


@torch.no_grad()
def reached(split: str, number: int, prior: Prior, operator: Inpaint, sigma_v: float = 0.001) -> tuple[float, float]:
    """Return the expected PSNR of one draw and of the best of four, in dB, for a head."""
    head = head_at(split, number, "frontal")
    truth = picture(head)
    posterior = exact(head, operator(truth), operator, sigma_v)
    decoded = prior.decode(prior.encode(posterior.pictures(picture))).clamp(-1, 1)
    found = psnr(torch.where(operator.observed, truth, decoded), truth).double().numpy()
    rng = np.random.default_rng(number)
    best = found[posterior.draw(4 * DRAWS, rng)].reshape(DRAWS, 4).max(1).mean()
    return float((posterior.weights * found).sum()), float(best)


def main() -> None:
    """Print the table."""
    o = script(Ceiling, "python -m scripts.ceiling")
    prior, operator = load_prior("heads"), make_operator("inpaint_half_face", size=64)
    assert isinstance(operator, Inpaint)
    best = {f"head-{k:04d}.png": reached(o.split, k, prior, operator) for k in range(o.heads)}
    means = np.mean(list(best.values()), 0)
    print(f"exact draws, through the autoencoder: {means[0]:.1f} dB, best of 4 {means[1]:.1f} dB")
    if o.split == "validation":
        return
    for name, heads in json.loads(o.figures.read_text()).items():
        both = [k for k in best if k in heads]
        for column, what in enumerate(COLUMNS):
            gap, half = interval(np.array([best[k][column] - heads[k][what] for k in both]))
            print(f"  above {name}, {what}: {gap:+.1f} ± {half:.1f} ({len(both)} heads)")


if __name__ == "__main__":
    main()
