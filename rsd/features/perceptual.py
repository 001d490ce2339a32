"""LPIPS (Zhang et al. 2018) as a feature map: the squared distance between two rows is the perceptual distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rsd.hub.cache import cached_weights

Layers = Callable[[torch.Tensor], Sequence[torch.Tensor]]

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


class Perceptual(nn.Module):
    """Maps images [B, 3, H, W] in [-1, 1] to [B, sum_l C_l P_l]: the activations a_l [B, C_l, P_l] of several layers,
    normalised over channels at each of the P_l positions, times sqrt(w_l / P_l), so that (LPIPS, Eq. 1)

        |phi(x) - phi(y)|^2 = sum_l 1/P_l sum_p |sqrt(w_l) (a_l(x)_p - a_l(y)_p)|^2

    ``layers``: maps images to the activations [B, C_l, ...]. ``weights``: w_l >= 0 [C_l]; None: 1 for all channels.
    """

    def __init__(self, layers: Layers, weights: Sequence[torch.Tensor] | None = None):
        super().__init__()
        self.layers = layers
        for k, w in enumerate(weights or []):
            self.register_buffer(f"root{k}", w.flatten().sqrt()[:, None], persistent=False)
        self.weighted = weights is not None
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for k, a in enumerate(self.layers(x)):
            unit = F.normalize(a.flatten(2), dim=1)
            unit = unit * getattr(self, f"root{k}") if self.weighted else unit
            parts.append(unit.flatten(1) / unit.shape[2] ** 0.5)
        return torch.cat(parts, dim=1).to(x.dtype)


class Tokens(nn.Module):
    """The patch tokens after each block of a :class:`rsd.features.ViT`."""

    def __init__(self, vit: Any):
        super().__init__()
        self.vit = vit

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [h[:, 1:].transpose(1, 2) for h in self.vit.hidden(x)]


class Maps(nn.Module):
    """The activations of LPIPS's network."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.network.net(self.network.scaling_layer(x.float())))


def vit_features(vit: Any) -> Perceptual:
    """Create the feature map of all layers of a :class:`rsd.features.ViT`."""
    return Perceptual(Tokens(vit))


def lpips_features(network: Any) -> Perceptual:
    """Create the feature map of LPIPS from :func:`lpips_network`."""
    weights = [lin.model[-1].weight.detach() for lin in network.lins]
    return Perceptual(Maps(network), weights)


def lpips_network(*, device: str | torch.device = "cpu") -> Any:
    """Load the package's AlexNet network, frozen, for images of at least 32 px.

    Raises ImportError if the package is missing or broken, FileNotFoundError if AlexNet's weights are not available.
    """
    try:
        import lpips
    except Exception as error:  # a torchvision built for another torch raises RuntimeError
        raise ImportError(
            f"LPIPS needs the package lpips and a torchvision built for this torch: pip install 'rsd[lpips]' ({error})."
        ) from error
    weights = cached_weights(ALEXNET, "LPIPS needs AlexNet's weights, which are", check_hash=True)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for part in network.net.children():
        for name, layer in part.named_children():
            layer.load_state_dict({k: weights[f"features.{name}.{k}"] for k in layer.state_dict()})
    return network.eval().requires_grad_(False).to(device)
