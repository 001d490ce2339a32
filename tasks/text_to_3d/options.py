"""The flags of ``rsd text-to-3d`` and the keys of its YAML files, checked before anything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rsd.runs.flags import Flag, Groups, is_assignment
from rsd.runs.options import (
    DivOptions,
    FeatureOptions,
    ParticleSettings,
    PriorOptions,
    PromptOptions,
    RepulsionSettings,
    RunOptions,
    TextSettings,
    Unread,
    features_of,
    readers,
)
from rsd.runs.words import match_name, unknown_name

from .names import BACKGROUNDS, CONVENTIONS, ENCODINGS, INTERACTIONS, MESHES, METHODS, RENDERERS, SYNONYMS, VIEWS

READ = {
    "grid": ("grid",), "hash": ("levels", "log2_hashmap_size", "per_level_scale"), "frequency": ("octaves",),
}  # fmt: skip
"""The fields that each encoding reads."""
LEARNED = ("lora_rank", "lr_phi")
"""The fields that the method vsd reads alone."""
SHARES = ("ambient_until", "shaded", "textureless")
SMALLEST_MESH, SMALLEST_PICTURE = 8, 16


@dataclass(kw_only=True)
class Distilled(ParticleSettings, RepulsionSettings):
    """What one prompt's scenes are distilled with, beside what they are made of and what the prior is told."""

    LEAST = {**ParticleSettings.LEAST, "lora_rank": 1}
    POSITIVE = ParticleSettings.POSITIVE | {"lr_phi"}

    method: str = "sds"
    """sds, or vsd (against a score learned along the way)."""
    steps: int = 400
    gamma: float = 8.0
    """Weight of the repulsion; more gives more different scenes, 0 none, below 0 attracts."""
    clean: bool = False
    """Compare the pictures themselves, not the noisy ones."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest timestep, in units of T; drawn anew each step."""
    lora_rank: int = 4
    """vsd: rank of the learned score's adapters."""
    lr_phi: float = 1e-4
    """vsd: AdamW's learning rate for the learned score."""
    chunk: int | None = 2
    """Pictures a network sees at once; more are a little quicker and need more memory, the results are the same."""

    def __post_init__(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot run."""
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value of the settings that cannot run."""
        self.method = match_name(self.method, METHODS)
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS, SYNONYMS)
        self.check_numbers()
        low, high = self.t_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"t_range is {(low, high)}; give LO HI with 0 <= LO < HI <= 1.")


@dataclass(kw_only=True)
class TextTo3D(Distilled, TextSettings, RunOptions, PriorOptions, FeatureOptions, DivOptions, PromptOptions):
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
        "input": "prompt prompts allow_empty negative_prompt view_words view_prompts",
        "method and prior": "method",
        "quality": "gamma interaction threshold background",
        "speed and memory": "resolution views_at_once",
        "output": "size turntable mp4 mesh mesh_resolution mesh_threshold",
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

    LEAST = {
        **Distilled.LEAST, "fine": 0, "mesh_resolution": SMALLEST_MESH, "size": SMALLEST_PICTURE,
        **dict.fromkeys(("views", "turntable", "samples", "views_at_once", "resolution", "levels"), 1),
        **dict.fromkeys(("log2_hashmap_size", "octaves"), 1),
    }  # fmt: skip
    POSITIVE = Distilled.POSITIVE | {
        "lr", "lr_background", "orientation", "sparsity", "opacity", "z_variance", "ambient", "diffuse", "light_up",
        "light_spread",
    }  # fmt: skip

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to make; several prompts are one run each. The view is no part of it: its words are added to it."""
    prior: str = "heads-pixels"

    checkpoint_every: int = 50
    interaction: str = "scenes"
    """Who repel one another: scenes (N scenes seen by one camera), or views (one scene's views, as in the authors'
    released program)."""
    guidance: float = 7.5
    """Classifier-free guidance s, in the convention that --guidance-convention names; 1 of diffusers' is none."""
    guidance_convention: str = "diffusers"
    """diffusers: uncond + s (text - uncond); dreamfusion: text + s (text - uncond), whose 20 is 21 of diffusers'."""
    threshold: float | None = None
    """Priors of pixels: the share of a guess's entries that dynamic thresholding leaves as they are; the others are cut
    where guidance has driven them beyond black and white (default: none are)."""
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

    views_at_once: int | None = None
    """Views of a scene that are rendered with gradient at once (default: all); fewer need less memory."""

    def __post_init__(self) -> None:
        """Nothing: :meth:`check` says what cannot work."""

    @property
    def unread(self) -> Unread:
        """The fields that the encoding, the method or the background does not read."""
        found = {
            name: (f"--encoding {encoding}", f"the encoding is {self.encoding}")
            for encoding, names in READ.items()
            if encoding != self.encoding
            for name in names
        }
        if self.method != "vsd":
            found |= {name: (readers("method", ["vsd"]), f"the method is {self.method}") for name in LEARNED}
        if self.background != "learned":
            found["lr_background"] = ("--background learned", f"the background is {self.background}")
        return found

    @property
    def interacts(self) -> bool:
        """Whether any picture is repelled by another."""
        return self.gamma != 0 and (self.particles if self.interaction == "scenes" else self.views) > 1

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        return features_of(self.features, self.prior)

    @property
    def own_prompts(self) -> Mapping[str, str]:
        """``view_prompts`` by view. Raises ValueError for one that is not VIEW=TEXT, or a view told twice."""
        found: dict[str, str] = {}
        for entry in self.view_prompts:
            view, sign, text = entry.partition("=")
            if not sign or not text.strip():
                raise ValueError(f'--view-prompts "{entry}" is not VIEW=TEXT; write for example "back=long blue hair".')
            if view not in VIEWS:
                raise unknown_name("view", view, VIEWS)
            if view in found:
                raise ValueError(f"--view-prompts tells the {view} twice; leave one of them out.")
            found[view] = " ".join(text.split())
        return found

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        choices: dict[str, Any] = {
            "interaction": INTERACTIONS, "encoding": ENCODINGS, "renderer": RENDERERS,
            "background": BACKGROUNDS,
            "guidance_convention": CONVENTIONS, "mesh": MESHES,
        }  # fmt: skip
        for name, names in choices.items():
            setattr(self, name, match_name(getattr(self, name), names))
            if getattr(self, name) not in names:
                raise unknown_name(name.replace("_", " "), getattr(self, name), names)
        self.check_settings()
        self.check_prior()
        self._numbers()
        self._ranges()
        self._together()
        self.check_run(self.prompts)

    def _numbers(self) -> None:
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
