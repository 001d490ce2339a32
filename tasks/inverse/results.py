"""What a restoration leaves to be looked at: pictures, and its figures in a line."""

from __future__ import annotations

from typing import Any

import torch

from rsd import media
from rsd.runs.folder import RunFolder

from .operators import Inpaint
from .options import Restore
from .problem import Problem


def keep_known(options: Restore, problem: Problem) -> bool:
    """Whether the known pixels are put back: as asked, else when restoring a measurement said to be exact."""
    asked = options.keep_known
    return isinstance(problem.operator, Inpaint) and (
        asked if asked is not None else not options.clean and options.sigma_v == 0
    )


def write_results(images: torch.Tensor, problem: Problem, folder: RunFolder, options: Restore) -> None:
    """particles/, measurement, grid and spread."""
    about = {"seed": str(options.seed), "gamma": str(options.gamma), "method": options.method, "task": options.task}
    about["prompt"] = options.prompt
    for k, image in enumerate(images):
        media.write_png(folder.path / "particles" / f"{k:02d}.png", image[None], text={**about, "particle": str(k)})
    picture = problem.operator.picture(problem.y)
    media.write_png(folder.path / "measurement.png", picture)
    media.write_measurement(folder.path / "measurement.safetensors", problem.y, {"task": options.task})
    media.save_png(folder.path / "spread.png", media.spread(images))
    cells, labels = [picture], ["measurement"]
    if problem.clean is not None:
        cells, labels = [*cells, problem.clean], [*labels, "truth"]
    cells += [image[None] for image in images]
    labels += [f"particle {k}" for k in range(len(images))]
    media.save_png(folder.path / "grid.png", media.grid(cells, labels=labels))


def headline(figures: dict[str, Any]) -> str:
    """The figures of one image in a line."""
    parts = []
    if figures["psnr"]:
        mean, best = (figures["psnr"][part] for part in ("mean", "best"))
        parts.append(f"PSNR mean {_number(mean)} dB, best {_number(best)} dB")
    if figures["residual"]:
        parts.append(f"residual {figures['residual']['mean']:.2f} sigma_v")
    if figures["div"] is not None:
        parts.append(f"Div {figures['div']:.3f}")
    if figures.get("nearly_equal"):
        parts.append("nearly equal")
    return ", ".join(parts) or "done"


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"
