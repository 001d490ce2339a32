"""Write models of the real sizes with random weights, Stable Diffusion 2.1-base and a DINO ViT-S/16, to test memory and
speed without the hub.

    python -m scripts.full_size DIR      # DIR/sd21 (2.6 GB, half precision) and DIR/dino

The tokenizer is the built-in prior's, with its small vocabulary and sequence length.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from rsd.architectures import dino, stable_diffusion


def main(folder: Path) -> None:
    """Write both models to ``folder``."""
    from transformers import CLIPTokenizer

    from rsd.hub import built_in_folder

    torch.manual_seed(0)
    words = built_in_folder("latent", marker="model_index.json") / "tokenizer"
    pipeline = stable_diffusion(CLIPTokenizer.from_pretrained(str(words)))
    pipeline.to(dtype=torch.float16).save_pretrained(folder / "sd21", safe_serialization=True)
    dino().save_pretrained(folder / "dino", safe_serialization=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
