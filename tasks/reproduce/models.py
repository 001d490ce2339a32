"""The models of an experiment on the meta device: every network built from its real configuration, without weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rsd import architectures, memory
from rsd.features import ViT, load_features
from rsd.hub import built_in_folder, quietly
from rsd.memory import Need
from rsd.memory import meta as dryrun
from rsd.memory.meta import to_meta
from rsd.priors import load_prior, over_heads
from rsd.priors.base import Condition, Prior
from rsd.priors.latent import LatentPrior
from rsd.priors.pixel import PixelPrior
from rsd.priors.t5 import LENGTH, T5Embedder
from rsd.randomness import Stream
from rsd.reference import UNetScore
from rsd.spread import Spread

from .options import IF, SD

PROMPT = "a head"
DINO = "facebook/dino-vits16"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
ALIKE = {"lpips": "pixels", "heads-layers": "heads"}
"""Feature maps that are cheap next to a decoder, or are layers of another, and their substitutes."""


@cache
def prior_of(name: str, dtype: str) -> Prior:
    """Return the prior of that name; a built-in one is loaded and stripped of its weights."""
    with quietly():  # diffusers warns about every change of dtype
        return _prior_of(name, dtype)


def _prior_of(name: str, dtype: str) -> Prior:
    if over_heads(name):
        return to_meta(read(load_prior(name)))
    precision = DTYPES[dtype]
    if name == SD:
        from transformers import CLIPTokenizer

        words = built_in_folder("latent", marker="model_index.json") / "tokenizer"
        pipeline = architectures.stable_diffusion(CLIPTokenizer.from_pretrained(str(words)), device="meta")
        for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
            part.to(precision)
        return LatentPrior(pipeline, name=name, device="meta")
    if name == IF:
        unet, encoder = (on_meta(make).to(precision) for make in (architectures.if_unet, architectures.t5))
        text = T5Embedder(lambda: (tokens, Unmasked(encoder)), device="meta")
        return PixelPrior(unet, architectures.if_scheduler(), text, name=name, device="meta")
    unet = on_meta(lambda: pixel_unet(name)).to(precision)
    return PixelPrior(unet, architectures.guided_diffusion_scheduler(), name=name, device="meta")


def pixel_unet(name: str) -> Any:
    """Return the UNet of the user's pixel pipeline in the folder ``name``; for a hub id, the paper's UNet for FFHQ."""
    folder = Path(name) / "unet"
    if not folder.is_dir():
        return architectures.guided_diffusion("ffhq")
    from diffusers import UNet2DModel

    return UNet2DModel.from_config(UNet2DModel.load_config(str(folder)))


def read(prior: Any) -> Any:
    """Embed the prompt while the prior still has weights."""
    prior.condition(PROMPT, "", 7.5)
    prior.release_text_encoder()
    return prior


class Unmasked(nn.Module):
    """A text encoder without its attention mask, whose values it would read; meta tensors have none."""

    device = torch.device("meta")

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.encoder(ids)


def tokens(text: str, **options: Any) -> SimpleNamespace:
    """A tokenizer substitute: T5's vocabulary needs the hub, and only the number of tokens matters here."""
    if "return_tensors" not in options:
        return SimpleNamespace(input_ids=[1])
    ids = torch.ones(1, LENGTH, dtype=torch.long)
    return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


@cache
def features_of(name: str) -> nn.Module:
    """Return the feature map of that name, or a substitute of about the same cost."""
    if name == DINO:
        return ViT(on_meta(architectures.dino), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).to("meta")
    return to_meta(load_features(ALIKE.get(name, name)))


def on_meta(make: Any) -> Any:
    """Return ``make()`` without weights."""
    with torch.device("meta"):
        return make()


@cache
def condition_of(name: str, dtype: str, guided: bool) -> Condition:
    """Return a prior's condition, with or without guidance."""
    return prior_of(name, dtype).condition(PROMPT if guided else "", "", 7.5 if guided else 1.0)


@cache
def flops(name: str, dtype: str) -> dict[str, float]:
    """Return the FLOPs of one image in each network of a prior, forward and backward: unet and, with an autoencoder,
    decoder and encoder. Backward: the gradient in the input only."""
    prior = prior_of(name, dtype)
    condition = condition_of(name, dtype, guided=False)

    def there(z: torch.Tensor) -> torch.Tensor:
        return prior.epsilon(z, prior.schedule.T // 2, condition)

    z = latent(prior)
    found: dict[str, float] = dict(zip(("unet_forward", "unet_backward"), dryrun.flops(there, z), strict=True))
    if prior.latent:
        found |= dict(zip(("decoder_forward", "decoder_backward"), dryrun.flops(prior.decode, z), strict=True))
        there_and_back = dryrun.flops(prior.encode, picture(prior))
        found |= dict(zip(("encoder_forward", "encoder_backward"), there_and_back, strict=True))
    return found


@cache
def features_flops(features: str, name: str, dtype: str) -> float:
    """Return the FLOPs of a feature map on one of a prior's images, forward and backward."""
    return sum(dryrun.flops(features_of(features), picture(prior_of(name, dtype))))


@cache
def learned_flops(name: str, dtype: str) -> float:
    """Return the FLOPs of VSD's learned score, a UNet from scratch, per image: one prediction, then a training step."""
    prior, condition = prior_of(name, dtype), condition_of(name, dtype, guided=True)
    score = UNetScore(prior, condition, Spread([0]), Stream(0))
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        score.epsilon(latent(prior), 500, condition)
    return 4.0 * count.get_total_flops()  # predict; forward; backward in inputs and in weights


def memory_of(
    name: str, dtype: str, features: str | None, guided: bool, through: tuple[str, ...] = ()
) -> Need:  # fmt: skip
    """Return the bytes that one particle takes beside the weights (see :mod:`rsd.memory`). ``through``: the networks
    that a method differentiates in one graph."""
    epsilon = max(bytes_of_prediction(name, dtype, guided), bytes_of_chain(name, dtype, guided, through))
    graph, pull = bytes_of_features(name, dtype, features) if features else (0, 0)
    return Need(epsilon, graph, pull, bytes_of_chain(name, dtype, False, ("decode",)))


@cache
def bytes_of_prediction(name: str, dtype: str, guided: bool) -> int:
    """Return the peak of a prior's prediction without its gradient."""
    return memory.of_prediction(prior_of(name, dtype), condition_of(name, dtype, guided))


@cache
def bytes_of_chain(name: str, dtype: str, guided: bool, through: tuple[str, ...]) -> int:
    """Return the peak of the gradient through these of a prior's functions."""
    return memory.of_chain(prior_of(name, dtype), condition_of(name, dtype, guided), through)


@cache
def bytes_of_features(name: str, dtype: str, features: str) -> tuple[int, int]:
    """Return the bytes of the graph of a decoded latent's features, and the peak of its vector-Jacobian product."""
    prior, network = prior_of(name, dtype), features_of(features)
    return memory.of_features(prior, lambda z: network(prior.decode(z)))


def weights_of(prior: Prior) -> int:
    """Return the bytes of a prior's UNet and autoencoder, or of its text encoder if that is larger: it is released, or
    loaded before."""
    main = dryrun.weight(prior.network)
    if not isinstance(prior, LatentPrior):
        return main
    return max(main + dryrun.weight(prior.vae), dryrun.weight(prior.text_encoder))


def latent(prior: Prior) -> torch.Tensor:
    """Return z of one particle."""
    return torch.empty(1, *prior.latent_shape, dtype=prior.dtype, device="meta")


def picture(prior: Prior) -> torch.Tensor:
    """Return x of one particle."""
    return torch.empty(1, 3, prior.image_size, prior.image_size, dtype=prior.dtype, device="meta")
