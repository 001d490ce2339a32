"""What several restorations leave together: a row an image, the means over images, and the distance of the two sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rsd.media import fit_to, read_image
from rsd.metrics import frechet, kernel_distance
from rsd.runs.folder import RunFolder, write_json
from rsd.runs.summary import mean, one_network, particles, write_csv

from .inputs import Job
from .networks import Scorers, why_not
from .options import Restore


def summarise(
    out: Path, folders: dict[Job, RunFolder], failures: dict[str, str], options: Restore, scorers: Scorers | None
) -> None:
    """summary.json and summary.csv."""
    done = {job: folder for job, folder in folders.items() if job.label not in failures and folder.done}
    asked = [name for name in ("lpips", "clip") if name in options.metrics]
    rows = []
    for job, folder in done.items():
        m = folder.metrics()
        row: dict[str, Any] = {"image": job.title}
        for name in ("psnr", "ssim", *asked, "residual"):
            row |= {f"{name}_{k}": (m.get(name) or {}).get(k) for k in ("mean", "best", "std")}
        cover = m["coverage"] or {}
        row |= {
            "div": m["div"],
            "div_features": m.get("div_features"),
            "coverage": cover.get("mean"),
            "agreement": cover.get("agreement"),
        }
        rows.append({**row, "seconds": m["seconds"]})
    names = list(rows[0]) if rows else ["image"]
    means = {k: mean([row[k] for row in rows]) for k in names if k not in ("image", "div_features")}
    distance, why = fid(done, options, scorers)
    if mixed := one_network([row["div_features"] for row in rows if row["div"] is not None]):
        means["div"], why["div"] = None, mixed
    write_json(
        out / "summary.json", {"images": rows, "mean": means, "fid": distance, "failed": failures, "reasons": why}
    )
    write_csv(out / "summary.csv", rows, names)
    shown = "  ".join(f"{k} {v:.3g}" for k, v in means.items() if v is not None and not k.endswith("std"))
    if distance:
        shown += f"; Frechet distance on {distance['features']} {distance['value']:.3g}"
    print(f"{len(rows)} done, {len(failures)} failed; means over images: {shown}; {out / 'summary.json'}")


def fid(
    done: dict[Job, RunFolder], options: Restore, scorers: Scorers | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The Frechet distance between all particles and all clean images, with what it is of; else None and its reason.

    Both sets are read from their pictures (8 bits), the clean ones fitted to the prior as for the run.
    """
    why = why_not(options, several=True).get("fid")
    if why is None and len(done) < 2:
        why = f"it needs 2 restored images or more, here are {len(done)}"
    if why is not None or scorers is None or scorers.fid is None:
        return None, {"fid": why or "its network was not loaded"}
    answers, truths = [], []
    for job, folder in done.items():
        answers.append(particles(folder))
        truths.append(fit_to(read_image(job.path), answers[-1].shape[-1], job.options.fit)[0])
    return distance(answers, truths, scorers), {}


def distance(answers: list[torch.Tensor], truths: list[torch.Tensor], scorers: Scorers) -> dict[str, Any]:
    """The Frechet and kernel distances between all answers and all truths, an entry an image, [N, 3, H, W] and
    [1, 3, H, W] in [-1, 1], with what they are of."""
    assert scorers.fid is not None
    a, b = (torch.cat([scorers.fid(x) for x in images]) for images in (answers, truths))
    found = {"value": frechet(a, b), "kid": kernel_distance(a, b), "features": scorers.fid_name}
    return {**found, "images": len(b), "particles": len(a)}
