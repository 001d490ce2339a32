"""Cards of a report: a row's images as data URIs (strips of samples, sliders, spreads, films, turntables), and its
settings in a line."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import yaml  # noqa: E402
from PIL import Image, ImageSequence  # noqa: E402

from rsd import media  # noqa: E402
from rsd.pages import data_uri, encoded, shrink  # noqa: E402

from ..inverse.methods import METHODS  # noqa: E402
from ..text_to_image.options import TextToImage  # noqa: E402
from ..text_to_image.plots import clip_axes  # noqa: E402
from .measure import Measured  # noqa: E402
from .plan import Plan  # noqa: E402

PICTURES, FRAMES, FILMED, TURNTABLES = 2, 8, 2, 2
"""The number of images or prompts per row, moments and particles of a film, and turntables."""
LARGEST, GLANCE = 256, 400
"""The largest side in pixels of an image in a report, and of a strip or plot in the report of all."""


@dataclass
class Card:
    """A row in a report; images are data URIs. ``settings``: in a line; ``runs``: their number; ``strips``: title and
    image, one per restored image or prompt; ``slider``: before and after."""

    plan: Plan
    settings: str
    runs: int = 1
    strips: list[tuple[str, str]] = field(default_factory=list)
    slider: tuple[str, str] | None = None
    spread: str | None = None
    film: str | None = None
    turntables: list[str] = field(default_factory=list)


def card(plan: Plan, folder: Path) -> Card:
    """Return the card of a finished run."""
    if plan.command == "toy":
        made = Card(plan, settings("toy", json.loads((folder / "toy.json").read_text(encoding="utf-8"))))
        made.strips.append(
            ("the final positions of every pair of particles", data_uri(Image.open(folder / "scatter.png"), 520))
        )
        return made
    runs = runs_in(folder)
    first = runs[0]
    made = Card(plan, settings(plan.command, config(first)), len(runs))
    for run in runs[:PICTURES]:
        made.strips.append((config(run).get("prompt") or run.name, data_uri(strip(run))))
    if (first / "measurement.png").exists():
        sample = small(Image.open(first / "particles" / "00.png"))
        made.slider = data_uri(before(first, sample.size)), data_uri(sample)
    if (first / "spread.png").exists():
        made.spread = data_uri(Image.open(first / "spread.png"), 320, quality=75)
    made.film = data_uri(film(first / "evolution.gif"), quality=60)
    made.turntables = [animated(path) for path in sorted(first.glob("scenes/*/turntable.gif"))[:TURNTABLES]]
    return made


def glance(plan: Plan, folder: Path) -> str:
    """Return one strip of a finished run, small, as a data URI."""
    if plan.command == "toy":
        return data_uri(Image.open(folder / "scatter.png"), GLANCE // 2, quality=75)
    return data_uri(strip(runs_in(folder)[0]), GLANCE, quality=75)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs of a row's images or prompts, one or more."""
    return sorted(path.parent for path in folder.glob("*/metrics.json"))


def strip(run: Path) -> Image.Image:
    """Return the images of a run side by side: measurement and clean image, if any, and the samples; or views around
    the scenes."""
    if (run / "contact.png").exists():
        return shrink(Image.open(run / "contact.png").convert("RGB"), 640)
    samples = [small(Image.open(path)) for path in sorted((run / "particles").glob("*.png"))]
    if (run / "measurement.png").exists():
        samples = [before(run, samples[0].size), truth(run, samples[0].size), *samples]
    return sheet(samples, len(samples))


def before(run: Path, size: tuple[int, int]) -> Image.Image:
    """Return a restoration's measurement at the size of its samples."""
    return Image.open(run / "measurement.png").convert("RGB").resize(size, Image.Resampling.NEAREST)


def truth(run: Path, size: tuple[int, int]) -> Image.Image:
    """Return a restoration's clean image, fitted as in the run."""
    settings = config(run)
    fitted, _ = media.fit_to(media.read_image(settings["images"][0]), size[0], settings["fit"])
    return Image.fromarray(media.to_uint8(fitted))


def config(run: Path) -> dict[str, Any]:
    """Return the settings of a run."""
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def sheet(pictures: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Return images of one size in a grid, row by row, on white."""
    wide, high = pictures[0].size
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (wide + gap) - gap, rows * (high + gap) - gap), "white")
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k % columns * (wide + gap), k // columns * (high + gap)))
    return whole


def film(path: Path) -> Image.Image:
    """Return moments of an evolution.gif from left to right, a row per particle: only the first ones, since noise
    compresses poorly."""
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(path))]
    chosen = [frames[round(k * (len(frames) - 1) / (FRAMES - 1))] for k in range(FRAMES)]
    side = chosen[0].height - 2 * media.MARGIN
    lefts = range(media.MARGIN, chosen[0].width - side, side + media.MARGIN)[:FILMED]
    boxes = [(left, media.MARGIN, left + side, media.MARGIN + side) for left in lefts]
    return sheet(
        [frame.crop(box).resize((64, 64), Image.Resampling.LANCZOS) for box in boxes for frame in chosen], FRAMES
    )


def animated(path: Path) -> str:
    """Return a turntable as an animated data URI."""
    frames = [small(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=100, loop=0, quality=80)
    return encoded(buffer.getvalue(), "webp")


def trade_off(rows: dict[str, Measured], across: str, up: str) -> Image.Image | None:
    """Plot one figure against another, a point per row; return None if fewer than two rows have both."""
    points = [(label, row.mean(across), row.mean(up)) for label, row in rows.items()]
    known = [(label, x, y) for label, x, y in points if x is not None and y is not None]
    if len(known) < 2:
        return None
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for (label, x, y), marker in zip(known, itertools.cycle("osD^vP*X")):
        axes.plot(x, y, marker, label=label, markersize=8, clip_on=False)
    axes.set(xlabel=NAMES[across], ylabel=NAMES[up])
    if across == "gamma":
        axes.set_xscale("symlog", linthresh=0.1)
    clip_axes(axes, across, up)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return Image.open(buffer)


NAMES: dict[str, str] = {
    "psnr": "PSNR [dB], mean over samples", "psnr_best": "PSNR [dB], best of N",
    "psnr_std": "PSNR [dB], spread over samples", "psnr_small": "PSNR [dB] at the size of the pixel priors, mean",
    "ssim": "SSIM, mean", "lpips": "LPIPS, mean (lower is better)", "div": "Div", "vendi": "Vendi score",
    "coverage": "coverage (values of hidden attributes)", "agreement": "agreement (0-1)",
    "fid": "Frechet distance (lower is better)",
    "residual": "residual [sigma_v], mean", "seconds": "seconds per image",
    "sharpness": "detail (mean gradient, including noise; the clean image has 1)",
    "clip": "CLIP score", "aesthetic": "aesthetic score",
    "face_front": "faces in front (0-1)", "janus": "Janus (faces seen from behind, of scenes with one in front)",
    "gamma": "gamma, the weight of the repulsion", "collapsed": "share of pairs in one mode",
    "misfit": "distance from the nearest mode",
}  # fmt: skip
"""The names of figures in reports, with units."""


def small(picture: Image.Image) -> Image.Image:
    """Return an image in RGB, at most LARGEST on a side."""
    return shrink(picture.convert("RGB"), LARGEST)


ALWAYS = {"particles": "N =", "steps": "L ="}
SHOWN = {
    "restore": {
        "gamma": "gamma", "window": "window", "interacting": "interacting", "lambda_": "lambda", "rho": "rho",
        "lr_x": "lr_x", "lr_z": "lr_z", "x_step": "x-step", "features": "features",
    },
    "text-to-image": {
        "gamma": "gamma", "window": "window", "features": "features", "guidance": "guidance", "lr": "lr",
        "score": "score", "lr_phi": "lr_phi",
    },
    "text-to-3d": {
        "views": "views a step", "gamma": "gamma", "interaction": "between", "features": "features",
        "guidance": "guidance", "lr": "lr",
    },
    "toy": {"gamma": "gamma", "realisations": "pairs", "lr": "lr"},
}  # fmt: skip
"""The settings shown for each command, and their names."""
SILENT: dict[str, tuple[Any, ...]] = {"window": ([0.0, 1.0],), "x_step": ("adam",), "features": ("auto",)}
"""Values that are not shown, since they have no effect or are the common ones. Other settings are shown unless None."""


def settings(command: str, config: dict[str, Any]) -> str:
    """Return a run's settings in a line, such as "N = 4, L = 100, gamma 12, lambda 0.05, rho 0.075, lr_z 0.6, x-step
    exact"; for a restoration those that its method reads."""
    chosen = {**ALWAYS, **SHOWN[command]}
    method = config.get("method", "")
    if command == "restore":
        reads = [name for name in METHODS[method].uses if name != "lr_x" or config["x_step"] == "adam"]
        if METHODS[method].sampler and not config.get("gamma"):  # most samplers are compared without repulsion
            reads = [name for name in reads if name != "gamma"]
        chosen = {name: title for name, title in chosen.items() if name in ALWAYS or name in reads}
    if command == "text-to-image":
        idle = TextToImage(method=method).unread
        chosen = {name: title for name, title in chosen.items() if name not in idle}
    known = {title: config[name] for name, title in chosen.items() if config.get(name) not in SILENT.get(name, (None,))}
    parts = [f"{title} {_plain(value)}" for title, value in known.items()]
    return ", ".join([*parts, *config.get("hyper", [])])


def _plain(value: Any) -> str:
    """Format a number briefly, a list as a range."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]" if len(value) > 1 else _plain(value[0])
    return f"{value:g}" if isinstance(value, float) else str(value)
