"""``rsd sweep``: plot quality against diversity over methods, gammas and prompts, with ancestral sampling as reference
(Fig. 31), and kernels side by side (Figs 32, 33). The same command resumes after an interruption."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups
from rsd.runs.flags import parse as read
from rsd.runs.options import check_used
from rsd.runs.settings import file_values
from rsd.runs.words import match_name, unknown_name

from .options import METHODS, SAMPLERS, SYNONYMS, TextToImage
from .packaged import COMMAND

HELD_OUT = "heads_prompts.txt"
FEATURES = ("auto", "pixels", "heads", "heads-layers", "lpips")
"""Names of feature maps; others are hub ids, folders or functions."""
PASSED = (
    "seed", "guidance", "particles", "prior", "revision", "dtype", "device", "chunk", "memory", "metrics",
    "div_features", "clip_model", "aesthetic_weights",
)  # fmt: skip
"""Options of every run, including the reference."""
OF_METHODS = ("config", "steps", "lr")
"""Options of the methods only."""


def are_features(word: str) -> bool:
    """Return whether a word after --features is a feature map, not a prompt."""
    return word in FEATURES or (len(word.split()) == 1 and any(sign in word for sign in "/:."))


@dataclass(kw_only=True)
class Sweep:
    """Draw every prompt by every method at every gamma, and plot quality against diversity.

    Each run is one of `rsd text-to-image` with the packaged settings of its method, --config and the flags below. The
    same command resumes an interrupted sweep.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd sweep --methods vsd,sds --gammas 0,10,20",
        'rsd sweep "a man with a beard" "a bald woman" --features pixels,heads --out runs/kernels',
    )
    GROUPS: ClassVar[Groups] = {
        "input": "prompt prompts config",
        "comparison": "methods gammas features",
        "method and prior": "prior revision particles seed",
        "quality": "guidance lr",
        "speed and memory": "steps device dtype chunk memory",
        "output": "out metrics clip_model aesthetic_weights div_features",
    }

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """The prompts (default: the 16 held-out ones of the priors over heads)."""
    prompts: Path | None = None
    """A text file of prompts, one per line (default: those of the command line)."""
    out: Path = Path("runs/sweep")
    """Output folder for sweep.json, sweep.csv, tradeoff.png, grids/, runs/."""
    methods: Annotated[tuple[str, ...], Flag(names=METHODS)] = ("vsd",)
    """vsd, sds, nfsd, svgd, euler, particle-guidance; ancestral sampling is always drawn as reference."""
    gammas: tuple[float, ...] = (0, 10, 20, 30, 40)
    """Weights of the repulsion."""
    features: Annotated[tuple[str, ...], Flag(own=are_features)] = ("auto",)
    """Feature maps of the repulsion; several are compared."""
    prior: str = "heads"
    """A built-in name, a hub id, or a local folder."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    config: Path | None = None
    """A YAML file of settings of `rsd text-to-image` for all methods (default: only the packaged settings)."""
    particles: Annotated[int | None, Flag(short="-n")] = None
    """N, pictures of each prompt (default: the packaged number)."""
    steps: int | None = None
    """Steps of the methods, not of the reference (default: the packaged number)."""
    lr: float | None = None
    """Distillation: Adam's learning rate for the latents (default: the packaged one)."""
    guidance: float | None = None
    """Classifier-free guidance (default: the packaged one)."""
    seed: int = 0
    """The seed of all random numbers."""
    metrics: tuple[Literal["clip", "aesthetic"], ...] = ()
    """Figures that need additional networks."""
    clip_model: str | None = None
    """clip, aesthetic: a hub id or a folder of a CLIPModel (default: openai/clip-vit-large-patch14)."""
    aesthetic_weights: str | None = None
    """aesthetic: the head's weights, a file (default: none; the metric needs them)."""
    div_features: str | None = None
    """What Div is measured on (default: auto, see `rsd text-to-image --help`)."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1 ... (default: auto)."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None
    """Precision of the networks (default: the packaged one, float32 if it names none)."""
    chunk: int | None = None
    """Particles that go through a network at once (default: as many as fit)."""
    memory: Literal["fast", "flat", "lean", "auto"] | None = None
    """fast, flat, lean or auto (default: auto)."""

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        self.methods = tuple(match_name(method, METHODS) for method in self.methods)
        for method in self.methods:
            if method not in METHODS:
                raise unknown_name("method", method, METHODS, SYNONYMS)
        for name in ("methods", "gammas", "features"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; give at least one.")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {' '.join(map(str, values))}; give each value once.")
        if not all(map(math.isfinite, self.gammas)):
            raise ValueError(f"gammas are {self.gammas}; give finite numbers.")
        if self.lr is not None and all(method in SAMPLERS for method in self.methods):
            raise ValueError(f"--lr has no effect on {', '.join(self.methods)}, which distil no score; leave it out.")
        for path in (self.config, self.prompts):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")


@dataclass
class Setting:
    """A point of a curve: the options that its runs share. ``features``: None if particles do not interact."""

    method: str
    gamma: float
    features: str | None
    options: TextToImage
    folder: str = field(init=False)

    def __post_init__(self) -> None:
        from rsd.runs.folder import slug

        shared = f"-{slug(self.features)}" if self.features else ""
        self.folder = self.method if self.method == "ancestral" else f"{self.method}-gamma-{self.gamma:g}{shared}"

    @property
    def label(self) -> str:
        """The name in plots."""
        if self.method == "ancestral":
            return "ancestral"
        return f"{self.method}, gamma {self.gamma:g}" + (f", {self.features}" if self.features else "")


def settings(sweep: Sweep) -> list[Setting]:
    """Return the settings of a sweep, ancestral sampling first. Raise ValueError for settings that cannot run."""
    given = {name: getattr(sweep, name) for name in (*PASSED, *OF_METHODS)}
    given = {name: value for name, value in given.items() if value not in (None, ())}
    shared = {name: value for name, value in given.items() if name in PASSED}
    file = file_values(TextToImage, sweep.config, "prompt") if sweep.config else {}
    file.pop("prompt", None)  # a sweep has its own
    found = [Setting("ancestral", 0.0, None, _options("ancestral", 0.0, {}, shared))]
    check_used(given.keys() & {"revision"}, found[0].options.unread)
    for method in (m for m in sweep.methods if m != "ancestral"):
        for gamma in sweep.gammas:
            options = _options(method, gamma, file, given)
            if not options.interacts:
                found.append(Setting(method, gamma, None, options))
                continue
            for name in sweep.features:
                one = replace(options, features=name)
                found.append(Setting(method, gamma, one.features_name, one))
    return found


def _options(method: str, gamma: float, file: dict[str, Any], given: dict[str, Any]) -> TextToImage:
    options, _ = COMMAND.resolve(file, {**given, "method": method, "gamma": float(gamma), "resume": True})
    return options


def prompts_of(sweep: Sweep) -> list[str]:
    """Return the prompts; by default the held-out ones, which are for priors over heads."""
    from rsd.runs.prompts import gather

    if sweep.prompt or sweep.prompts:
        return gather(sweep.prompt, sweep.prompts)
    if not over_heads(sweep.prior):
        raise ValueError(f"The held-out prompts are for priors over heads; give prompts for {sweep.prior}.")
    with as_file(files("rsd.configs") / "text_to_image" / HELD_OUT) as path:
        return gather((), path)


def main(argv: list[str]) -> int:
    """Sweep; return the exit code."""
    sweep = read(Sweep, argv, prog="rsd sweep")
    sweep.check()
    points = settings(sweep)
    from rsd.errors import plain_warnings

    with plain_warnings():
        return run(sweep, points, prompts_of(sweep))


def run(sweep: Sweep, points: list[Setting], prompts: list[str]) -> int:
    """Draw the missing runs and write the results; return the exit code."""
    from rsd.runs.batch import run_all

    from .cells import SweepHead

    return run_all(SweepHead(sweep.out, points, prompts))
