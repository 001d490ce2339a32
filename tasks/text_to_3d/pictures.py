"""What a scene looks like from around it: a turntable, and all scenes at the same views."""

from __future__ import annotations

from pathlib import Path

import torch

from rsd import media


def write_turntable(path: Path, frames: torch.Tensor, *, seconds: float = 4.0) -> None:
    """A GIF that goes once around: ``frames`` [V, 3, H, W] in [-1, 1]; it repeats without a stop."""
    pause = max(round(1000 * seconds / len(frames)), 20)
    media.write_gif(path, list(frames[:, None]), milliseconds=pause, hold=pause)


def contact_sheet(images: torch.Tensor, azimuth: torch.Tensor):
    """A picture with a row for each scene and a column for each view: ``images`` [N, V, 3, H, W], ``azimuth`` [V]."""
    labels = [f"scene {n}, {angle:.0f} degrees" for n in range(len(images)) for angle in azimuth.tolist()]
    return media.grid([x[None] for x in images.flatten(0, 1)], labels=labels, columns=images.shape[1])
