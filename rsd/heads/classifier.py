"""The attribute classifier: it scores pictures of heads, and steers nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rsd.heads.attributes import ATTRIBUTES

FOLDER = Path(__file__).parent / "weights" / "classifier"
SIZES = [len(options) for options in ATTRIBUTES.values()]
FACE = FOLDER.parent / "face" / "face.json"
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


@dataclass(frozen=True)
class FaceReader:
    """A face is seen where features @ ``weights`` [d] + ``bias`` is positive; ``classifier``: the hash of the weights
    whose features these are."""

    weights: torch.Tensor
    bias: float
    classifier: str

    @classmethod
    def load(cls, file: Path = FACE, *, classifier: Path = FOLDER) -> FaceReader:
        """The built-in one. Raises ValueError if it is missing or was fitted to another classifier."""
        remedy = "fit it with `python -m scripts.heads.face`"
        if not file.is_file():
            raise ValueError(f"There is no {file}, which tells fronts from backs; {remedy}.")
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["classifier"] != fingerprint(classifier):
            raise ValueError(f"What tells fronts from backs, {file}, was fitted to another classifier; {remedy}.")
        return cls(torch.tensor(found["weights"]), float(found["bias"]), found["classifier"])

    def sees(self, classifier: HeadsClassifier, images: torch.Tensor) -> torch.Tensor:
        """Whether each image [B, 3, H, W] in [-1, 1] shows a face, bool [B] on the CPU. One that is not finite does
        not."""
        return classifier.features(images).cpu() @ self.weights + self.bias > 0


def fingerprint(classifier: Path = FOLDER) -> str:
    """The first 16 digits of the SHA-256 of a classifier's weights."""
    return hashlib.sha256((classifier / "model.safetensors").read_bytes()).hexdigest()[:16]
