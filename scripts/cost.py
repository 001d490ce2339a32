"""Count the cost of a step at Stable Diffusion's size: FLOPs and bytes of its networks, on the meta device.

    python -m scripts.cost                 # 512 px, one particle; a few seconds, no weights
    python -m scripts.cost --tflops 150 --tbs 2      # and the least time of a step on such a device

A multiplication and an addition are two FLOPs. ``made``: bytes of all tensors that a pass creates; each is written once
and read at least once, so a device moves at least twice that. ``kept``: bytes of the graph between forward and backward
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rsd.features.tiny_decoder import TinyDecoder
from rsd.memory.meta import Bytes, flops, weight
from rsd.priors import load_prior
from rsd.priors.latent import LatentPrior
from rsd.runs.flags import script
from scripts.full_size import dino, stable_diffusion


@dataclass
class Cost:
    """Count FLOPs and bytes of a step."""

    px: int = 512
    tflops: float = 0.0
    """FLOPs a second, in 10^12, that a device reaches: gives a lower bound for a step."""
    tbs: float = 0.0
    """Bytes a second, in 10^12, that it moves: gives a lower bound too."""


class Made(Bytes):
    """Count the bytes of all tensors together too, ``all``."""

    all = 0

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.all += storage.nbytes()
        super()._add(storage)


@dataclass(frozen=True)
class Pass:
    """A network's cost for one particle in float32: FLOPs and bytes made, forward, and backward to its input only."""

    name: str
    weights: int
    forward: int
    backward: int
    made_forward: int
    made_backward: int
    kept: int

    def flops(self) -> tuple[int, int]:
        """Return (forward, backward)."""
        return self.forward, self.backward

    def made(self) -> tuple[int, int]:
        """Return (forward, backward)."""
        return self.made_forward, self.made_backward


def counted(name: str, network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, weights: int) -> Pass:
    """Count a pass of ``network`` at x, both on the device "meta"."""
    forward, backward = flops(network, x)
    x = x.requires_grad_()
    with Made() as made:
        out = network(x)
        kept, written = made.now, made.all
        torch.autograd.grad(out, x, torch.empty_like(out))
        return Pass(name, weights, forward, backward, written, made.all - written, kept)


@dataclass(frozen=True)
class Networks:
    """The networks of a step at ``px`` pixels on the device "meta", and empty inputs for them."""

    px: int
    prior: LatentPrior
    vit: torch.nn.Module
    taesd: TinyDecoder

    @classmethod
    def at(cls, px: int) -> Networks:
        """Build Stable Diffusion 2.1-base, DINO ViT-S/16 and TAESD."""
        from diffusers import AutoencoderTiny

        from rsd.features import ViT

        with torch.device("meta"):
            vit, taesd = ViT(dino()), AutoencoderTiny()
        tokenizer = load_prior("heads").tokenizer  # type: ignore[attr-defined]
        prior = LatentPrior(stable_diffusion(tokenizer, device="meta", size=px), device="meta")
        return cls(px, prior, vit, TinyDecoder(taesd, prior.calls))

    def z(self) -> torch.Tensor:
        return torch.empty(1, *self.prior.latent_shape, device="meta")

    def x(self, side: int) -> torch.Tensor:
        return torch.empty(1, 3, side, side, device="meta")

    def unet(self, latents: torch.Tensor) -> torch.Tensor:
        text: Any = torch.empty(1, 77, self.prior.unet.config.cross_attention_dim, device="meta")
        out: torch.Tensor = self.prior.unet(latents, 500, encoder_hidden_states=text).sample
        return out


def table(n: Networks) -> list[Pass]:
    """Return the cost of each network of a step."""
    prior, px, z, x = n.prior, n.px, n.z, n.x
    return [
        counted("UNet", n.unet, z(), weight(prior.unet)),
        counted("decoder", prior.decode, z(), weight(prior.vae.decoder)),
        counted(f"DINO ViT-S/16, {px} px", n.vit, x(px), weight(n.vit)),
        counted("DINO ViT-S/16, 224 px", n.vit, x(224), weight(n.vit)),
        counted("TAESD's decoder", n.taesd, z(), weight(n.taesd.model.decoder)),
        counted("encoder", prior.encode, x(px), weight(prior.vae.encoder)),
        counted("TAESD's encoder", n.taesd.encode, x(px), weight(n.taesd.model.encoder)),
    ]


def peaks(n: Networks) -> dict[str, int]:
    """Return the peak bytes of the tensors of a step for one particle without repulsion, beside the weights."""

    def guidance(coder: Any) -> None:
        z = n.z().requires_grad_()
        clean = z - n.unet(z)
        with torch.no_grad():
            d = coder.decode(clean)
            v = coder.encode(d + 1) - coder.encode(d)
        torch.autograd.grad(clean, z, v)

    def rlsd() -> None:
        z = n.z().requires_grad_()
        with torch.no_grad():
            n.unet(z)
        out = n.prior.decode(z)
        torch.autograd.grad(out, z, torch.empty_like(out))

    steps: dict[str, Callable[[], None]] = {
        "RLSD": rlsd, "proximal guidance": lambda: guidance(n.prior),
        "proximal guidance by TAESD": lambda: guidance(n.taesd),
    }  # fmt: skip
    found = {}
    for name, step in steps.items():
        with Bytes() as made:
            step()
        found[name] = made.peak
    return found


def steps(passes: list[Pass], cost: Callable[[Pass], tuple[int, int]] = Pass.flops) -> dict[str, int]:
    """Return the cost of each kind of step for one particle; ``cost``: of a network, (forward, backward)."""
    unet, decoder, features, small, tiny, encoder, tiny_encoder = map(cost, passes)
    z_step, force = sum(decoder), sum(decoder) + sum(features)
    again = decoder[0] + features[0]  # recomputed: all particles' features come before any graph
    return {
        "no repulsion": unet[0] + z_step,
        "repulsion, fast": unet[0] + z_step + force,
        "repulsion, flat": unet[0] + z_step + force + again,
        "repulsion, lean": unet[0] + z_step + force + 2 * again + decoder[0],  # recomputes in both graphs
        "repulsion, cheap": unet[0] + z_step + sum(small) + sum(tiny),
        "Algorithm 1 as printed, no repulsion": unet[0] + z_step + decoder[0],
        "Algorithm 1 as printed": unet[0] + z_step + force + decoder[0],
        "proximal guidance, no repulsion": sum(unet) + decoder[0] + 2 * encoder[0],
        "proximal guidance": sum(unet) + decoder[0] + 2 * encoder[0] + force,
        "proximal guidance by TAESD, no repulsion": sum(unet) + tiny[0] + 2 * tiny_encoder[0],
        "PSLD, no repulsion": sum(unet) + z_step + sum(encoder),
    }


def main() -> None:
    """Print both tables."""
    o = script(Cost, "python -m scripts.cost")
    networks = Networks.at(o.px)
    passes = table(networks)
    print("| network | weights [MB] | forward [GFLOP] | backward [GFLOP] | made forward, backward [GB] | kept [GiB] |")
    print("|---|---|---|---|---|---|")
    for p in passes:
        flops = f"{p.forward / 1e9:.0f} | {p.backward / 1e9:.0f}"
        made = f"{p.made_forward / 1e9:.1f}, {p.made_backward / 1e9:.1f}"
        print(f"| {p.name} | {p.weights / 1e6:.0f} | {flops} | {made} | {p.kept / 2**30:.2f} |")
    flop, byte = steps(passes), steps(passes, Pass.made)
    rates = [f"{o.tflops:g} TFLOP/s"] * (o.tflops > 0) + [f"{o.tbs:g} TB/s"] * (o.tbs > 0)
    floor = f" floor at {' and '.join(rates)} [s] |" if rates else ""
    print(f"\n| step, a particle | TFLOP | of Algorithm 1 | moved [GB] |{floor}")
    print(f"|---|---|---|---|{'---|' * bool(floor)}")
    for name, total in flop.items():
        of = flop["Algorithm 1 as printed" + (", no repulsion" if "no repulsion" in name else "")]
        floors = [total / o.tflops / 1e12] if o.tflops > 0 else []
        floors += [2 * byte[name] / o.tbs / 1e12] if o.tbs > 0 else []
        seconds = f" {max(floors):.3g} |" if floors else ""
        print(f"| {name} | {total / 1e12:.2f} | {total / of:.2f} | {2 * byte[name] / 1e9:.0f} |{seconds}")
    print("\n| step, a particle, no repulsion | peak beside the weights [GiB] |\n|---|---|")
    for name, size in peaks(networks).items():
        print(f"| {name} | {size / 2**30:.2f} |")


if __name__ == "__main__":
    main()
