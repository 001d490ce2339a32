"""Fit the face reader, which tells fronts from backs: ``python -m scripts.heads.face``, about two minutes.

Fronts are within 45 degrees of the face, backs within 45 degrees of the opposite side, like the view words. Both are
used sharp and at lower resolutions, since scenes are rendered at 32 px and may be blurred.
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F

from rsd.heads.attributes import Camera, Head, sample_head
from rsd.heads.classifier import FACE, FaceReader, HeadsClassifier, fingerprint
from rsd.heads.data import SPLITS
from rsd.heads.render import render
from rsd.runs.folder import write_bytes

COUNT = {"train": 600, "validation": 200}
SIZES = (64, 32, 24, 18)
RIDGE = 0.01
"""Ridge in units of the features' mean variance."""


def render_side(split: str, side: str, count: int) -> torch.Tensor:
    """Render ``count`` heads of a split from the "front" or the "back", [count, 3, 64, 64] in [-1, 1]."""
    rng = np.random.default_rng([SPLITS[split], len(side), 3])
    out = []
    for _ in range(count):
        head = sample_head(rng, "all")
        azimuth = rng.uniform(-45, 45) + (180 if side == "back" else 0)
        camera = Camera(azimuth, head.camera.elevation, head.camera.zoom)
        out.append(torch.from_numpy(render(Head(head.values, camera, head.light), 64, 2)))
    return torch.stack(out).permute(0, 3, 1, 2).float() / 127.5 - 1


def at_resolution(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images as the classifier sees pictures of ``size`` px."""
    if images.shape[-1] == size:
        return images
    small = F.interpolate(images, size=(size, size), mode="area")
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(-1, 1)


def discriminant(fronts: torch.Tensor, backs: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return Fisher's linear discriminant of features [n, d] and [m, d], and the bias that puts 0 halfway."""
    apart = fronts.mean(0) - backs.mean(0)
    inside = torch.cat([fronts - fronts.mean(0), backs - backs.mean(0)])
    covariance = inside.T @ inside / len(inside)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(apart), dtype=covariance.dtype)
    weights = torch.linalg.solve(covariance, apart)
    return weights, -float(weights @ (fronts.mean(0) + backs.mean(0))) / 2


def main() -> None:
    """Fit on heads of the training split, print the validation figures, and write the file."""
    torch.set_num_threads(1)
    classifier = HeadsClassifier.load()
    train = {side: render_side("train", side, COUNT["train"]) for side in ("front", "back")}
    found = {
        side: torch.cat([classifier.features(at_resolution(images, size)) for size in SIZES])
        for side, images in train.items()
    }
    weights, bias = discriminant(found["front"].double(), found["back"].double())
    reader = FaceReader(weights.float(), bias, fingerprint())
    held = {side: render_side("validation", side, COUNT["validation"]) for side in ("front", "back")}
    figures = {
        f"{size} px": {
            side: float(reader.sees(classifier, at_resolution(x, size)).float().mean()) for side, x in held.items()
        }
        for size in SIZES
    }
    print(json.dumps({"faces seen": figures}, indent=1))
    values = {"classifier": reader.classifier, "bias": bias, "weights": [round(v, 6) for v in weights.tolist()]}
    write_bytes(FACE, (json.dumps({**values, "held_out": figures}) + "\n").encode())


if __name__ == "__main__":
    main()
