"""Train the built-in prior "photos": ``python -m scripts.photos data --work DIR``, then train, export, evaluate.
``evaluate --task all`` restores crops of held-out photographs and compares with classical methods.

``train`` resumes with the same command if interrupted, and uses CUDA if Accelerate finds it. ``export`` may run while
the training goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image

from rsd.hub import BUILT_IN
from rsd.priors.index import PHOTOS
from rsd.priors.photo import save_photo
from rsd.runs.flags import Flag, script
from scripts.photos import data, evaluate, restoring
from scripts.photos import train as training


@dataclass
class Photos:
    """Train the prior of photographs, stage by stage."""

    stage: Annotated[Literal["data", "contact-sheets", "card", "train", "export", "evaluate"], Flag(positional=True)]
    """Stage to run. "data" downloads and shrinks the photographs, "contact-sheets" shows all pictures of the packages,
    from which the photographs were chosen, "card" writes their licences to the model card, "export" writes the weights
    of an unfinished run to ``out``, "evaluate" compares them with BM3D, or with ``task`` restorations by them with
    those of other methods."""
    work: Path = Path("runs/photos")
    """Packages, shards and checkpoints (about 1 GB)."""
    out: Path | None = None
    """Folder of the finished model; default: photos inside ``work``."""
    card: Path = Path("docs/photos.md")
    """The model card."""
    threads: int = 1
    """Number of torch threads."""
    init: Path | None = BUILT_IN / PHOTOS
    """Folder of the prior whose weights a new training starts with; None: from nothing."""
    steps: int = 400_000
    """Training steps; a resumed run may use another number."""
    cooldown: int = 2000
    """Final steps over which the learning rate, constant before, falls to 0."""
    lr: float = 6e-4
    every: int = 100
    """Steps between checkpoints."""
    task: Literal["", "all", "denoise", "scratches", "deblur", "sr2", "jpeg"] = ""
    """What "evaluate" restores, instead of comparing the denoising of whole pictures; the table goes to the model
    card."""
    split: Literal["held", "train"] = "held"
    """The photographs for ``task``: held-out ones, for the table in the model card, or training ones, on which settings
    are chosen; of those the table is only printed."""
    tries: tuple[str, ...] = ()
    """Settings of DiffPIR to compare on training photographs instead of the packaged ones: each its steps and
    hyper-parameters, as in 6/start=0.3/calls=8."""
    count: int = 6
    """Number of photographs for ``task``, whose middle is restored."""
    side: int = restoring.SIDE
    """Side of the crops for ``task`` in pixels."""
    particles: int = 8
    """Samples of each for ``task``."""
    bm3d: bool = True
    """Whether "evaluate" runs BM3D (a minute for each photograph)."""
    long: int = 768
    """Longer side of the pictures of "evaluate" in pixels."""
    short: int = 512
    """Their shorter side."""


def run_data(o: Photos) -> None:
    """Download the packages and write the missing shards."""
    data.download(o.work)
    data.make_shards(o.work)


def run_contact_sheets(o: Photos) -> None:
    """Write contact-K.png with all pictures of the packages to ``work``, 42 each."""
    data.download(o.work)
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    files = [file for file in sorted((o.work / "unpacked").rglob("*")) if file.suffix.lower() in kinds]
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    for k in range(0, len(files), 42):
        shown = {}
        for file in files[k : k + 42]:
            with Image.open(file) as opened:
                opened.draft("RGB", (460, 340))
                small = opened.convert("RGB")
            small.thumbnail((226, 152))
            shown[str(file.relative_to(o.work / "unpacked"))[-34:]] = np.asarray(small)
        data.contact_sheet(shown).save(o.work / f"contact-{k // 42}.png")


def run_card(o: Photos) -> None:
    """Write the table of photographs to the model card."""
    data.write_table(o.work, o.card)


def run_train(o: Photos) -> None:
    """Train, and write the finished model."""
    net = training.train(
        o.work, o.steps, net=training.begun(training.PhotoNet(), o.init), lr=o.lr, cooldown=o.cooldown, every=o.every
    )
    _ship(net, _out(o))


def run_export(o: Photos) -> None:
    """Write the averaged weights of the last checkpoint, during or after training."""
    net, step = training.export(o.work)
    _ship(net, _out(o))
    print(f"{_out(o)}: the weights of step {step}")


def run_evaluate(o: Photos) -> None:
    """Compare denoising with BM3D on held-out photographs, figures.json beside the weights; or restorations,
    restored.json and the table in the card."""
    if o.task and o.split == "train":
        for name in restoring.CASES if o.task == "all" else (o.task,):
            for one in o.tries or ("",):
                found = restoring.compare(
                    _out(o), o.work, name, count=o.count, particles=o.particles, side=o.side, split="train",
                    settings=restoring.tried(name, one, _out(o)) if one else None,
                )  # fmt: skip
                print(one or "packaged settings", *restoring.table({name: found}), sep="\n", flush=True)
        return
    if o.tries:
        raise ValueError("Settings are chosen on training photographs: give --task and --split train with --tries.")
    if o.task:
        for name in restoring.CASES if o.task == "all" else (o.task,):
            found = restoring.compare(_out(o), o.work, name, count=o.count, particles=o.particles, side=o.side)
            figures = restoring.save({name: found}, _out(o))
            print(*restoring.table({name: found}), sep="\n", flush=True)
        restoring.write_table(figures, o.card, restoring.about(figures))
        return
    figures = evaluate.compare(_out(o), o.work, with_bm3d=o.bm3d, long=o.long, short=o.short)
    print(json.dumps(figures["mean"]))
    (_out(o) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def _out(o: Photos) -> Path:
    return o.out or o.work / "photos"


def _ship(net: training.PhotoNet, folder: Path) -> None:
    """Save in half precision."""
    save_photo(net.to(torch.float16), training.build_scheduler(), folder)


RUN = {
    "data": run_data, "contact-sheets": run_contact_sheets, "card": run_card, "train": run_train,
    "export": run_export, "evaluate": run_evaluate,
}  # fmt: skip


def main() -> None:
    """Run the stage."""
    o = script(Photos, "python -m scripts.photos")
    torch.set_num_threads(o.threads)
    RUN[o.stage](o)


if __name__ == "__main__":
    main()
