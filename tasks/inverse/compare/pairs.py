"""``rsd compare``: methods x tasks x images on the same priors, operators, noise and seeds.

A cell is a run folder of ``rsd restore``; what is done is skipped, so the same command goes on after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rsd.priors import image_size
from rsd.runs.flags import Flag, Groups
from rsd.runs.folder import RunFolder, slug
from rsd.runs.settings import shard

from ..inputs import Job, list_jobs
from ..methods import METHODS, check_method, method_name
from ..names import is_task, sr_factor, task_name, unknown_task
from ..options import Restore
from ..packaged import packaged, parse, presets

OWN = ("compare.json", "compare.csv", "compare.md", "grid.png", "cells")
PASSED = ("particles", "seed", "sigma_v", "div_features", "fid_features", "device", "dtype", "chunk", "memory")
"""Options that every run gets."""


@dataclass(kw_only=True)
class Compare:
    """Restore the same degraded pictures by several methods, and put the figures side by side.

    Each run is as of `rsd restore --clean` with the packaged settings of its task, method and prior. Methods of pixels
    run on --pixel-prior, all others on --prior; where the two differ in size, pictures are compared at the smaller one,
    and srK of --prior is the srK of --pixel-prior that leaves as many pixels.
    Left out, and named, are a method that does not fit a task (a linear one, say), one without packaged settings for
    it, and one that would be another's run over again. The same command again goes on where it stopped.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd heads --out heads",
        "rsd compare --images heads --methods rlsd,latent-dps,psld --tasks inpaint_half_face,sr4:4",
        "rsd compare --images heads --config configs/compare/heads.yaml",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "images config shard",
        "what is compared": "methods tasks sigma_v",
        "priors": "prior pixel_prior particles seed",
        "speed and memory": "steps device dtype autocast chunk memory",
        "output": "out metrics div_features fid_features",
    }

    methods: tuple[str, ...] = ("rlsd", "latent-red-diff", "latent-dps", "psld")
    """Methods, separated by commas or spaces (see `rsd methods`)."""
    tasks: tuple[str, ...] = ("inpaint_half_face",)
    """Tasks, likewise (see `rsd tasks`); sr4:8 takes the first 8 images only."""
    images: Path | None = None
    """A folder of clean images (default: none; it is needed)."""
    out: Path = Path("runs/compare")
    """The folder to write to: compare.json, compare.csv, compare.md, grid.png, cells/."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: none)."""
    prior: str = "heads"
    """The prior of all methods but those of pixels: a built-in name, a hub id, or a local folder."""
    pixel_prior: str = "heads-pixels"
    """The prior of the methods of pixels."""
    particles: Annotated[int | None, Flag(short="-n")] = None
    """N, answers of each method (default: the packaged number)."""
    steps: int | None = None
    """Steps of every method, by its --preset of so many where it has one (default: of its packaged settings, each with
    a budget of its own)."""
    shard: str | None = None
    """K/N: only every N-th pair of a method and a task, from the K-th (0 ... N-1), and no table: for several processes
    that share --out. The same command without it afterwards writes the table (default: all pairs)."""
    seed: int = 0
    """Every random number follows from it."""
    sigma_v: float | None = None
    """Standard deviation of the measurement noise (default: the packaged one)."""
    metrics: tuple[Literal["lpips", "fid"], ...] = ()
    """Figures that need networks of their own; fid also where the runs are finished."""
    div_features: str | None = None
    """What Div is measured on (default: auto, see `rsd restore --help`)."""
    fid_features: str | None = None
    """What the Frechet distance compares (default: auto, what Div is measured on)."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1 ... (default: auto)."""
    dtype: str | None = None
    """Precision of the networks (default: the packaged one, float32 if it names none)."""
    autocast: bool = False
    """Networks multiply in bfloat16: quicker where the processor or the card has it, and pixels change by rounding."""
    chunk: int | None = None
    """Particles a network sees at once (default: as --memory says)."""
    memory: str | None = None
    """auto, fast, flat, lean: see `rsd restore --help` (default: auto)."""

    def prior_of(self, method: str) -> str:
        """The prior that a method runs on."""
        return self.pixel_prior if METHODS[method].space == "pixels" else self.prior

    def sizes(self) -> dict[str, int]:
        """Pixels of each prior that a method runs on. Raises what ``image_size`` raises for one that cannot be had."""
        return {prior: image_size(prior) for prior in dict.fromkeys(map(self.prior_of, self.methods))}

    @property
    def reference(self) -> str:
        """The prior whose pixels srK is of: --prior, if any method runs on it."""
        return self.prior if self.prior in map(self.prior_of, self.methods) else self.pixel_prior

    def check(self) -> None:
        """Split the lists; raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        for name in ("methods", "tasks"):
            values = tuple(part for text in getattr(self, name) for part in text.split(",") if part)
            named = method_name if name == "methods" else _task
            values = tuple(map(named, values))
            setattr(self, name, values)
            if not values:
                raise ValueError(f"{name} is empty; give at least one.")
            if len({text.partition(":")[0] for text in values}) < len(values):
                raise ValueError(f"{name} {' '.join(values)}: one is given twice.")
        for method in self.methods:
            check_method(method)
        shard(self.shard)
        for text in self.tasks:
            split(text)
        if self.images is None:
            raise ValueError("compare needs --images, a folder of clean images; `rsd heads --out heads` writes one.")
        if not self.images.is_dir():
            raise FileNotFoundError(f"{self.images} is no folder of images; check the path.")


@dataclass(frozen=True)
class Pair:
    """A method on a task: what ``restore`` is told, its images, and the file of its packaged settings."""

    method: str
    task: str
    options: Restore
    jobs: list[Job]
    settings: str

    @property
    def title(self) -> str:
        """For people."""
        return title(self.task, self.method)

    @property
    def folder(self) -> Path:
        """Where its cells are."""
        assert self.options.out is not None
        return self.options.out

    def cell(self, one: Job) -> RunFolder:
        """The run folder of one image."""
        return RunFolder(self.folder / slug(one.title), resume=True)


def _task(text: str) -> str:
    task, colon, first = text.partition(":")
    return f"{task_name(task)}{colon}{first}"


def title(task: str, method: str) -> str:
    """A pair, for people."""
    return f"{task} by {method}"


def split(text: str) -> tuple[str, int | None]:
    """ "sr4:8" as ("sr4", 8), "sr4" as ("sr4", None). Raises ValueError, in one sentence, for what is neither."""
    task, colon, first = text.partition(":")
    if not is_task(task):
        raise unknown_task(task)
    if colon and not (first.isdigit() and int(first) > 0):
        raise ValueError(f'The task "{text}" has no number after its colon; write {task}:8 for the first 8 images.')
    return task, int(first) if colon else None


def matched(task: str, size: int, reference: int) -> str | None:
    """The task that measures as many pixels of size x size px as ``task`` does of reference x reference px: another
    srK, or the same for all others. None if there is none."""
    factor = sr_factor(task)
    own = f"sr{factor * size / reference:g}" if factor else task
    return own if is_task(own) else None


def pairs(compare: Compare) -> tuple[list[Pair], dict[str, str]]:
    """All methods on all tasks, task by task, and of those that cannot be compared the title and why. Raises ValueError
    for settings that cannot run, and what :meth:`Compare.sizes` raises."""
    sizes = compare.sizes()
    found, left_out = [], {}
    for text in compare.tasks:
        task, first = split(text)
        for method in compare.methods:
            prior = compare.prior_of(method)
            own = matched(task, sizes[prior], sizes[compare.reference])
            if own is None or packaged(own, method, prior) is None:
                left_out[title(task, method)] = (
                    f"No settings are packaged for it with {prior}, and untuned ones would not be fair."
                    if own
                    else f"No srK of {prior} ({sizes[prior]} px) leaves as many px as {task} of {compare.reference}."
                )
                continue
            out = compare.out / "cells" / f"{task}-{method}"
            options, settings = parse(_flags(compare, own, method, prior, out))
            assert settings is not None
            found.append(Pair(method, task, options, list_jobs(options)[:first], settings))
    return found, left_out


def _flags(compare: Compare, task: str, method: str, prior: str, out: Path) -> list[str]:
    flags = [str(compare.images), "--task", task, "--method", method, "--prior", prior, "--out", str(out)]
    flags += ["--clean", "--resume", *(["--metrics", "lpips"] if "lpips" in compare.metrics else [])]
    flags += ["--autocast"] if compare.autocast else []
    if compare.steps is not None:
        budget = "preset" if compare.steps in presets(task, method, prior) else "steps"
        flags += [f"--{budget}", str(compare.steps)]
    for name in PASSED:
        if (value := getattr(compare, name)) is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags
