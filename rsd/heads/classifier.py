"""The attribute classifier: it scores pictures of heads, and steers nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rsd.heads.attributes import ATTRIBUTES

FOLDER = Path(__file__).parent / "weights" / "classifier"
SIZES = [len(options) for options in ATTRIBUTES.values()]
LABELS = [f"{attribute}={value}" for attribute, options in ATTRIBUTES.items() for value in options]


class HeadsClassifier:
    """A small ResNet with one softmax for each attribute; images [B, 3, 64, 64] in [-1, 1]."""

    def __init__(self, network: Any):
        self.network = network.float().eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> HeadsClassifier:
        """The built-in weights. Raises FileNotFoundError if they are missing, ValueError if their labels are others."""
        if not (folder / "config.json").exists():
            raise FileNotFoundError(
                f"The heads classifier is not in {folder}; train it with `python -m scripts.heads all`."
            )
        from transformers import ResNetForImageClassification

        from rsd.hub import quietly

        with quietly():
            network = ResNetForImageClassification.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        labels = [network.config.id2label[k] for k in sorted(network.config.id2label)]
        if labels != LABELS:
            raise ValueError(
                f"The heads classifier in {folder} tells other attributes than this version draws; train it with "
                "`python -m scripts.heads all`."
            )
        return cls(network)

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """For each attribute the probability of each value, [B, K]."""
        logits = self.network(self._input(images)).logits
        return {a: part.softmax(1) for a, part in zip(ATTRIBUTES, logits.split(SIZES, dim=1), strict=True)}

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The pooled features before the last layer, [B, d]: a map to measure Div on that no repulsion used."""
        return self.network.resnet(self._input(images)).pooler_output.flatten(1)

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        """Twice the size: the network's stem halves twice."""
        x = images.to(next(self.network.parameters()).device, torch.float32).clamp(-1, 1)
        return F.interpolate(x, size=(128, 128), mode="bilinear")
