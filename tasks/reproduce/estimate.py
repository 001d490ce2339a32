"""``rsd reproduce --dry-run``: resolve every row's settings, build its models without weights, and estimate its
cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..inverse.methods import METHODS, load_method
from ..inverse.operators import make_operator
from ..inverse.options import Restore
from ..inverse.run import Settings
from ..text_to_3d.options import TextTo3D
from ..text_to_image.options import SAMPLERS, TextToImage
from . import models
from .data import FLAGS, number, prepare
from .experiments import ENTRIES, find
from .experiments.entry import Entry
from .options import Reproduce
from .plan import Plan, plan

RATES = {"paper": (32e12, "hours of an A100"), "builtin": (100e9, "hours of one core")}
"""FLOPs per second. An A100: from the paper's 8.8 minutes for two samples of x8 super-resolution in 1000 steps (D.8.1),
by a program with one more decode per step than this one. A core: of the Xeon on which docs/results.md was measured."""
GIB = 2**30
NETWORKS = {"epsilon": "unet", "decode": "decoder", "encode": "encoder"}


@dataclass(frozen=True)
class Estimate:
    """The cost of a row: ``runs`` images or prompts with ``particles`` and ``steps`` each, memory in bytes, and
    FLOPs."""

    plan: Plan
    runs: int = 0
    particles: int = 0
    steps: int = 0
    memory: float = 0.0
    flops: float = 0.0

    def line(self, scale: str) -> str:
        """Return the estimate in a line."""
        rate, unit = RATES[scale]
        if self.plan.why_not:
            return f"  {self.plan.label}: {self.plan.why_not}"
        if not self.plan.prior:
            return f"  {self.plan.label}: no model, seconds"
        return (
            f"  {self.plan.label}: {self.runs} x {self.particles} particles x {self.steps} steps, "
            f"{size(self.memory)}, {self.flops / rate / 3600:.3g} {unit}"
        )


def size(memory: float) -> str:
    """Return bytes in GiB, or in MiB below 0.1 GiB."""
    return f"{memory / GIB:.1f} GiB" if memory >= 0.1 * GIB else f"{memory / 2**20:.0f} MiB"


def run(options: Reproduce) -> int:
    """Estimate one experiment or all, and print the result; the exit code is 0. Raise ValueError for invalid
    settings."""
    entries = ENTRIES if options.name == "all" else (find(str(options.name)),)
    seen: dict[str, Estimate] = {}
    for entry in entries:
        print(f"{entry.name}: {entry.paper}")
        for one in estimates(entry, options):
            shared = " (as above)" if one.plan.key in seen else ""
            print(one.line(options.scale) + shared, flush=True)
            seen[one.plan.key] = one
    rate, unit = RATES[options.scale]
    hours = sum(one.flops for one in seen.values()) / rate / 3600
    blocked = sum(one.plan.why_not is not None for one in seen.values())
    cannot = f"; {blocked} more cannot run here" if blocked else ""
    print(f"{len(seen) - blocked} runs in all, {hours:,.1f} {unit}, network passes only{cannot}")
    return 0


def estimates(entry: Entry, options: Reproduce) -> Iterator[Estimate]:
    """Yield the estimate of every row of an entry. If the user's data are missing, one grey image or one prompt
    replaces them."""
    with tempfile.TemporaryDirectory() as folder:
        where = placeholder_data(entry, options, Path(folder))
        count = number(entry.data, options)
        for row in entry.rows:
            one = plan(entry, row, options, where)
            yield Estimate(one) if one.why_not or entry.command == "toy" else estimate(one, count)


def placeholder_data(entry: Entry, options: Reproduce, folder: Path) -> Path:
    """Return the data of an entry, or a placeholder of their kind."""
    flag = FLAGS.get(entry.data)
    if not entry.data or options.scale == "builtin" or flag is None or getattr(options, flag):
        return prepare(entry.data, options, folder) if entry.data else folder
    if entry.command == "restore":
        Image.new("RGB", (512, 512), "grey").save(folder / "grey.png")
        return folder / "grey.png"
    (folder / "prompts.txt").write_text("a prompt\n", encoding="utf-8")
    return folder / "prompts.txt"


def estimate(one: Plan, count: int) -> Estimate:
    """Estimate a row. Builds its models, and for a restoration its operator, at their real sizes."""
    if one.command == "restore":
        return restoration_cost(one, one.options(), count)
    if one.command == "text-to-image":
        return image_cost(one, one.options(), count)
    return scene_cost(one, one.options(), count)


def restoration_cost(one: Plan, o: Restore, count: int) -> Estimate:
    """Estimate a restoration's row."""
    prior = models.prior_of(one.prior, o.dtype)
    operator = make_operator(o.task, size=prior.image_size, seed=o.seed).to("meta")
    operator(models.picture(prior))
    interaction = Settings.of(o).interaction
    repels = interaction.gamma != 0 and METHODS[o.method].sampler is None
    flops = passes(one.prior, o.dtype, calls_of(o, latent=prior.latent))
    if repels:
        share = interaction.groups(o.particles).shape[1] / o.particles * (o.window[1] - o.window[0])
        flops += share * force(one.prior, o.dtype, o.features_name)
    features, through = o.features_name if repels else None, tuple(METHODS[o.method].through)
    memory = models.memory_of(one.prior, o.dtype, features, False, through)
    taken = memory.of(o.particles, o.particles, keep=True) + models.weights_of(prior)
    return Estimate(one, count, o.particles, o.steps, taken, count * o.particles * o.steps * flops)


def calls_of(o: Restore, *, latent: bool) -> dict[str, int]:
    """Return the network passes per particle and step of the methods in experiments; ``latent``: the prior is."""
    if o.method == "fps-smc":
        return {"unet_forward": load_method(o.method, o.hyper).M}
    # A method without a sampler fits its latents through the decoder.
    differentiated = METHODS[o.method].through if METHODS[o.method].sampler else ("decode",)
    calls = {"unet_forward": 1 + inversion(o)}
    for name in differentiated:
        if name == "epsilon" or latent:
            calls |= {f"{NETWORKS[name]}_{way}": 1 for way in ("forward", "backward")}
    return calls


def image_cost(one: Plan, o: TextToImage, count: int) -> Estimate:
    """Estimate a row of text to image. Guidance takes two passes; VSD's learned score, a small network or adapters on
    the prior, takes more."""
    guided = o.guidance != 1
    flops = passes(one.prior, o.dtype, {"unet_forward": 1 + guided + inversion(o)})
    adapted = o.method == "vsd" and o.score != "unet"  # adapters learn through the prior's UNet
    if o.method == "vsd":
        adapters = passes(one.prior, o.dtype, {"unet_forward": 2, "unet_backward": 2})
        flops += models.learned_flops(one.prior, o.dtype) if o.score == "unet" else adapters
    if o.interacts and o.method not in SAMPLERS:
        flops += (o.window[1] - o.window[0]) * force(one.prior, o.dtype, o.features_name)
    through = ("epsilon",) if adapted else ()
    memory = models.memory_of(one.prior, o.dtype, o.features_name if o.interacts else None, guided, through)
    taken = memory.of(o.particles, o.particles, keep=True) + models.weights_of(models.prior_of(one.prior, o.dtype))
    return Estimate(one, count, o.particles, o.steps, taken, count * o.particles * o.steps * flops)


def scene_cost(one: Plan, o: TextTo3D, count: int) -> Estimate:
    """Estimate a row of text to 3D: one image per scene and view; fields and rays are not counted."""
    pictures = o.particles * o.views
    flops = passes(one.prior, o.dtype, {"unet_forward": 2 + inversion(o)})
    if o.interacts:
        flops += models.features_flops(o.features_name, one.prior, o.dtype)
    memory = models.memory_of(one.prior, o.dtype, o.features_name if o.interacts else None, True)
    taken = memory.of(pictures, pictures, keep=True) + models.weights_of(models.prior_of(one.prior, o.dtype))
    return Estimate(one, count, pictures, o.steps, taken, count * pictures * o.steps * flops)


def inversion(o: Restore | TextToImage | TextTo3D) -> int:
    """Return the UNet's passes for each particle and step that find its noise."""
    return o.inversion_steps if o.noise == "inverted" else 0


def passes(prior: str, dtype: str, calls: dict[str, Any]) -> float:
    """Return the FLOPs of those passes."""
    cost = models.flops(prior, dtype)
    return sum(times * cost[name] for name, times in calls.items())


def force(prior: str, dtype: str, features: str) -> float:
    """Return the FLOPs of a particle's features and of pulling the force back through them."""
    decoder = {name: 1 for name in models.flops(prior, dtype) if name.startswith("decoder")}
    return passes(prior, dtype, decoder) + models.features_flops(features, prior, dtype)
