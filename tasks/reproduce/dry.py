"""``rsd reproduce --dry-run``: every row's settings and models, without a number computed; what it would take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..inverse.methods import FIELD, load_method
from ..inverse.networks import features_name
from ..inverse.operators import make_operator
from ..inverse.options import Restore
from ..inverse.packaged import parse as restore
from ..inverse.run import Settings
from ..text_to_3d.options import TextTo3D
from ..text_to_3d.packaged import parse as text_to_3d
from ..text_to_image.options import SAMPLERS, TextToImage
from ..text_to_image.packaged import parse as text_to_image
from . import models
from .data import FLAGS, number, prepare
from .entries import ENTRIES, find
from .entry import Entry
from .options import Reproduce
from .rows import Plan, plan

RATES = {"paper": (32e12, "hours of an A100"), "builtin": (100e9, "hours of one core")}
"""FLOPs a second. An A100: from the paper's 8.8 minutes for two samples of x8 super-resolution in 1000 steps (D.8.1),
by a program that decodes once more a step than this one; a core: of the Xeon that docs/results.md was made on."""
GIB = 2**30
CALLS = {
    "dps": {"unet_forward": 1, "unet_backward": 1},
    "pigdm": {"unet_forward": 1, "unet_backward": 1},
    "red-diff": {"unet_forward": 1},
    "latent-dps": {"unet_forward": 1, "unet_backward": 1, "decoder_forward": 1, "decoder_backward": 1},
    "psld": {
        "unet_forward": 1, "unet_backward": 1, "decoder_forward": 1, "decoder_backward": 1, "encoder_forward": 1,
        "encoder_backward": 1,
    },
}  # fmt: skip
"""Network passes of a particle in a step, of the methods that experiments compare with. FPS-SMC's are as many as its
particles of an answer."""
RLSD = {"unet_forward": 1, "decoder_forward": 1, "decoder_backward": 1}


@dataclass(frozen=True)
class Ahead:
    """What a row will take: ``runs`` pictures or prompts, each ``particles`` by ``steps``; bytes of memory; FLOPs."""

    plan: Plan
    runs: int = 0
    particles: int = 0
    steps: int = 0
    memory: float = 0.0
    flops: float = 0.0

    def told(self, scale: str) -> str:
        """In a line."""
        rate, unit = RATES[scale]
        if self.plan.lacks:
            return f"  {self.plan.label}: {self.plan.lacks}"
        if not self.plan.prior:
            return f"  {self.plan.label}: no model, seconds"
        return (
            f"  {self.plan.label}: {self.runs} x {self.particles} particles x {self.steps} steps, "
            f"{size(self.memory)}, {self.flops / rate / 3600:.3g} {unit}"
        )


def size(memory: float) -> str:
    """Bytes in GiB, below a tenth of one in MiB."""
    return f"{memory / GIB:.1f} GiB" if memory >= 0.1 * GIB else f"{memory / 2**20:.0f} MiB"


def run(options: Reproduce) -> int:
    """Look ahead at one experiment or all, and print it; the exit code is 0. Raises ValueError for settings that cannot
    be."""
    entries = ENTRIES if options.name == "all" else (find(str(options.name)),)
    seen: dict[str, Ahead] = {}
    for entry in entries:
        print(f"{entry.name}: {entry.paper}")
        for one in look_ahead(entry, options):
            shared = " (as above)" if one.plan.key in seen else ""
            print(one.told(options.scale) + shared, flush=True)
            seen[one.plan.key] = one
    rate, unit = RATES[options.scale]
    hours = sum(one.flops for one in seen.values()) / rate / 3600
    lacking = sum(one.plan.lacks is not None for one in seen.values())
    cannot = f"; {lacking} more cannot run here" if lacking else ""
    print(f"{len(seen) - lacking} runs in all, {hours:,.1f} {unit}, of network passes alone{cannot}")
    return 0


def look_ahead(entry: Entry, options: Reproduce) -> Iterator[Ahead]:
    """Every row of an entry. Where the user's data are not given, one grey picture or a word stands for them."""
    with tempfile.TemporaryDirectory() as folder:
        where = stand_in(entry, options, Path(folder))
        count = number(entry.data, options)
        for row in entry.rows:
            one = plan(entry, row, options, where)
            yield Ahead(one) if one.lacks or entry.command == "toy" else ahead(one, count)


def stand_in(entry: Entry, options: Reproduce, folder: Path) -> Path:
    """The data of an entry, or something of their kind."""
    flag = FLAGS.get(entry.data)
    if not entry.data or options.scale == "builtin" or flag is None or getattr(options, flag):
        return prepare(entry.data, options, folder) if entry.data else folder
    if entry.command == "restore":
        Image.new("RGB", (512, 512), "grey").save(folder / "grey.png")
        return folder / "grey.png"
    (folder / "prompts.txt").write_text("a prompt\n", encoding="utf-8")
    return folder / "prompts.txt"


def ahead(one: Plan, count: int) -> Ahead:
    """What a row takes. Builds its models, and for a restoration its operator, at their real sizes."""
    argv = list(one.argv)
    if one.command == "restore":
        return of_restoration(one, restore(argv)[0], count)
    if one.command == "text-to-image":
        return of_pictures(one, text_to_image(argv)[0], count)
    return of_scenes(one, text_to_3d(argv)[0], count)


def of_restoration(one: Plan, o: Restore, count: int) -> Ahead:
    """A restoration's row."""
    prior = models.prior_of(one.prior, o.dtype)
    operator = make_operator(o.task, size=prior.image_size, seed=o.seed).to("meta")
    operator(models.picture(prior))
    interaction = Settings.of(o).interaction
    repels = interaction.gamma != 0 and FIELD[o.method].made is None
    calls = CALLS.get(o.method, RLSD if prior.latent else {"unet_forward": 1})
    if o.method == "fps-smc":
        calls = {"unet_forward": load_method(o.method, o.hyper).M}
    flops = passes(one.prior, o.dtype, calls)
    if repels:
        share = interaction.groups(o.particles).shape[1] / o.particles * (o.window[1] - o.window[0])
        flops += share * force(one.prior, o.dtype, features_name(o))
    features, through = features_name(o) if repels else None, tuple(FIELD[o.method].through)
    memory = models.memory_of(one.prior, o.dtype, features, False, through)
    taken = memory.of(o.particles, o.particles, keep=True) + models.weights_of(prior)
    return Ahead(one, count, o.particles, o.steps, taken, count * o.particles * o.steps * flops)


def of_pictures(one: Plan, o: TextToImage, count: int) -> Ahead:
    """Text to image: guidance takes two passes; VSD's learned score, a small network or adapters on the prior, more."""
    guided = o.guidance != 1
    flops = passes(one.prior, o.dtype, {"unet_forward": 1 + guided})
    adapted = o.method == "vsd" and o.score != "unet"  # they learn through the prior's UNet
    if o.method == "vsd":
        adapters = passes(one.prior, o.dtype, {"unet_forward": 2, "unet_backward": 2})
        flops += models.learned_flops(one.prior, o.dtype) if o.score == "unet" else adapters
    if o.interacts and o.method not in SAMPLERS:
        flops += (o.window[1] - o.window[0]) * force(one.prior, o.dtype, o.features_name)
    through = ("epsilon",) if adapted else ()
    memory = models.memory_of(one.prior, o.dtype, o.features_name if o.interacts else None, guided, through)
    taken = memory.of(o.particles, o.particles, keep=True) + models.weights_of(models.prior_of(one.prior, o.dtype))
    return Ahead(one, count, o.particles, o.steps, taken, count * o.particles * o.steps * flops)


def of_scenes(one: Plan, o: TextTo3D, count: int) -> Ahead:
    """Text to 3D: a picture for each scene and view; fields and rays are not counted."""
    pictures = o.particles * o.views
    flops = passes(one.prior, o.dtype, {"unet_forward": 2})
    if o.interacts:
        flops += models.features_flops(o.features_name, one.prior, o.dtype)
    memory = models.memory_of(one.prior, o.dtype, o.features_name if o.interacts else None, True)
    taken = memory.of(pictures, pictures, keep=True) + models.weights_of(models.prior_of(one.prior, o.dtype))
    return Ahead(one, count, pictures, o.steps, taken, count * pictures * o.steps * flops)


def passes(prior: str, dtype: str, calls: dict[str, Any]) -> float:
    """FLOPs of those passes."""
    of = models.flops(prior, dtype)
    return sum(times * of[name] for name, times in calls.items())


def force(prior: str, dtype: str, features: str) -> float:
    """FLOPs of a particle's features and of pulling the force back through them."""
    decoder = {name: 1 for name in models.flops(prior, dtype) if name.startswith("decoder")}
    return passes(prior, dtype, decoder) + models.features_flops(features, prior, dtype)
