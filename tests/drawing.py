"""Run `rsd text-to-image` and `rsd text-to-3d` on a tiny random prior at 16 px, with small settings."""

from __future__ import annotations

from pathlib import Path

from rsd.cli import main

SCENES = [
    "--features", "pixels", "-n", "2", "--views", "1", "--encoding", "grid", "--bound", "1.8", "--distance", "8", "8",
    "--fov", "22", "23", "--elevation", "-10", "30", "--samples", "6", "--fine", "0", "--gamma", "2", "--guidance", "3",
    "--ambient-until", "0.3", "--size", "16", "--turntable", "3", "--mesh-resolution", "12", "--device", "cpu",
    "--dtype", "float32",
]  # fmt: skip


def run(command: str, prior: Path, out: Path, *arguments: object, steps: int) -> int:
    """Run ``rsd COMMAND`` with ``arguments``, which win over the small settings. Return the exit code."""
    words = [str(word) for word in arguments]
    fixed = ["--prior", str(prior), "--div-features", "pixels", "--steps", str(steps), "--out", str(out)]
    if command == "text-to-3d":
        fixed += SCENES + ([] if "--encoding" in words else ["--grid", "3", "6"])
    else:
        fixed += ["--particles", "2"]
        fixed += [] if "ancestral" in words else ["--features", "pixels"]  # it compares nothing
        fixed += [] if "--method" in words else ["--score", "lora"]
    return main([command, *fixed, *words])


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a run's pictures, films and meshes by name."""
    names = ("particles/*.png", "scenes/**/*.*", "grid.png", "contact.png", "evolution.gif")
    return {str(file.relative_to(folder)): file.read_bytes() for name in names for file in folder.glob(name)}
