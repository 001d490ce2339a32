"""The classifier of attributes, which only scores pictures of heads, and the detector of faces in its features.

The classifier predicts every attribute even if it is not visible: for a back it still predicts some mouth. Its
confidence hardly reveals this, but its pooled features do: a linear classifier, fitted to rendered heads by ``python -m
scripts.heads.face``, separates fronts from backs.
"""

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
    """A small ResNet with one softmax per attribute, for images [B, 3, 64, 64] in [-1, 1]."""

    def __init__(self, network: Any):
        self.network = network.float().eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> HeadsClassifier:
        """Load the built-in weights. Raise FileNotFoundError if they are missing, ValueError if their labels differ."""
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
                f"The heads classifier in {folder} has other attributes than this version; train it with "
                "`python -m scripts.heads all`."
            )
        return cls(network)

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the probabilities of the values of each attribute, [B, K]."""
        logits = self.network(self._input(images)).logits
        return {a: part.softmax(1) for a, part in zip(ATTRIBUTES, logits.split(SIZES, dim=1), strict=True)}

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the pooled features before the last layer, [B, d], for Div; the repulsion does not use them."""
        return self.network.resnet(self._input(images)).pooler_output.flatten(1)

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize to twice the size, since the network's stem downsamples twice."""
        x = images.to(next(self.network.parameters()).device, torch.float32).clamp(-1, 1)
        return F.interpolate(x, size=(128, 128), mode="bilinear")


@dataclass(frozen=True)
class FaceReader:
    """A face is visible if features @ ``weights`` [d] + ``bias`` is positive. ``classifier``: the hash of the weights
    that compute the features."""

    weights: torch.Tensor
    bias: float
    classifier: str

    @classmethod
    def load(cls, file: Path = FACE, *, classifier: Path = FOLDER) -> FaceReader:
        """Load the built-in one. Raise ValueError if it is missing or was fitted to another classifier."""
        remedy = "fit it with `python -m scripts.heads.face`"
        if not file.is_file():
            raise ValueError(f"The detector of faces {file} is missing; {remedy}.")
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["classifier"] != fingerprint(classifier):
            raise ValueError(f"The detector of faces {file} was fitted to another classifier; {remedy}.")
        return cls(torch.tensor(found["weights"]), float(found["bias"]), found["classifier"])

    def sees(self, classifier: HeadsClassifier, images: torch.Tensor) -> torch.Tensor:
        """Return whether each image [B, 3, H, W] in [-1, 1] shows a face, bool [B] on the CPU; False if it is not
        finite."""
        return classifier.features(images).cpu() @ self.weights + self.bias > 0


def fingerprint(classifier: Path = FOLDER) -> str:
    """Return the first 16 digits of the SHA-256 of a classifier's weights."""
    return hashlib.sha256((classifier / "model.safetensors").read_bytes()).hexdigest()[:16]
