"""Whether a picture of a head shows its face, in the attribute classifier's own features.

The classifier answers for every attribute, also where it cannot see it: of a back it tells some mouth. Its confidence
hardly betrays that, but its pooled features do: a line through them, fitted to rendered heads by ``python -m
scripts.heads.face``, tells fronts from backs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from rsd.heads.classifier import FOLDER, HeadsClassifier

FILE = FOLDER.parent / "face" / "face.json"


@dataclass(frozen=True)
class FaceReader:
    """A face is seen where features @ ``weights`` [d] + ``bias`` is positive; ``classifier``: the hash of the weights
    whose features these are."""

    weights: torch.Tensor
    bias: float
    classifier: str

    @classmethod
    def load(cls, file: Path = FILE, *, classifier: Path = FOLDER) -> FaceReader:
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
