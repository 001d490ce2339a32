"""The text encoder of the flow prior: a third layer after the two of `heads`, whose pooled state contains all that a
caption says.

The pooled state of `heads` was trained to contain the attributes, and not the view: a linear reader finds "back view"
in 22% of the captions that say it. The states before the last layer, which the pipeline reads, stay those of `heads`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from rsd.heads.attributes import ATTRIBUTES, VIEWS, caption, sample_mentioned
from rsd.heads.data import head_at
from scripts.heads.fit import fit, hold
from scripts.heads.flow.network import text_encoder_of
from scripts.heads.latent import ANSWERS, LENGTH, WIDTH, answers_to

SIZES = [*ANSWERS, len(VIEWS) + 1]


class Reader(torch.nn.Module):
    """The text encoder, trainable in its last layer, and a linear reader of its pooled state."""

    def __init__(self, encoder: CLIPTextModelWithProjection):
        super().__init__()
        self.encoder = encoder
        last = f"encoder.layers.{encoder.config.num_hidden_layers - 1}."
        for name, value in encoder.named_parameters():
            value.requires_grad_(last in name)
        self.read = torch.nn.Linear(WIDTH, sum(SIZES))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits of each attribute and of the view for tokens [B, L]."""
        return self.read(self.encoder(tokens).text_embeds).split(SIZES, dim=1)


def said(head: Any, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Return a caption and what it says: 0 for what it leaves out, else 1 + the code, int64 [attributes + 1]."""
    mentioned, view = sample_mentioned(head, rng)
    seen = 0 if view is None else 1 + list(VIEWS).index(view)
    return caption(head.values, mentioned, view), np.append(answers_to(head, mentioned), seen)


def batch(tokenizer: CLIPTokenizer, split: str, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, Any]:
    """Return the tokens of ``size`` captions and what they say, int64 [size, attributes + 1]."""
    pairs = [said(head_at(split, int(k)), rng) for k in rng.integers(100_000, size=size)]
    tokens = tokenizer(
        [text for text, _ in pairs], padding=True, max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return tokens, torch.from_numpy(np.array([answers for _, answers in pairs]))


def train(
    heads: Path, out: Path, steps: int, *, size: int = 64, held: int = 300, lr: float = 1e-3
) -> CLIPTextModelWithProjection:
    """Train the last layer, or load it from the finished checkpoint ``out/flow-words.pt``. ``heads``: folder of the
    latent pipeline, ``held``: captions that its accuracy is measured on."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
    encoder = text_encoder_of(CLIPTextModel.from_pretrained(heads / "text_encoder", dtype=torch.float32))
    seen, answers = batch(tokenizer, "validation", np.random.default_rng(0), held)

    def loss(model: Any, rng: np.random.Generator, device: torch.device) -> dict[str, torch.Tensor]:
        tokens, wanted = batch(tokenizer, "train", rng, size)
        logits = model(tokens.to(device))
        errors = [F.cross_entropy(x.float(), y.to(device)) for x, y in zip(logits, wanted.T, strict=True)]
        return {"reading": torch.stack(errors).sum()}

    @torch.no_grad()
    def check(model: Any) -> dict[str, float]:
        logits = model(seen.to(model.read.weight.device))
        right = (torch.stack([x.argmax(1).cpu() for x in logits], 1) == answers).float()
        return {"attributes": float(right[:, : len(ATTRIBUTES)].mean()), "view": float(right[:, -1].mean())}

    schedule = functools.partial(hold, cooldown=max(steps // 4, 1), warmup=20)
    reader = fit(
        "flow-words", Reader(encoder), loss, out=out, steps=steps, lr=lr, ema=0.98, every=min(steps, 100),
        schedule=schedule, layout=torch.contiguous_format, check=check,
    )  # fmt: skip
    return reader.encoder.eval().requires_grad_(False)
