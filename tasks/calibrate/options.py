"""The options of ``rsd calibrate``. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups
from rsd.runs.settings import shard
from rsd.tasks.inverse.compare.options import Compare
from rsd.tasks.inverse.methods import METHODS, check_method, method_name
from rsd.tasks.inverse.names import is_task, task_name, unknown_task


@dataclass(kw_only=True)
class Calibrate:
    """Compare the spread of samples with exact posteriors, on built-in heads.

    The generator of the heads is known, so the probability of everything that a measurement hides is known. Each method
    restores the same degraded heads many times; the frequencies in its samples, and the width of their spread, are
    compared with the exact posterior. Exact draws are scored beside them: they show what chance and the classifier
    alone do. The same command again resumes where it stopped.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd calibrate --heads 4 -n 16 --steps 20  # a quick look, minutes",
        "rsd calibrate --methods proximal-guidance,psld,rlsd --gammas 0,8 --heads 16 -n 32",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "task heads first config shard",
        "what is compared": "methods gammas prior pixel_prior particles seed prior_draws",
        "speed and memory": "steps device dtype chunk memory",
        "output": "out",
    }

    methods: tuple[str, ...] = ("proximal-guidance", "rlsd", "psld")
    """Methods, separated by commas or spaces (see `rsd methods`)."""
    gammas: tuple[float, ...] = ()
    """Weights of the repulsion for the methods that have one; each is a row of its own (default: the packaged ones)."""
    task: str = "inpaint_half_face"
    """What is hidden, see `rsd tasks`; it must leave at least one attribute open."""
    heads: int = 16
    """Number of held-out heads, all facing the camera."""
    first: int = 0
    """Number of the first held-out head."""
    out: Path = Path("runs/calibrate")
    """The folder to write to: calibration.json, calibration.csv, calibration.html, plots, heads/, cells/."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: none)."""
    prior: str = "heads"
    """The prior of all methods but those in pixel space, one over heads."""
    pixel_prior: str = "heads-pixels"
    """The prior of the methods in pixel space."""
    particles: Annotated[int, Flag(short="-n")] = 32
    """N, samples of each method and head."""
    prior_draws: int = 0
    """Draws from the prior without a measurement, to see whether the prior itself has the generator's frequencies."""
    steps: int | None = None
    """Steps of every method, by its --preset for that many if it has one (default: those of its packaged settings)."""
    shard: str | None = None
    """K/N: run only every N-th pair of a method and a gamma, from the K-th (0 ... N-1), and write no tables: for
    several processes that share --out. The same command without it afterwards writes them (default: all)."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1 ... (default: auto)."""
    dtype: str | None = None
    """Precision of the networks (default: the packaged one, float32 if it names none)."""
    chunk: int | None = None
    """Particles in one network pass (default: as --memory decides)."""
    memory: str | None = None
    """auto, fast, flat, lean: see `rsd restore --help` (default: auto)."""

    def check(self) -> None:
        """Split the methods. Raise ValueError, in one sentence, for a value that cannot work."""
        names = [part for text in self.methods for part in text.split(",") if part]
        self.methods = tuple(map(method_name, names))
        self.task = task_name(self.task)
        if not is_task(self.task):
            raise unknown_task(self.task)
        for method in self.methods:
            check_method(method)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods is {' '.join(self.methods) or 'empty'}; give each method once.")
        for name, least in (("heads", 1), ("first", 0), ("particles", 2), ("prior_draws", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")
        if not all(math.isfinite(gamma) for gamma in self.gammas) or len(set(self.gammas)) < len(self.gammas):
            raise ValueError(f"gammas are {' '.join(map(str, self.gammas))}; give finite numbers, each once.")
        if self.gammas and not any("gamma" in METHODS[method].uses for method in self.methods):
            raise ValueError(f"None of the methods {', '.join(self.methods)} has a gamma; leave --gammas out.")
        for prior in (self.prior, self.pixel_prior):
            if not over_heads(prior):
                raise ValueError(f"{prior} is no prior over heads, whose posterior is known; leave --prior out.")
        shard(self.shard)

    @property
    def compare(self) -> Compare:
        """The comparison whose runs are needed."""
        names = ("methods", "prior", "pixel_prior", "particles", "steps", "seed", "device", "dtype", "chunk", "memory")
        compare = Compare(
            images=self.out / "heads", tasks=(self.task,), out=self.out, **{name: getattr(self, name) for name in names}
        )
        compare.check()
        return compare
