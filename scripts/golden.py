"""Record short runs of every method and head, and compare later code with them, bit by bit.

    python -m scripts.golden record FILE     # before a change that must not change results
    python -m scripts.golden compare FILE    # after it, on the same machine; exit code 1 if anything differs

Each case is one command line, which names what a later default may change. The record has a hash of every picture and
scene, the log of all steps, and the figures of metrics.json except time and memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from rsd.cli import main as rsd

LATENT = "--particles 3 --steps 5 --gamma 6 --seed 1"
PIXEL = "--prior heads-pixels --particles 3 --steps 5 --seed 1"
RESTORE = {
    "rlsd": f"--task inpaint_half_face --method rlsd {LATENT}",
    "rlsd-adam": f"--task sr4 --method rlsd --x-step adam {LATENT}",
    "rlsd-window": f"--task sr4 --method rlsd --window 0.3 0.9 --repel-every 2 --chunk 1 {LATENT}",
    "rlsd-cheap": f"--task inpaint_box --method rlsd --box 10 40 8 30 --force-decoder tiny --feature-size 32 {LATENT}",
    "rlsd-lean": f"--task deblur_motion --method rlsd --memory lean {LATENT}",
    "rlsd-phases": f"--task phase_retrieval --method rlsd {LATENT}",
    "nonrepuls": "--task inpaint_random --method nonrepuls --particles 3 --steps 5",
    "hybrid": f"--task inpaint_half_face --method hybrid --interacting 2 {LATENT}",
    "nonaug": f"--task phase_retrieval --method nonaug {LATENT}",
    "latent-red-diff": "--task hdr --method latent-red-diff --particles 3 --steps 5",
    "prompt": f'--task sr8 --method rlsd --prompt "a man with a beard" --guidance 2 --negative-prompt glasses {LATENT}',
    "svgd": f"--task inpaint_half_face --method svgd {LATENT}",
    "particle-guidance": f"--task inpaint_half_face --method particle-guidance {LATENT}",
    **{
        name: f"--task inpaint_half_face --method {name} --particles 3 --steps 5 --seed 1"
        for name in ("latent-dps", "psld", "resample", "latent-daps", "latino")
    },
    **{
        name: f"--task inpaint_half_face --method {name} {PIXEL}"
        for name in ("dps", "pigdm", "fps-smc", "daps", "red-diff")
    },
    "score-prior": "--task sr2 --method score-prior --prior heads-pixels --particles 2 --steps 2 --hyper layers=2",
}  # fmt: skip
PROMPT = '"a man with short black hair and a beard, front view"'
DRAW = {
    **{name: f"{PROMPT} --method {name} --particles 3 --steps 4" for name in ("nfsd", "ancestral")},
    "vsd": f"{PROMPT} --method vsd --sample-below 0 --particles 3 --steps 4",
    "vsd-sampled": f"{PROMPT} --method vsd --sample-below 0.7 --particles 3 --steps 4",
    "sds": f"{PROMPT} --method sds --noise fresh --optimiser adam --no-clean --t-range 50 950 --window 0.4 1 "
    "--gamma 10 --particles 3 --steps 4 --timesteps annealed",
    "sds-ddim": f"{PROMPT} --method sds --gamma 10 --particles 3 --steps 4",
    "svgd": f"{PROMPT} --method svgd --particles 3 --steps 4",
    "particle-guidance": f"{PROMPT} --method particle-guidance --particles 3 --steps 4",
    "vsd-each": f"{PROMPT} --method vsd --sample-below 0 --score lora-each --particles 2 --steps 3",
    "vsd-unet": f"{PROMPT} --method vsd --sample-below 0 --score unet --particles 2 --steps 2",
}
SMALL = "--particles 2 --steps 2 --views 2 --size 32 --turntable 4 --mesh-resolution 16"
SCENE = {
    "sds": f'"a man with a beard" --prior heads-pixels --method sds {SMALL}',
    "vsd": f'"a man with a beard" --prior heads-pixels --method vsd --gamma 4 --encoding frequency {SMALL}',
    "packed": f'"a man with a beard" --prior heads-pixels --renderer packed --interaction views --gamma 4 {SMALL}',
    "latent": f'"a man with a beard" --prior heads {SMALL}',
}
UNSTEADY = ("seconds", "peak_bytes", "outputs")


def cases() -> dict[str, list[str]]:
    """Return the command line of each case, without --out."""
    import shlex

    lines = {f"restore/{name}": f"restore HEAD --clean {flags}" for name, flags in RESTORE.items()}
    lines |= {f"text-to-image/{name}": f"text-to-image {flags}" for name, flags in DRAW.items()}
    lines |= {f"text-to-3d/{name}": f"text-to-3d {flags}" for name, flags in SCENE.items()}
    return {name: shlex.split(line) for name, line in lines.items()}


def record(only: str = "") -> dict[str, Any]:
    """Run every case whose name starts with ``only``; return the record of each."""
    torch.set_num_threads(1)
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        assert rsd(["heads", "--out", str(place / "heads"), "--number", "1", "--first", "9"]) == 0
        head = str(place / "heads" / "head-0009.png")
        for name, line in cases().items():
            if name.startswith(only):
                out = place / name.replace("/", "-")
                code = rsd([head if word == "HEAD" else word for word in line] + ["--out", str(out)])
                kept[name] = {"exit": code, **(contents(out) if code == 0 else {})}
    return kept


def contents(out: Path) -> dict[str, Any]:
    """Return the parts of a run's folder that must not change."""
    pictures = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(out.rglob("*"))
        if path.suffix in (".png", ".gif", ".safetensors", ".glb") and "text" not in path.stem
    }
    log = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    figures = json.loads((out / "metrics.json").read_text())
    return {"pictures": pictures, "log": log, "figures": {k: v for k, v in figures.items() if k not in UNSTEADY}}


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Return the differences between two records, one line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*before, *now})
            for line in differences(before.get(key), now.get(key), f"{place}/{key}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line for k, pair in enumerate(zip(before, now, strict=True)) for line in differences(*pair, f"{place}/{k}")
        ]
    return [] if before == now else [f"{place}: {before!r} is now {now!r}"]


def main() -> int:
    """Record or compare; return the exit code."""
    action, file, *only = sys.argv[1:]
    now = record(*only)
    if action == "record":
        Path(file).write_text(json.dumps(now, indent=1) + "\n")
        return 0
    before = {name: what for name, what in json.loads(Path(file).read_text()).items() if name in now}
    found = differences(before, json.loads(json.dumps(now)))
    print("\n".join(found) or f"all {len(now)} cases are the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
