"""Compare denoising by "photos" with BM3D on held-out photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsd.priors import load_prior
from scripts.photos.data import contact_sheet, held_pictures
from scripts.photos.train import SIGMA, denoise, psnr


def bm3d(y: np.ndarray, sigma: float) -> np.ndarray:
    """Denoise a picture [H, W, 3] in [0, 1] by colour BM3D with its published settings. Raise ImportError with the
    remedy if the package is missing."""
    try:
        from bm3d import bm3d_rgb
    except ImportError:
        raise ImportError("BM3D is not installed; run pip install bm3d (it is not free for commercial use).") from None
    return np.asarray(bm3d_rgb(y, sigma))


def compare(folder: Path, work: Path, *, with_bm3d: bool = True, long: int = 768, short: int = 512) -> dict[str, Any]:
    """Return the PSNR in dB of each held-out photograph with Gaussian noise of 25 grey levels: noisy, denoised by the
    prior in ``folder`` in one network pass, and by BM3D, on the same noise, not clipped. Writes
    ``work/photos-samples.png`` with the noisy, the denoised and the true pictures.

    Each result is rounded to grey levels."""
    net: Any = load_prior(str(folder)).network
    rows, shown = {}, {}
    for k, (name, picture) in enumerate(held_pictures(work, long, short).items()):
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        y = x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
        results = {"noisy": y.clamp(-1, 1), "photos": denoise(net, y, SIGMA)}
        if with_bm3d:
            theirs = bm3d(((y + 1) / 2)[0].permute(1, 2, 0).double().numpy(), 25 / 255)
            results["bm3d"] = torch.from_numpy(theirs).float().permute(2, 0, 1)[None] * 2 - 1
        rounded = {key: (((value.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1) for key, value in results.items()}
        rows[name] = {key: round(float(psnr(x, value)), 3) for key, value in rounded.items()}
        print(name, *(f"{key} {value:.2f}" for key, value in rows[name].items()), flush=True)
        for key, value in {**rounded, "true": x}.items():
            grey = ((value[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            y0, x0 = (grey.shape[0] - 176) // 2, (grey.shape[1] - 256) // 2
            shown[f"{key} {name}"] = grey[max(y0, 0) :, max(x0, 0) :][:176, :256]
    sheet = contact_sheet(shown, columns=4 if with_bm3d else 3, width=260, height=194)
    sheet.save(work / "photos-samples.png")
    mean = {key: round(float(np.mean([row[key] for row in rows.values()])), 3) for key in next(iter(rows.values()))}
    return {"sigma": "25/255", "mean": mean, "photographs": rows}
