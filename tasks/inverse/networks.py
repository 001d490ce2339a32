"""The networks of a run beside its prior: what the repulsion compares with, and what scores the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rsd import metrics
from rsd.features import check_features_name, load_features, on_cpu
from rsd.heads.classifier import HeadsClassifier
from rsd.metrics.networks import DivNetwork, load_div
from rsd.priors import over_heads

from . import given
from .options import Restore
from .run import Settings

Features = Callable[[torch.Tensor], torch.Tensor]
OPTIONAL = ("lpips", "clip", "fid")
"""What --metrics adds: the first two for each image, the last over all images."""

SMALLEST = 32
"""Pixels that LPIPS needs: AlexNet pools what is smaller away."""


@dataclass(frozen=True)
class Scorers:
    """What scores: Div on the network ``div``, heads by ``judge``, and what --metrics asks for (None: not asked for, or
    not possible here). All take images [N, 3, H, W] in [-1, 1] on the CPU; ``fid_name`` tells what ``fid`` is."""

    div: DivNetwork = DivNetwork()
    judge: HeadsClassifier | None = None
    lpips: metrics.Compare | None = None
    clip: metrics.Match | None = None
    fid: Features | None = None
    fid_name: str = ""


def features_name(options: Restore) -> str:
    """The repulsion's feature map, "auto" resolved."""
    if options.features != "auto":
        return options.features
    return given.features_name(options.prior)


def interacts(options: Restore) -> bool:
    """Whether any particle ever feels another, so that the repulsion's feature map is needed."""
    return Settings.of(options).interaction.acts(options.particles)


def why_not(options: Restore, several: bool) -> dict[str, str]:
    """Why an optional metric will be null, for those that will."""
    why = {name: f"not asked for (see --metrics {name})" for name in OPTIONAL if name not in options.metrics}
    if not options.clean:
        for name in ("lpips", "fid"):
            why.setdefault(name, "no clean image to compare with (see --clean)")
    if not options.prompt:
        why.setdefault("clip", "no prompt to compare with (see --prompt)")
    if not several:
        why.setdefault("fid", "it compares many images with many; give several or a folder")
    return why


def load_scorers(options: Restore, device: torch.device, several: bool) -> Scorers:
    """The networks that score, the optional ones first.

    Raises ImportError, FileNotFoundError or ValueError, in one sentence, for one that was asked for and cannot be had.
    """
    why = why_not(options, several)
    for name in options.metrics:
        if name in why:
            print(f"{name} will be null: {why[name]}", flush=True)
    lpips = metrics.load_lpips(device=device) if "lpips" not in why else None
    clip = metrics.load_clip_score(options.clip_model, device=device) if "clip" not in why else None
    judge = HeadsClassifier.load() if over_heads(options.prior) else None
    repulsion = [features_name(options)] if interacts(options) else []
    div = load_div(options.div_features, judge=judge, repulsion=repulsion, device=device)
    compare, label = None, ""
    if "fid" not in why and options.fid_features == "auto":
        compare, label = div.features, div.name or ""
        if compare is None:
            raise ValueError(f"The metric fid has no features to compare; give --fid-features ({div.reason})")
    elif "fid" not in why:
        compare = on_cpu(load_features(options.fid_features, device=device), device)
        label = options.fid_features
    return Scorers(div, judge, lpips, clip, compare, label)


def check_metrics(options: Restore, size: int) -> None:
    """Raise ValueError for a metric that pictures of size x size px cannot have. Loads nothing."""
    for name in (options.fid_features, options.div_features):
        if name != "auto":
            check_features_name(name)
    if "lpips" in options.metrics and options.clean and size < SMALLEST:
        raise ValueError(
            f"LPIPS needs {SMALLEST} px or more, {options.prior} makes {size} px; leave it out of --metrics."
        )


def lacking(held: dict[str, Any], options: Restore) -> list[str]:
    """The metrics asked for that a finished run's metrics.json does not hold, or holds by another network."""
    why = why_not(options, several=True)
    names = ["lpips"] if "lpips" not in why and not held.get("lpips") else []
    if "clip" not in why and (held.get("clip") or {}).get("model") != options.clip_model:
        names.append("clip")
    if options.div_features not in ("auto", held.get("div_features")):
        names.append("div")
    return names
