"""A scene: density and colour at every point of a cube, and normals from the density's gradient.

    sigma(x) = softplus(network(x)_0 + height (1 - |x| / radius)),   colour(x) = sigmoid(network(x)_1..3)

The initial density at the centre, without which the first gradients vanish, is Magic3D's (Lin et al. 2023): linear in
|x|, height 10, under a softplus. DreamFusion's is a Gaussian under an exponential.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rsd.randomness import Stream

from .encodings import DenseGrid, Frequency, TinyCudaGrid, hash_grid
from .settings import FieldSettings


class Field(nn.Module):
    """One scene. Its initial parameters depend only on the stream and the particle's number."""

    def __init__(
        self, settings: FieldSettings, stream: Stream, particle: int = 0, *, device: str | torch.device = "cpu"
    ):
        super().__init__()
        s, sizes, random = settings, settings.sizes, stream.generator("initial field", particle=particle)
        self.settings = settings
        self.encoding: Any
        width, depth = sizes.width, sizes.depth
        if s.encoding == "grid":
            self.encoding = DenseGrid(s.grid, features=sizes.grid_features, generator=random)
        elif s.encoding == "hash":
            self.encoding = hash_grid(
                levels=s.levels, features=sizes.features_per_level, log2_hashmap_size=s.log2_hashmap_size,
                base_resolution=sizes.base_resolution, per_level_scale=s.per_level_scale, generator=random,
                device=device,
            )  # fmt: skip
        else:
            self.encoding, width, depth = Frequency(s.octaves), sizes.frequency_width, sizes.frequency_depth
        self.network = network([self.encoding.outputs, *[width] * depth, 4], generator=random)
        self.to(device)

    @property
    def backend(self) -> str:
        """The encoding's backend for the run's provenance, "torch" or "tinycudann"."""
        return "tinycudann" if isinstance(self.encoding, TinyCudaGrid) else "torch"

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return density [M] per unit of length and colour [M, 3] in [0, 1] at points x [M, 3] of the cube."""
        bound, sizes = self.settings.bound, self.settings.sizes
        raw = self.network(self.encoding((x / bound + 1) / 2))
        radius = sizes.blob_radius * self.settings.blob * bound
        blob = sizes.blob_height * (1 - x.square().sum(-1).clamp(min=1e-12).sqrt() / radius)
        return F.softplus(raw[:, 0] + blob), raw[:, 1:].sigmoid()

    def normals(self, x: torch.Tensor) -> torch.Tensor:
        """Return unit normals -grad sigma / |grad sigma| [M, 3] at x [M, 3], zero where the density is flat.
        Differentiable in the parameters if gradients are enabled."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            density, _ = self(x)
            (gradient,) = torch.autograd.grad(density.sum(), x, create_graph=differentiable)
        return -gradient / gradient.square().sum(-1, keepdim=True).clamp(min=1e-20).sqrt()


def network(sizes: list[int], *, generator: torch.Generator) -> nn.Sequential:
    """Return linear layers of these sizes with SiLU between them, which is twice differentiable. Weights are uniform
    with variance 1/inputs, biases 0."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        with torch.no_grad():
            edge = (3 / inputs) ** 0.5
            linear.weight.uniform_(-edge, edge, generator=generator)
            linear.bias.zero_()
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])
