"""Take one step of text to 3D with DeepFloyd IF's first stage at its real size, random weights, and measure memory.

    python -m scripts.full_size_if DIR                # IF-I-XL in bfloat16 (8.6 GB) in DIR/prior, one step in DIR/run
    python -m scripts.full_size_if DIR --size L       # IF-I-L (1.9 GB), or M (0.7 GB)
    python -m scripts.full_size_if DIR --no-run       # only write the folder, for `rsd text-to-3d --prior DIR/prior`

The architectures and widths are those of the published models (4.3, 0.9 and 0.4 billion parameters). The T5 encoder,
11 GB in the published model and released before the first step, is one small layer of the same width with the heads'
vocabulary.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from rsd.architectures import IF_WIDTHS, if_scheduler, if_unet
from rsd.runs.flags import Flag, script

STEP = [
    "a red dog", "-n", "2", "--steps", "1", "--views", "1", "--chunk", "1", "--features", "pixels", "--div-features",
    "pixels", "--encoding", "grid", "--grid", "16", "32", "--samples", "32", "--fine", "0", "--turntable", "4",
    "--mesh-resolution", "32", "--dtype", "bfloat16", "--device", "cpu",
]  # fmt: skip
"""One step of two scenes that repel; it measures the cost of a picture, not of the paper's 20 a step."""


def write(folder: Path, width: int, **narrow: int) -> int:
    """Write a random IFPipeline of that width in bfloat16; return the number of parameters of its UNet.

    Files are of a gigabyte, so that writing and reading take little extra memory. ``narrow``: other UNet settings.
    """
    from diffusers import IFPipeline
    from transformers import T5Config, T5EncoderModel

    from scripts.heads.pixel import build_tokenizer

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # float32 would take twice the memory
    try:
        network = if_unet(width, **narrow)
    finally:
        torch.set_default_dtype(before)
    tokenizer = build_tokenizer()
    width = network.config.encoder_hid_dim
    small = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
    encoder = T5EncoderModel(small).to(torch.bfloat16)
    pipeline = IFPipeline(tokenizer, encoder, network, if_scheduler(), None, None, None, requires_safety_checker=False)
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size="1GB")
    return sum(p.numel() for p in network.parameters())


def step(prior: Path, out: Path, flags: list[str] = STEP) -> float:
    """Take one step of text to 3D with that prior in a new process; return its peak memory in GiB. Raises
    CalledProcessError if it fails."""
    command = [sys.executable, "-m", "rsd.cli", "text-to-3d", *flags, "--prior", str(prior), "--out", str(out)]
    subprocess.run(command, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # Linux counts KiB


@dataclass(kw_only=True)
class FullSize:
    """Write IF-I at its real size with random weights, and take a step with it."""

    folder: Annotated[Path, Flag(positional=True)]
    """Folder for the prior and the run."""
    size: Literal["XL", "L", "M"] = "XL"
    """Width of IF-I."""
    run: bool = True
    """Take the step after writing."""


def main() -> None:
    """Write the prior and take the step."""
    o = script(FullSize, "python -m scripts.full_size_if")
    prior = o.folder / "prior"
    count = write(prior, IF_WIDTHS[o.size])
    print(f"IF-I-{o.size}: {count:,} parameters, in {prior}", flush=True)
    if o.run:
        print(f"one step of two scenes at 64 px: peak memory {step(prior, o.folder / 'run'):.1f} GiB")


if __name__ == "__main__":
    main()
