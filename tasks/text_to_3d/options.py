"""The flags of ``rsd text-to-3d`` and the keys of its YAML files, checked before anything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rsd.priors import over_heads
from rsd.runs.flags import Flag, Groups, is_assignment
from rsd.runs.words import known, same

from .names import BACKGROUNDS, CONVENTIONS, ENCODINGS, EVERYDAY, INTERACTIONS, MESHES, METHODS, RENDERERS, VIEWS

COUNTS = (
    "particles", "steps", "views", "checkpoint_every", "turntable", "samples", "lora_rank", "chunk", "views_at_once",
    "resolution", "levels", "log2_hashmap_size", "octaves",
)  # fmt: skip
WEIGHTS = (
    "guidance", "lr", "lr_background", "lr_phi", "orientation", "sparsity", "opacity", "z_variance", "ambient",
    "diffuse", "light_up", "light_spread",
)  # fmt: skip
READ = {
    "grid": ("grid",), "hash": ("levels", "log2_hashmap_size", "per_level_scale"), "frequency": ("octaves",),
}  # fmt: skip
"""The fields that each encoding reads."""
SHARES = ("ambient_until", "shaded", "textureless")
SMALLEST_MESH, SMALLEST_PICTURE = 8, 16


@dataclass(kw_only=True)
class TextTo3D:
    """Make N different scenes of each prompt by score distillation with repulsion: turntables, meshes, pictures.

    Settings come from the packaged configuration of the method and prior, then --config FILE, then the flags. The
    defaults below are those of sds on the built-in heads (a run's config.yaml tells what it used).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'rsd text-to-3d "a man with a beard" -n 2',
        "rsd text-to-3d --prompts prompts.txt --mesh obj",
        'rsd text-to-3d "a fox" --prior DeepFloyd/IF-I-XL-v1.0 --device cuda --mp4',
    )
    GROUPS: ClassVar[Groups] = {
        "input": "prompt prompts allow_empty negative_prompt view_words view_prompts config resume",
        "method and prior": "method prior revision particles seed",
        "quality": "gamma interaction window features guidance threshold background",
        "speed and memory": "steps resolution device dtype chunk views_at_once engine",
        "output": "out size turntable mp4 mesh mesh_resolution mesh_threshold div_features checkpoint_every",
        "expert: distillation": "clean guidance_convention t_range lora_rank lr_phi lr lr_background",
        "expert: cameras and light": (
            "views azimuth elevation distance fov front back overhead "
            "ambient_until shaded textureless ambient diffuse light_up light_spread"
        ),
        "expert: scenes": (
            "encoding grid levels log2_hashmap_size per_level_scale octaves bound renderer samples fine "
            "orientation sparsity opacity z_variance"
        ),
    }

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to make; several prompts are one run each. The view is no part of it: its words are added to it."""
    prompts: Path | None = None
    """A text file of prompts, one a line, # begins a comment (default: those of the command line)."""
    allow_empty: bool = False
    """An empty prompt is meant: only the view is told."""
    out: Path | None = None
    """The run folder; by default runs/text-to-3d/<prompt>-<method>."""
    method: str = "sds"
    """sds, or vsd (against a score learned along the way)."""
    prior: str = "heads-pixels"
    """A built-in name, a hub id or a local folder."""
    revision: str | None = None
    """Revision of a hub model (default: the newest)."""
    config: Path | None = None
    """A YAML file of these fields; flags win over it (default: only the packaged settings)."""
    resume: bool = False
    """Go on with an interrupted run, or add to a folder of runs; of what is done only the pictures, meshes and Div
    that other flags ask for are made, of the scenes it kept."""

    particles: Annotated[int, Flag(short="-n")] = 4
    """N, how many scenes."""
    interaction: str = "scenes"
    """Who repel one another: scenes (N scenes seen by one camera), or views (one scene's views, as in the authors'
    released program)."""
    steps: int = 400
    """Steps of the algorithm."""
    seed: int = 0
    """Every random number follows from it."""
    gamma: float = 8.0
    """Weight of the repulsion; more gives more different scenes, 0 none, below 0 attracts."""
    window: tuple[float, float] = (0.0, 1.0)
    """Repel only while (t+1)/T lies in it; 1 is pure noise."""
    features: str = "auto"
    """What the repulsion compares: auto (the prior's own), pixels, heads, heads-layers, lpips, a hub id such as
    facebook/dino-vits16, a folder, or module:function."""
    clean: bool = False
    """Compare the pictures themselves, not the noisy ones."""
    guidance: float = 7.5
    """Classifier-free guidance s, in the convention that --guidance-convention names; 1 of diffusers' is none."""
    guidance_convention: str = "diffusers"
    """diffusers: uncond + s (text - uncond); dreamfusion: text + s (text - uncond), whose 20 is 21 of diffusers'."""
    threshold: float | None = None
    """Priors of pixels: the share of a guess's entries that dynamic thresholding leaves as they are; the others are cut
    where guidance has driven them beyond black and white (default: none are)."""
    negative_prompt: str = ""
    """What not to show: takes the place of the unconditional prompt."""
    view_words: bool = True
    """Append ", front view" and so on to the prompt, by the camera."""
    view_prompts: Annotated[tuple[str, ...], Flag(own=is_assignment)] = ()
    """Whole prompts for some views instead, each VIEW=TEXT of front, side, back, overhead (default: the
    prompt and the view's words)."""
    front: float = 45.0
    """Cameras within so many degrees of azimuth of the face are told the front (figures keep to the default)."""
    back: float = 45.0
    """Cameras within so many degrees of the back are told the back (figures keep to the default)."""
    overhead: float = 60.0
    """Cameras from this elevation on are told that they are overhead (figures keep to the default)."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest timestep, in units of T; drawn anew each step."""
    lora_rank: int = 4
    """vsd: rank of the learned score's adapters."""
    lr_phi: float = 1e-4
    """vsd: AdamW's learning rate for the learned score."""

    encoding: str = "grid"
    """What a scene is stored in: grid (dense, for CPUs), hash (tinycudann's, on CUDA by tinycudann if it is there) or
    frequency (sines and a network)."""
    grid: tuple[int, ...] = (8, 16, 32, 64)
    """grid: corners a side of each level."""
    levels: int = 16
    """hash: how many grids, the coarsest of 16 corners a side."""
    log2_hashmap_size: int = 19
    """hash: a grid has at most 2 to this power entries."""
    per_level_scale: float = 1.447269237440378
    """hash: how much finer each grid is than the one before."""
    octaves: int = 6
    """frequency: sines of 1, 2, 4 ... half waves across the scene, so many."""
    bound: float = 1.8
    """Half the side of the cube that holds a scene, in the units of the cameras' distance."""
    samples: int = 32
    """Samples on a ray."""
    fine: int = 0
    """More samples on a ray where the first found something; the packed renderer's steps are as short as if it took
    both."""
    renderer: str = "dense"
    """dense (the same number of samples on each ray), or packed (samples only where a scene has something: for scenes
    of many samples; on CUDA by nerfacc if it works there)."""
    background: str = "learned"
    """What is behind a scene: white, gray, black, random (another colour each step) or learned (a small network)."""
    lr: float = 0.01
    """Adam's learning rate for the scenes."""
    lr_background: float = 0.001
    """Adam's learning rate for learned backgrounds."""
    orientation: float = 100.0
    """Weight against surfaces that face away from who sees them, at the end of the run."""
    sparsity: float = 1.0
    """Weight against fog."""
    opacity: float = 0.0
    """Weight against what is half there."""
    z_variance: float = 0.0
    """Weight against thick surfaces."""

    views: int = 1
    """V, cameras a step, which all scenes share."""
    azimuth: tuple[float, float] = (-180.0, 180.0)
    """Cameras: from and to, in degrees; 0 looks at the face, 90 at its left ear."""
    elevation: tuple[float, float] = (-10.0, 30.0)
    """Cameras: from and to, in degrees."""
    distance: tuple[float, float] = (8.0, 8.0)
    """Cameras: nearest and farthest from the centre."""
    fov: tuple[float, float] = (22.0, 23.3)
    """Cameras: narrowest and widest angle of the picture, in degrees."""
    ambient_until: float = 0.2
    """Light: the share of the run, from its start, that has ambient light alone."""
    shaded: float = 0.75
    """Light: probability of a lamp after that."""
    textureless: float = 0.0
    """Light: probability that a step with a lamp leaves out colours."""
    ambient: float = 0.52
    """Light: strength of ambient light beside a lamp."""
    diffuse: float = 0.5
    """Light: strength of the lamp."""
    light_up: float = 0.45
    """Light: how far above the camera the lamp is in the mean, as a share of its distance."""
    light_spread: float = 0.15
    """Light: how far the lamp strays from there, likewise."""
    resolution: int | None = None
    """Pixels a side that are rendered, and enlarged to what the prior sees (default: as many as it sees)."""

    size: int | None = None
    """Pixels of the written pictures (default: the prior's, 64 at least)."""
    turntable: int = 36
    """Frames of the turntable."""
    mp4: bool = False
    """Write the turntable as MP4 too; needs pip install '.[video]'."""
    mesh: Literal["glb", "obj", "ply"] = "glb"
    """Format of the mesh."""
    mesh_resolution: int = 96
    """Samples a side of the mesh."""
    mesh_threshold: float | None = None
    """Density of the mesh's surface (default: chosen for each scene, and told)."""
    div_features: str = "auto"
    """What Div is measured on: auto (heads: the attribute classifier, else facebook/dinov2-small), or as --features."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Precision of the prior's networks."""
    chunk: int = 2
    """Pictures a network sees at once; more are a little quicker and need more memory, the results are the same."""
    views_at_once: int | None = None
    """Views of a scene that are rendered with gradient at once (default: all); fewer need less memory."""
    engine: Literal["local", "ray"] = "local"
    """Who makes several runs: this process (with a launcher, its processes), or ray, the workers of a Ray cluster
    (docs/scale.md)."""
    checkpoint_every: int = 50
    """Steps between checkpoints, each with a fresh contact.png."""

    @property
    def idle(self) -> tuple[str, ...]:
        """The fields that the encoding does not read."""
        return tuple(name for encoding, names in READ.items() if encoding != self.encoding for name in names)

    @property
    def interacts(self) -> bool:
        """Whether any picture is repelled by another."""
        return self.gamma != 0 and (self.particles if self.interaction == "scenes" else self.views) > 1

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        if self.features != "auto":
            return self.features
        return "heads" if over_heads(self.prior) else "facebook/dino-vits16"

    @property
    def own_prompts(self) -> Mapping[str, str]:
        """``view_prompts`` by view. Raises ValueError for one that is not VIEW=TEXT, or a view told twice."""
        found: dict[str, str] = {}
        for entry in self.view_prompts:
            view, sign, text = entry.partition("=")
            if not sign or not text.strip():
                raise ValueError(f'--view-prompts "{entry}" is not VIEW=TEXT; write for example "back=long blue hair".')
            if view not in VIEWS:
                raise known("view", view, VIEWS)
            if view in found:
                raise ValueError(f"--view-prompts tells the {view} twice; leave one of them out.")
            found[view] = " ".join(text.split())
        return found

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        choices: dict[str, Any] = {
            "method": METHODS, "interaction": INTERACTIONS, "encoding": ENCODINGS, "renderer": RENDERERS,
            "background": BACKGROUNDS,
            "guidance_convention": CONVENTIONS, "mesh": MESHES,
        }  # fmt: skip
        for name, names in choices.items():
            setattr(self, name, same(getattr(self, name), names))
            if getattr(self, name) not in names:
                everyday = EVERYDAY if name == "method" else None
                raise known(name.replace("_", " "), getattr(self, name), names, everyday)
        self._numbers()
        self._ranges()
        self._together()
        for path in (self.config, self.prompts):
            if path and not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the path.")

    def _numbers(self) -> None:
        least = dict.fromkeys(COUNTS, 1)
        least |= {"seed": 0, "fine": 0, "mesh_resolution": SMALLEST_MESH, "size": SMALLEST_PICTURE}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} is {value}; give {low} or more.")
        for name in WEIGHTS:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; give a finite number, 0 or more.")
        if not math.isfinite(self.gamma):
            raise ValueError(f"gamma is {self.gamma}; give a finite number (below 0 attracts).")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1.")
        for name in ("bound", "mesh_threshold"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; give a finite number above 0.")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a share above 0, at most 1, or None.")
        if not 1 <= self.per_level_scale < math.inf:
            raise ValueError(f"per_level_scale is {self.per_level_scale}; give a finite number, 1 or more.")
        finest = 4 + (self.levels - 1) * math.log2(self.per_level_scale)
        if finest > 24:  # float32 could not tell its corners apart
            raise ValueError(
                f"levels is {self.levels} and per_level_scale {self.per_level_scale:g}, whose finest grid has "
                f"2^{finest:.0f} corners a side; give less of one, for 2^24 at most."
            )
        if not self.grid or min(self.grid) < 2:
            raise ValueError(f"grid is {self.grid}; give at least one number, each 2 or more.")

    def _ranges(self) -> None:
        for name in ("window", "t_range"):
            low, high = getattr(self, name)
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name} is {(low, high)}; give LO HI with 0 <= LO < HI <= 1.")
        limits = {"azimuth": (-360, 360), "elevation": (-89, 89), "distance": (1e-3, math.inf), "fov": (1, 179)}
        for name, (low, high) in limits.items():
            first, last = getattr(self, name)
            if not (low <= first <= last <= high and math.isfinite(last)):
                at_most = "" if high == math.inf else f" <= {high}"
                raise ValueError(f"{name} is {(first, last)}; give LO HI with {low:g} <= LO <= HI{at_most}.")
        if not -90 <= self.overhead <= 90:
            raise ValueError(f"overhead is {self.overhead}; give degrees from -90 to 90.")
        if self.front < 0 or self.back < 0 or not self.front + self.back <= 180:
            raise ValueError(f"front is {self.front} and back {self.back}; together they must not exceed 180 degrees.")

    def _together(self) -> None:
        """Fields that do not go together."""
        _ = self.own_prompts
        if self.interaction == "views" and self.views < 2 and self.gamma:
            raise ValueError("With --interaction views a scene's views repel, but it has one; give --views 2 or more.")
        none = {"diffusers": 1, "dreamfusion": 0}[self.guidance_convention]
        if self.guidance == none and self.negative_prompt:
            raise ValueError(
                f'The negative prompt "{self.negative_prompt}" has no effect without guidance (guidance is {none}); '
                "give a larger --guidance or leave it out."
            )
