"""Numbered heads: (split, index) always gives the same head, so no data set is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsd.heads.attributes import ATTRIBUTES, Camera, Head, sample_head
from rsd.heads.render import render

SPLITS = {"train": 0, "validation": 1, "test": 2}


def head_at(split: str, index: int, view: str = "any") -> Head:
    """Return head number ``index`` of a split; ``view`` as in :func:`rsd.heads.attributes.sample_head`."""
    return sample_head(np.random.default_rng([SPLITS[split], index]), view)


def row_of(head: Head) -> list[float]:
    """Return the row of a head in a shard's ``heads`` array."""
    c = head.camera
    return [*head.codes, c.azimuth, c.elevation, c.zoom, *head.light]


def head_from_row(row: np.ndarray) -> Head:
    """Return the head of a row in a shard's ``heads`` array."""
    n = len(ATTRIBUTES)
    values = {a: options[int(code)] for (a, options), code in zip(ATTRIBUTES.items(), row[:n], strict=True)}
    azimuth, elevation, zoom, *light = (float(v) for v in row[n:])
    return Head(values, Camera(azimuth, elevation, zoom), (light[0], light[1]))


def make_shard(split: str, shard: int, count: int = 2000, view: str = "any", size: int = 64) -> dict[str, np.ndarray]:
    """Render heads ``shard*count ... (shard+1)*count - 1``: ``images`` uint8 [count, size, size, 3], ``heads``
    float32."""
    heads = [head_at(split, shard * count + k, view) for k in range(count)]
    return {
        "images": np.stack([render(h, size) for h in heads]),
        "heads": np.array([row_of(h) for h in heads], dtype=np.float32),
    }


def load_shards(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Load all shards of a split in ``folder``, concatenated. Raise FileNotFoundError if there are none."""
    files = sorted(folder.glob(f"{split}-*.npz"))
    if not files:
        raise FileNotFoundError(f"No {split} shards in {folder}; make them with: python -m scripts.heads data")
    parts = [np.load(f) for f in files]
    return {key: np.concatenate([p[key] for p in parts]) for key in ("images", "heads")}
