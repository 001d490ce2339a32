"""Download, choose and shrink the photographs, and read the licences of their packages."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

from scripts.photos.sources import PACKAGES, PHOTOGRAPHS, SKIMAGE, SKIMAGE_LICENCES, Photograph

LEVELS = (1024, 724, 512, 362, 256)
"""Shorter sides of the copies of a photograph in pixels."""
SHARES = (0.15, 0.25, 0.3, 0.2, 0.1)
"""How often a crop is from each level."""
SHRINK = 0.75
"""A copy is at most this times a JPEG's size: shrinking removes the noise of its sensor and the edges of its blocks."""
TABLE = ("<!-- photographs -->", "<!-- end of photographs -->")
"""Marks of the table of photographs in the model card."""


def download(work: Path) -> None:
    """Download the Debian packages to ``work/debs`` and unpack them, unless that is done. Raise OSError with the remedy
    if that fails."""
    debs = work / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (work / "unpacked" / package).exists():
            continue
        if not list(debs.glob(f"{package}_*.deb")):
            _run(["apt-get", "download", package], debs, f"put the .deb of Debian's package {package} into {debs}")
        file = sorted(debs.glob(f"{package}_*.deb"))[-1]
        half = work / "unpacked" / f"{package}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        _run(["dpkg-deb", "-x", str(file.resolve()), str(half.resolve())], work, f"download {file} again")
        os.replace(half, work / "unpacked" / package)


def _run(command: list[str], folder: Path, remedy: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed; {remedy}.") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OSError(f"{' '.join(command[:2])} failed ({why}); {remedy}.")


def file_of(photo: Photograph, work: Path) -> Path:
    """Return a photograph's file. Raise OSError if it is missing."""
    if photo.package == SKIMAGE:
        file = Path(skimage.data.__file__).parent / photo.file
        found = [file] if file.is_file() else []
    else:
        root = work / "unpacked" / photo.package
        found = [file for file in root.rglob(Path(photo.file).name) if file.as_posix().endswith(photo.file)]
    if len(found) != 1:
        raise OSError(
            f'The photograph "{photo.name}" is missing in {photo.package}; delete {work / "unpacked"} and run the '
            "stage data again."
        )
    return found[0]


def levels_of(file: Path) -> list[np.ndarray]:
    """Return antialiased copies of a photograph at ``LEVELS``, uint8 [H, W, 3], those that it is large enough for."""
    with Image.open(file) as opened:
        sides, jpeg = opened.size, opened.format == "JPEG"
        picture = opened.convert("RGB")
    most = min(sides) * (SHRINK if jpeg else 1)
    made = []
    for level in LEVELS:
        if level <= most:
            scale = level / min(sides)
            size = round(sides[0] * scale), round(sides[1] * scale)
            made.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    return made


def make_shards(work: Path) -> None:
    """Write the missing shards ``work/shards/SPLIT-NAME-LEVEL.npy``, one for each photograph and level, and the list of
    photographs beside them."""
    folder = work / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    for photo in PHOTOGRAPHS:
        split = "held" if photo.held else "train"
        if (folder / f"{split}-{photo.name}.done").exists():
            continue
        for copy in levels_of(file_of(photo, work)):
            np.save(folder / f"{split}-{photo.name}-{min(copy.shape[:2])}.npy", copy)
        (folder / f"{split}-{photo.name}.done").touch()


class Crops:
    """Random crops of the shards of a split, which stay on the disk."""

    def __init__(self, work: Path, split: str):
        self.levels: dict[str, dict[int, np.ndarray]] = {}
        for photo in PHOTOGRAPHS:
            if (split == "held") == photo.held:
                files = (work / "shards").glob(f"{split}-{photo.name}-*.npy")
                found = {int(file.stem.rsplit("-", 1)[1]): np.load(file, mmap_mode="r") for file in files}
                if not found:
                    raise OSError(f'There are no shards of "{photo.name}" in {work / "shards"}; run the stage data.')
                self.levels[photo.name] = found
        self.names = list(self.levels)
        weights = np.array([0.5 if n in SKIMAGE_LICENCES and split == "train" else 1.0 for n in self.names])  # grey
        self.weights = weights / weights.sum()

    def __call__(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """Return a crop, uint8 [side, side, 3]: of a photograph, a level and a place drawn at random."""
        copies = self.levels[self.names[rng.choice(len(self.names), p=self.weights)]]
        shares = np.array([share if level in copies else 0 for level, share in zip(LEVELS, SHARES, strict=True)])
        copy = copies[LEVELS[rng.choice(len(LEVELS), p=shares / shares.sum())]]
        y, x = (int(rng.integers(size - side + 1)) for size in copy.shape[:2])
        return np.array(copy[y : y + side, x : x + side])


def augmented(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a crop turned, mirrored and with another exposure, white balance and contrast, float32 [s, s, 3] in
    [-1, 1]; some have their colours exchanged, a few become grey."""
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    x = crop.astype(np.float32) / 255
    if rng.random() < 0.7:
        gain = np.exp(rng.uniform(-0.5, 0.1) + rng.normal(0, 0.05, 3)).astype(np.float32)
        x = np.minimum(x * gain, 1) ** np.float32(np.exp(rng.uniform(-0.3, 0.3)))
    if rng.random() < 0.3:
        x = x[..., rng.permutation(3)]
    if rng.random() < 0.05:
        x = np.repeat(x @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32), 3, 2)
    return np.ascontiguousarray(2 * x - 1)


def held_pictures(work: Path, long: int = 768, short: int = 512) -> dict[str, np.ndarray]:
    """Return the middle of each held-out photograph, from its copy with a shorter side of 512 px or the largest below,
    uint8 [H, W, 3]: at most ``long`` x ``short`` px, with sides that are multiples of 8."""
    pictures = {}
    for name, copies in Crops(work, "held").levels.items():
        copy = copies[max(level for level in copies if level <= 512)]
        wide = copy.shape[1] > copy.shape[0]
        h = min(copy.shape[0], short if wide else long) // 8 * 8
        w = min(copy.shape[1], long if wide else short) // 8 * 8
        y, x = (copy.shape[0] - h) // 2, (copy.shape[1] - w) // 2
        pictures[name] = np.array(copy[y : y + h, x : x + w])
    return pictures


def contact_sheet(
    pictures: dict[str, np.ndarray], columns: int = 7, width: int = 230, height: int = 170
) -> Image.Image:
    """Return thumbnails with their names."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    draw = ImageDraw.Draw(sheet)
    for k, (name, picture) in enumerate(pictures.items()):
        small = Image.fromarray(picture)
        small.thumbnail((width - 4, height - 18))
        at = k % columns * width, k // columns * height
        sheet.paste(small, at)
        draw.text((at[0], at[1] + height - 16), name[:34], fill="yellow")
    return sheet


def licence_of(photo: Photograph, work: Path) -> tuple[str, str]:
    """Return the authors and the licence of a photograph, from its package's copyright file; for Plasma's, the author
    is from the wallpaper's metadata."""
    if photo.package == SKIMAGE:
        return SKIMAGE_LICENCES[photo.name]
    root = work / "unpacked" / photo.package
    text = (root / "usr/share/doc" / photo.package / "copyright").read_text(encoding="utf-8")
    authors, licence = "", ""
    for paragraph in text.split("\n\n"):
        fields = _fields(paragraph)
        patterns = fields.get("Files", "").split()
        if any(p == "*" or _matches(photo.file, p) for p in patterns):  # the last one holds
            authors, licence = fields.get("Copyright", ""), fields.get("License", "").splitlines()[0]
    metadata = list(root.rglob(f"{photo.name}/metadata.json"))
    if metadata:
        about: dict[str, Any] = json.loads(metadata[0].read_text(encoding="utf-8"))["KPlugin"]
        authors = ", ".join(author["Name"] for author in about.get("Authors", []))
        licence = f"{licence} (package), {about['License']} (wallpaper)" if about.get("License") else licence
    years = r"\b(19|20)\d\d(-(19|20)\d\d)?[.,]?|<[^>]*>|´"
    people = [re.sub(years, "", line).replace('"', "").strip(" ,.") for line in authors.splitlines()]
    return ", ".join(person for person in people if person), licence


def _matches(file: str, pattern: str) -> bool:
    """Return whether a pattern names a file. Folders of sources and packages differ, so only names are compared."""
    name = Path(pattern).name
    return name != "*" and fnmatch.fnmatch(Path(file).name, name)


def _fields(paragraph: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if match := re.match(r"(\w[\w-]*):\s*(.*)", line):
            name = match[1]
            fields[name] = match[2]
        elif name and line[:1].isspace():
            fields[name] += "\n" + line.strip()
    return fields


def write_table(work: Path, card: Path) -> None:
    """Write the table of photographs between its marks in the model card. Raise ValueError if there are no marks."""
    lines = ["| photograph | author | licence | package | |", "|---|---|---|---|---|"]
    for photo in PHOTOGRAPHS:
        author, licence = licence_of(photo, work)
        name = photo.name.replace("_", " ")
        lines.append(f"| {name} | {author} | {licence} | {photo.package} | {'held out' if photo.held else ''} |")
    text = card.read_text(encoding="utf-8")
    if not all(mark in text for mark in TABLE):
        raise ValueError(f"{card} has no marks {' and '.join(TABLE)}; put them where the table belongs.")
    before, after = text.split(TABLE[0])[0], text.split(TABLE[1])[1]
    card.write_text("\n".join([before + TABLE[0], "", *lines, "", TABLE[1] + after]), encoding="utf-8")
