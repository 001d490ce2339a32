"""Restore crops of held-out photographs by "photos" and by classical methods, on the same measurements."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from rsd.priors import load_prior
from rsd.runs.run import drive
from rsd.tasks.inverse.methods import load_method, run_class
from rsd.tasks.inverse.operators import Operator, make_operator, measure
from rsd.tasks.inverse.operators.jpeg import of_file, read_jpeg
from rsd.tasks.inverse.options import Settings
from rsd.tasks.inverse.packaged import settings_of
from scripts.photos.data import Crops, contact_sheet
from scripts.photos.evaluate import bm3d

MARKS = ("<!-- figures -->", "<!-- end of figures -->")
"""Marks of the table of figures in the model card."""
SIDE = 256
GREY = 2 / 255
"""A grey level in [-1, 1]."""


@dataclass(frozen=True)
class Case:
    """A kind of damage: a task of ``rsd restore`` with its noise, and the methods to compare with. ``damage`` returns
    the operator and the measurement of a picture [1, 3, H, W]; ``others`` the results of other methods; ``target``:
    what is aimed at, in dB above the better of them."""

    task: str
    what: str
    sigma_v: float
    damage: Callable[[torch.Tensor, int, float, Path], tuple[Operator, torch.Tensor]]
    others: Callable[[Operator, torch.Tensor, torch.Tensor, float], dict[str, torch.Tensor]]
    target: float


def by_operator(task: str, **options: Any) -> Callable[..., tuple[Operator, torch.Tensor]]:
    """Return the damage by the operator of a task."""

    def damage(x: torch.Tensor, seed: int, sigma_v: float, work: Path) -> tuple[Operator, torch.Tensor]:
        operator = make_operator(task, size=x.shape[-1], **options)
        return operator, measure(operator, x, sigma_v, seed)

    return damage


def scratched(x: torch.Tensor, seed: int, sigma_v: float, work: Path) -> tuple[Operator, torch.Tensor]:
    """Hide scratches and lines of text over 10% of the pixels."""
    operator = make_operator("inpaint_mask", size=x.shape[-1], mask=scratches_and_text(x.shape[-1], seed))
    return operator, measure(operator, x, sigma_v, seed)


def compressed(x: torch.Tensor, seed: int, sigma_v: float, work: Path) -> tuple[Operator, torch.Tensor]:
    """Write a JPEG file of quality 20 as Pillow does, and read it as ``rsd restore`` does."""
    file = work / "compressed.jpg"
    Image.fromarray(levels(x)).save(file, "JPEG", quality=20)
    operator = of_file(file)
    operator.task = "jpeg"
    return operator, read_jpeg(file, operator)


def scratches_and_text(side: int, seed: int, share: float = 0.1) -> torch.Tensor:
    """Return the known pixels, bool [side, side]: ``share`` of the others are about half under scratches of 1 to 3 px,
    and under lines of text."""
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    font = ImageFont.load_default(size=max(10, side // 14))
    line = 0
    while np.asarray(mask).astype(bool).mean() < share / 2:
        draw.text((rng.uniform(0, side / 8), (line + 0.3) * side / 6), "the quick brown fox jumps over it", 255, font)
        line += 1
    while np.asarray(mask).astype(bool).mean() < share:
        x, y, angle = *rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi)
        points = [(x, y)]
        for _ in range(int(rng.integers(8, 40))):
            angle += rng.normal(0, 0.15)
            x, y = x + 6 * np.cos(angle), y + 6 * np.sin(angle)
            points.append((x, y))
        draw.line(points, fill=255, width=int(rng.integers(1, 4)))
    return torch.from_numpy(np.asarray(mask) < 128)


def others_of_noise(operator: Operator, y: torch.Tensor, x: torch.Tensor, sigma_v: float) -> dict[str, torch.Tensor]:
    """BM3D with the true noise."""
    theirs = bm3d(((y + 1) / 2)[0].permute(1, 2, 0).double().numpy(), sigma_v / 2)
    return {"BM3D": torch.from_numpy(theirs).float().permute(2, 0, 1)[None] * 2 - 1}


def others_of_holes(operator: Operator, y: torch.Tensor, x: torch.Tensor, sigma_v: float) -> dict[str, torch.Tensor]:
    """OpenCV's Telea (if installed) and scikit-image's biharmonic inpainting."""
    from skimage.restoration import inpaint_biharmonic

    assert operator.observed is not None
    hidden = ~operator.observed[0, 0].numpy()
    picture = (y[0].permute(1, 2, 0).numpy() + 1) / 2
    theirs = inpaint_biharmonic(picture, hidden, channel_axis=-1, split_into_regions=True)
    found = {"biharmonic": torch.from_numpy(theirs).float().permute(2, 0, 1)[None] * 2 - 1}
    try:
        import cv2
    except ImportError:
        print("Telea's method is left out: OpenCV is not installed (pip install opencv-python-headless)")
        return found
    telea = cv2.inpaint(levels(y), hidden.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return {"Telea": torch.from_numpy(telea).float().permute(2, 0, 1)[None] / 127.5 - 1, **found}


def others_of_blur(operator: Operator, y: torch.Tensor, x: torch.Tensor, sigma_v: float) -> dict[str, torch.Tensor]:
    """Wiener's filter with the balance, and Richardson-Lucy with the number of steps, that are best for this picture,
    which nobody knows; on a picture mirrored at its border."""
    from skimage.restoration import richardson_lucy, wiener

    kernel = operator.kernel.numpy()  # type: ignore[union-attr,operator]
    pad = kernel.shape[0]
    wide = F.pad((y + 1) / 2, (pad, pad, pad, pad), mode="reflect")[0].numpy().astype(np.float64)

    def best(tries: Iterator[np.ndarray]) -> torch.Tensor:
        made = [torch.from_numpy(t[:, pad:-pad, pad:-pad]).float()[None] * 2 - 1 for t in tries]
        return max(made, key=lambda one: psnr(x, one))

    filtered = (
        np.stack([wiener(c, kernel, balance, clip=False) for c in wide]) for balance in np.geomspace(1e-3, 1, 13)
    )
    deconvolved = (np.stack([richardson_lucy(c, kernel, n) for c in wide.clip(0)]) for n in (2, 4, 8, 16, 32))
    return {"Wiener": best(filtered), "Richardson-Lucy": best(deconvolved)}


def others_of_size(operator: Operator, y: torch.Tensor, x: torch.Tensor, sigma_v: float) -> dict[str, torch.Tensor]:
    """Cubic interpolation."""
    return {"bicubic": F.interpolate(y, size=x.shape[-2:], mode="bicubic")}


def others_of_file(operator: Operator, y: torch.Tensor, x: torch.Tensor, sigma_v: float) -> dict[str, torch.Tensor]:
    """The file as Pillow decodes it, with smooth colours."""
    buffer = io.BytesIO()
    Image.fromarray(levels(x)).save(buffer, "JPEG", quality=20)
    decoded = np.array(Image.open(buffer).convert("RGB"))
    return {"decoded": torch.from_numpy(decoded).float().permute(2, 0, 1)[None] / 127.5 - 1}


CASES = {
    "denoise": Case(
        "denoise", "noise of 25 grey levels", 25 * GREY, by_operator("denoise"), others_of_noise, -0.2
    ),
    "scratches": Case("inpaint_mask", "scratches and text over 10%", 0.0, scratched, others_of_holes, 1.5),
    "deblur": Case(
        "deblur_gaussian", "Gaussian blur of 1.6 px, noise 0.01", 0.01, by_operator("deblur_gaussian", blur=1.6),
        others_of_blur, 1.0,
    ),
    "sr2": Case("sr2", "half the size", 0.0, by_operator("sr2", downsample="bicubic"), others_of_size, 1.0),
    "jpeg": Case("jpeg", "JPEG of quality 20", 0.0, compressed, others_of_file, 0.5),
}  # fmt: skip


def crops(work: Path, split: str, count: int, side: int = SIDE) -> dict[str, torch.Tensor]:
    """Return the middle of ``count`` photographs, evenly spread over the list, from the copy with a shorter side of 512
    px or the largest below, [1, 3, side, side] each, in [-1, 1]."""
    copies = Crops(work, split).levels
    names = list(copies)
    found = {}
    for k in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int):
        copy = copies[names[k]][max(level for level in copies[names[k]] if level <= 512)]
        y, x = (copy.shape[0] - side) // 2, (copy.shape[1] - side) // 2
        picture = np.array(copy[y : y + side, x : x + side])
        found[names[k]] = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    return found


def levels(x: torch.Tensor) -> np.ndarray:
    """Return a picture [1, 3, H, W] in grey levels, uint8 [H, W, 3]."""
    found: np.ndarray = ((x[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return found


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the PSNR in dB of y [n, 3, H, W] in whole grey levels, mean over n."""
    rounded = ((y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return float((-10 * ((rounded - x) ** 2).mean((1, 2, 3)).clamp_min(1e-12).div(4).log10()).mean())


def restored(
    folder: Path, case: Case, operator: Operator, y: torch.Tensor, side: int, settings: Settings, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples [N, 3, side, side] and the estimate [1, 3, side, side], the samples' mean if there is none."""
    prior = load_prior(str(folder), size=side)
    run = run_class(settings.method)(prior, operator, y, settings, image=name)
    images, _ = drive(run, diverged=lambda where: f"The run diverged at {where}.")
    estimate = getattr(run, "estimate", None)
    if case.task.startswith("inpaint"):
        assert operator.observed is not None
        images = torch.where(operator.observed, y, images)
        estimate = None if estimate is None else torch.where(operator.observed, y, estimate)
    return images, images.mean(0, keepdim=True) if estimate is None else estimate


def tried(name: str, text: str, folder: Path) -> Settings:
    """Return the packaged settings of a case with other steps and hyper-parameters, as in "6/start=0.3/calls=8". Raise
    ValueError if they cannot be read."""
    steps, *hyper = text.split("/")
    if not steps.isdigit():
        raise ValueError(f'The settings to try are "{text}"; give steps and hyper-parameters, as in 6/start=0.3.')
    load_method("diffpir", tuple(hyper))
    return replace(settings_of(CASES[name].task, prior=str(folder))[0], steps=int(steps), hyper=tuple(hyper))


def compare(
    folder: Path, work: Path, name: str, *, count: int = 6, particles: int = 8, side: int = SIDE, split: str = "held",
    settings: Settings | None = None, only_ours: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return the PSNR in dB of each picture: of the other methods, of our estimate, of the mean of two samples and of
    ``particles``, and of single samples; and the share of restored pixels whose error is within two standard deviations
    of the samples. Writes ``work/evaluated-NAME.png``.

    The figures of the other methods, which do not depend on the weights, are kept in ``work/others.json``."""
    case, kept = CASES[name], work / "others.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    settings = settings or settings_of(case.task, prior=str(folder))[0]
    settings = replace(settings, sigma_v=case.sigma_v, particles=particles)
    rows, shown = {}, {}
    for k, (photo, x) in enumerate(crops(work, split, count, side).items()):
        operator, y = case.damage(x, k, case.sigma_v, work)
        key = f"{name}, {split} {photo}, {side} px, {k}"
        others = {} if only_ours or key in known else case.others(operator, y, x, case.sigma_v)
        if others:
            known[key] = {other: round(psnr(x, value), 2) for other, value in others.items()}
            kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        images, estimate = restored(folder, case, operator, y, x.shape[-1], settings, photo)
        mean, deviation = images.mean(0, keepdim=True), images.std(0, keepdim=True)
        hidden = operator.observed
        away = torch.ones_like(x, dtype=torch.bool) if hidden is None else (~hidden).expand_as(x)
        inside = ((mean - x).abs() <= 2 * deviation + GREY / 2)[away]
        ours = {"estimate": estimate, "mean of 2": images[:2].mean(0, keepdim=True), "mean": mean, "sample": images}
        rows[photo] = {} if only_ours else dict(known[key])
        rows[photo] |= {key: round(psnr(x, value), 2) for key, value in ours.items()}
        rows[photo]["within 2 sd"] = round(float(inside.float().mean()), 3)
        print(photo, *(f"{key} {value}" for key, value in rows[photo].items()), sep="  ", flush=True)
        damaged = operator.picture(y)
        if damaged.shape != x.shape:
            damaged = F.interpolate(damaged, size=x.shape[-2:])
        for key, value in {"damaged": damaged, **others, "estimate": estimate, "sample": images[:1], "true": x}.items():
            shown[f"{key} {photo}"] = levels(value)
    columns = -(-len(shown) // len(rows))
    contact_sheet(shown, columns=columns, width=side + 8, height=side + 24).save(work / f"evaluated-{name}.png")
    keys = next(iter(rows.values()))
    mean_of = {key: round(float(np.mean([row[key] for row in rows.values()])), 3) for key in keys}
    found = {"damage": case.what, "steps": settings.steps, "particles": particles, "side": side, "target": case.target}
    return {**found, "mean": mean_of, "photographs": rows}


def table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table of the means of :func:`compare`, by case."""
    lines = [
        "| damage | others | estimate | mean of 2 | sample | aimed at | within two sd |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = ("estimate", "mean of 2", "mean", "sample", "within 2 sd")
    for case in figures.values():
        mean = case["mean"]
        others = {key: value for key, value in mean.items() if key not in ours}
        aim = max(others.values()) + case["target"]
        beside = ", ".join(f"{key} {value:.2f}" for key, value in others.items())
        mine = " | ".join(f"{mean[key]:.2f}" for key in ("estimate", "mean of 2", "sample"))
        lines.append(f"| {case['damage']} | {beside} | {mine} | {aim:.2f} | {100 * mean['within 2 sd']:.0f}% |")
    return lines


def about(figures: dict[str, dict[str, Any]]) -> str:
    """Return a sentence about the figures."""
    one = next(iter(figures.values()))
    return (
        f"PSNR in dB, means over crops of {one['side']} px of {len(one['photographs'])} held-out photographs. "
        "*estimate*: the one picture that the samples start from (estimate.png); *sample*: single samples; *within two "
        "sd*: the share of the restored values whose error is within two standard deviations of "
        f"{one['particles']} samples around their mean."
    )


def write_table(figures: dict[str, dict[str, Any]], card: Path, about: str) -> None:
    """Write the table between its marks in the model card, with a sentence about it. Raise ValueError if there are no
    marks."""
    text = card.read_text(encoding="utf-8")
    if not all(mark in text for mark in MARKS):
        raise ValueError(f"{card} has no marks {' and '.join(MARKS)}; put them where the figures belong.")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    lines = [before + MARKS[0], "", about, "", *table(figures), "", MARKS[1] + after]
    card.write_text("\n".join(lines), encoding="utf-8")


def save(figures: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Add figures to ``folder/restored.json``; return all that it holds, in the order of CASES."""
    file = folder / "restored.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known |= figures
    known = {name: known[name] for name in CASES if name in known}
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known
