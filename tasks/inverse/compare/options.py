"""The options of ``rsd compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rsd.priors import image_size, takes_any_size
from rsd.runs.flags import Flag, Groups
from rsd.runs.options import Unread, unread_particles
from rsd.runs.settings import shard

from ..methods import METHODS, check_method, method_name
from ..names import IMPLYING, READ_BY_SOME, REQUIRED, reads, split_task, task_name
from ..options import ALPHA, OperatorOptions, implied_task, tasks_reading


@dataclass(kw_only=True)
class Compare(OperatorOptions):
    """Restore the same degraded images by several methods, and put the figures side by side.

    Each run is that of `rsd restore --clean` with the packaged settings of its task, method and prior. Methods in
    pixel space run on --pixel-prior, all others on --prior. If the two differ in size, images are compared at the
    smaller size, and srK of --prior is matched by the srK of --pixel-prior that leaves as many pixels. A prior that
    takes any size gets whole pictures if no other takes part, else what the other's crop shows.
    A method is left out, with the reason, if it does not fit a task (a linear one, for example), has no packaged
    settings for it, or would repeat another method's run. The same command again resumes where it stopped.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd compare --images heads --methods rlsd,latent-dps,psld --tasks inpaint_half_face,sr4:4",
        "rsd compare --images heads --methods rlsd,latent-dps --mask mask.png",
        "rsd compare --images heads --config configs/compare/heads.yaml",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "images config shard",
        "what is compared": "methods tasks mask mask_hole box kernel blur quality peak operator downsample sigma_v fit",
        "priors": "prior pixel_prior particles draw keep seed",
        "speed and memory": "steps device dtype autocast chunk memory",
        "output": "out metrics div_features fid_features",
    }

    methods: tuple[str, ...] = ("rlsd", "latent-red-diff", "latent-dps", "psld")
    """Methods, separated by commas or spaces (see `rsd methods`)."""
    tasks: tuple[str, ...] = ()
    """Tasks, likewise (see `rsd tasks`); sr4:8 takes the first 8 images only (default: the task that --mask, --box,
    --operator or --kernel implies, else inpaint_half_face)."""
    images: Path | None = None
    """A folder of clean images (default: none; required)."""
    out: Path = Path("runs/compare")
    """The folder to write to: compare.json, compare.csv, compare.md, grid.png, cells/."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: none)."""
    prior: str = "heads"
    """The prior of all methods but those in pixel space: a built-in name, a hub id, or a local folder."""
    pixel_prior: str = "heads-pixels"
    """The prior of the methods in pixel space."""
    particles: Annotated[int | None, Flag(short="-n")] = None
    """N, samples of each method (default: the packaged number)."""
    draw: int | None = None
    """Run M particles of each method, and keep only the N that differ most among those that fit, see `rsd restore
    --help` (default: keep all that run)."""
    keep: int | None = None
    """With --draw: N, how many samples are kept (default: -n)."""
    steps: int | None = None
    """Steps of every method, by its --preset for that many if it has one (default: those of its packaged settings,
    each with its own budget)."""
    shard: str | None = None
    """K/N: run only every N-th pair of a method and a task, from the K-th (0 ... N-1), and write no table: for several
    processes that share --out. The same command without it afterwards writes the table (default: all pairs)."""
    seed: int = 0
    """Seed of all random numbers."""
    sigma_v: float | None = None
    """Standard deviation of the measurement noise (default: the packaged one)."""
    metrics: tuple[Literal["lpips", "dists", "fid"], ...] = ()
    """Figures that need networks of their own; fid is also measured if the runs are finished."""
    div_features: str | None = None
    """Features that Div is measured on (default: auto, see `rsd restore --help`)."""
    fid_features: str | None = None
    """Features that the Frechet distance compares (default: auto, those of Div)."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1 ... (default: auto)."""
    dtype: str | None = None
    """Precision of the networks (default: the packaged one, float32 if it names none)."""
    autocast: bool = False
    """Run the networks in bfloat16: faster if the processor or the GPU supports it; pixels change by rounding."""
    chunk: int | None = None
    """Particles in one network pass (default: as --memory decides)."""
    memory: str | None = None
    """auto, fast, flat, lean: see `rsd restore --help` (default: auto)."""

    def __post_init__(self) -> None:
        """Resolve the default task."""
        implied = implied_task({name: getattr(self, name) for name in IMPLYING})
        self.tasks = self.tasks or (implied or "inpaint_half_face",)

    def prior_of(self, method: str) -> str:
        """Return the prior that a method runs on."""
        return self.pixel_prior if METHODS[method].space == "pixels" else self.prior

    @staticmethod
    def flag_of(method: str) -> str:
        """Return the flag that names that prior."""
        return "--pixel-prior" if METHODS[method].space == "pixels" else "--prior"

    def sizes(self) -> dict[str, int]:
        """Return the pixels a side of each prior that a method runs on. Raise what ``image_size`` raises for a prior
        that is not available."""
        return {prior: image_size(prior) for prior in dict.fromkeys(map(self.prior_of, self.methods))}

    @property
    def whole(self) -> bool:
        """Whether all priors take any size and nothing is cropped, so that images are compared at their own."""
        return self.fit in ("auto", "whole") and all(map(takes_any_size, map(self.prior_of, self.methods)))

    @property
    def reference(self) -> str:
        """The prior whose pixels srK counts: --prior if any method runs on it."""
        return self.prior if self.prior in map(self.prior_of, self.methods) else self.pixel_prior

    def check(self) -> None:
        """Split the lists. Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        for name in ("methods", "tasks"):
            values = tuple(part for text in getattr(self, name) for part in text.split(",") if part)
            values = tuple(map(method_name if name == "methods" else _task, values))
            setattr(self, name, values)
            if not values:
                raise ValueError(f"{name} is empty; give at least one.")
            if len({text.partition(":")[0] for text in values}) < len(values):
                raise ValueError(f"{name} {' '.join(values)}: one is given twice.")
        for method in self.methods:
            check_method(method)
        shard(self.shard)
        tasks = {split_task(text)[0] for text in self.tasks}
        for name, owners in REQUIRED.items():
            if getattr(self, name) is None and (lone := tasks.intersection(owners)):
                raise ValueError(f"Task {lone.pop()} needs --{name}.")
        if self.mask == ALPHA:
            raise ValueError("--mask alpha is for damaged images, but rsd compare takes clean ones; give a mask file.")
        if self.images is None:
            raise ValueError("compare needs --images, a folder of clean images; `rsd heads --out heads` writes one.")
        if not self.images.is_dir():
            raise FileNotFoundError(f"{self.images} is no folder of images; check the path.")
        for path in (self.mask, self.kernel):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")

    @property
    def unread(self) -> Unread:
        """The operator's options that none of the tasks reads."""
        tasks = [split_task(text)[0] for text in self.tasks]
        why = f"the task{'s are' if len(tasks) > 1 else ' is'} {', '.join(tasks)}"
        names = [name for name in READ_BY_SOME if not any(reads(task, name) for task in tasks)]
        found = {name: (tasks_reading(name), why) for name in names}
        return found | unread_particles(self.particles, self.keep)


def _task(text: str) -> str:
    task, colon, first = text.partition(":")
    return f"{task_name(task)}{colon}{first}"
