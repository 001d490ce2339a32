"""``rsd calibrate``: read the options, write the heads, and calibrate."""

from __future__ import annotations

import sys

from rsd.heads.command import main as write_heads
from rsd.runs.settings import layered, make_folder

from .options import Calibrate


def main(argv: list[str]) -> int:
    """Calibrate. Return the exit code."""
    options, _ = layered(Calibrate, argv, prog="rsd calibrate", positional="")
    make_folder(options.out)
    folder = options.out / "heads"
    expected = {f"head-{k:04d}.png" for k in range(options.first, options.first + options.heads)}
    found = {path.name for path in folder.glob("*.png")} if folder.is_dir() else set()
    if found - expected:
        raise ValueError(
            f"{folder} has other heads, for example {min(found - expected)}, from a run with other --heads or --first; "
            "choose another --out."
        )
    if found != expected:
        write_heads(["--out", str(folder), "--number", str(options.heads), "--first", str(options.first)])
    from .run import run

    sys.stdout.flush()
    return run(options)
