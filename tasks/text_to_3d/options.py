"""The settings of text to 3D, the flags of ``rsd text-to-3d`` and the keys of its YAML files. Imports nothing heavy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from rsd.runs.flags import Flag, Groups, is_assignment
from rsd.runs.options import (
    DiffusionSettings,
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
    unread_shared,
)
from rsd.runs.words import match_name, synonyms, unknown_name

from .scene.settings import SceneSettings, check_names

METHODS = ("sds", "vsd")
SYNONYMS = synonyms({
    "prolificdreamer variational": "take vsd",
    "dreamfusion default rsd repulsion scoredistillation distillation": "take sds",
    "nfsd svgd ancestral particleguidance": "it is of rsd text-to-image",
    "rlsd dps psld reddiff nonaug hybrid daps": "it is of rsd restore",
    "sd stablediffusion heads if deepfloyd": "that is a prior, for --prior",
})  # fmt: skip
"""Other names of methods, normalised, and the hint for each."""
VIEWS = ("front", "side", "back", "overhead")
TIMESTEPS = ("uniform", "annealed")
CONVENTIONS = ("diffusers", "dreamfusion")
ALTERNATIVES = re.compile(r"\{([^{}|]+(?:\|[^{}|]+)*)\}")
"""Words of which each scene draws one."""
READ = {
    "grid": ("grid",), "hash": ("levels", "log2_hashmap_size", "per_level_scale"), "frequency": ("octaves",),
}  # fmt: skip
"""The fields that each encoding reads."""
LIT = ("ambient_until", "shaded", "textureless", "ambient", "diffuse", "light_up", "light_spread", "orientation")
"""The fields that only the optimiser adam reads."""
FITTED = ("fit_steps", "fit_lead", "fit_rays")
"""The fields that only the optimiser fit reads."""
LEARNED = ("lora_rank", "lr_phi")
"""The fields that only the method vsd reads."""
SMALLEST_MESH, SMALLEST_PICTURE = 8, 16


@dataclass(kw_only=True)
class Distilled(ParticleSettings, RepulsionSettings, DiffusionSettings):
    """The settings of the distillation, apart from the scenes and the prompts."""

    LEAST = {**ParticleSettings.LEAST, "lora_rank": 1}
    POSITIVE = ParticleSettings.POSITIVE | {"lr_phi"}

    method: str = "sds"
    """sds, or vsd (with a score learned during the run)."""
    steps: int = 400
    gamma: float = 8.0
    """Weight of the repulsion; more gives more diverse scenes, 0 none, below 0 attracts."""
    clean: bool = False
    """Compare the clean pictures, not the noisy ones."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest timestep, in units of T."""
    timesteps: str = "uniform"
    """uniform (drawn anew each step) or annealed (straight down from the highest)."""
    lora_rank: int = 4
    """vsd: rank of the learned score's adapters."""
    lr_phi: float = 1e-4
    """vsd: AdamW's learning rate for the learned score."""
    chunk: int | None = 2
    """Pictures in one batch of a network; more are a little faster and need more memory, with the same results."""

    def __post_init__(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot run."""
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value of the settings that cannot run."""
        self.method = match_name(self.method, METHODS)
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS, SYNONYMS)
        check_names(self, timesteps=TIMESTEPS)
        self.check_numbers()
        low, high = self.t_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"t_range is {(low, high)}; give LO HI with 0 <= LO < HI <= 1.")


@dataclass(kw_only=True)
class PromptSettings(TextSettings):
    """The prompts of the views and their guidance."""

    guidance: float = 7.5
    """Classifier-free guidance s, in the convention that --guidance-convention names; 1 of diffusers' is none."""
    guidance_convention: str = "diffusers"
    """diffusers: uncond + s (text - uncond); dreamfusion: text + s (text - uncond), whose 20 is 21 of diffusers'."""
    perp_neg: float | None = None
    """Weight of Perp-Neg: of the negative prompt only what is perpendicular to the prompt is avoided, with this weight,
    by a third call of the network (default: the negative prompt replaces the unconditional one)."""
    threshold: float | None = None
    """Priors of pixels: the share of the denoised estimate's entries that dynamic thresholding keeps; it clips the
    others where guidance has driven them beyond black and white (default: no thresholding)."""
    view_words: bool = True
    """Append ", front view" and so on to the prompt, by the camera."""
    scene_words: str = ""
    """Words that are added to the prompt in all views of a scene, so that they agree on them, with commas between the
    parts; of {tan|brown} each scene draws one. A part is left out if the prompt has its last word, or tells its
    attribute of heads (default: none)."""
    view_prompts: Annotated[tuple[str, ...], Flag(own=is_assignment)] = ()
    """Whole prompts for some views, each VIEW=TEXT with front, side, back or overhead (default: the prompt and the
    view's words)."""
    front: float = 45.0
    """Cameras within this azimuth of the face, in degrees, have the front view (figures use the default)."""
    back: float = 45.0
    """Cameras within this azimuth of the back, in degrees, have the back view (figures use the default)."""
    overhead: float = 60.0
    """Cameras from this elevation on, in degrees, have the overhead view (figures use the default)."""

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for unknown views and conventions, and for sectors that overlap."""
        check_names(self, guidance_convention=CONVENTIONS)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a share above 0, at most 1, or None.")
        if self.perp_neg is not None and not (math.isfinite(self.perp_neg) and self.perp_neg > 0):
            raise ValueError(f"perp_neg is {self.perp_neg}; give a finite number above 0, or leave it out.")
        if not -90 <= self.overhead <= 90:
            raise ValueError(f"overhead is {self.overhead}; give degrees from -90 to 90.")
        if self.front < 0 or self.back < 0 or not self.front + self.back <= 180:
            raise ValueError(f"front is {self.front} and back {self.back}; together they must not exceed 180 degrees.")
        _ = self.own_prompts
        for part in self.scene_words.split(","):
            if not part.strip() and self.scene_words or re.search(r"[{}|]", ALTERNATIVES.sub("", part)):
                raise ValueError(
                    f'scene_words has the part "{part}"; give words with commas between the parts and alternatives as '
                    '{a|b}, for example "{tan|brown} skin, gray background".'
                )

    @property
    def own_prompts(self) -> Mapping[str, str]:
        """``view_prompts`` by view. Raises ValueError for an entry that is not VIEW=TEXT, and for a repeated view."""
        found: dict[str, str] = {}
        for entry in self.view_prompts:
            view, sign, text = entry.partition("=")
            if not sign or not text.strip():
                raise ValueError(f'--view-prompts "{entry}" is not VIEW=TEXT; write for example "back=long blue hair".')
            if view not in VIEWS:
                raise unknown_name("view", view, VIEWS)
            if view in found:
                raise ValueError(f"--view-prompts has two prompts for {view}; leave one of them out.")
            found[view] = " ".join(text.split())
        return found


@dataclass(kw_only=True)
class Settings(Distilled, PromptSettings, SceneSettings):
    """The settings of one run: the distillation, the prompts of the views, and the scenes."""

    LEAST = {**Distilled.LEAST, **SceneSettings.LEAST}
    POSITIVE = Distilled.POSITIVE | SceneSettings.POSITIVE
    NONZERO = SceneSettings.NONZERO

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value of the settings that cannot run."""
        for part in (SceneSettings, Distilled, PromptSettings):
            part.check_settings(self)
        if self.interaction == "scenes":
            self.check_interacting(self.particles, "scenes")
        else:
            self.check_interacting(self.views, "views")
        if self.optimiser == "fit" and self.background == "random":
            raise ValueError(
                "The background is random, and a scene that is fitted to pictures needs one that stays; give "
                "--background learned, or --optimiser adam."
            )

    @classmethod
    def of(cls, options: Any) -> Self:
        """Return the settings that are among other options, without gamma if nothing repels."""
        found = super().of(options)
        return found if found.interacts else replace(found, gamma=0.0)

    @property
    def interacts(self) -> bool:
        """Whether any pictures repel one another."""
        return self.gamma != 0 and (self.particles if self.interaction == "scenes" else self.views) > 1


@dataclass(kw_only=True)
class TextTo3D(Settings, RunOptions, PriorOptions, FeatureOptions, DivOptions, PromptOptions):
    """Make N different scenes of each prompt by score distillation with repulsion: turntables, meshes, pictures.

    Settings come from the packaged configuration of the method and prior, then --config FILE, then the flags; a run's
    config.yaml has the values used. With sds on the priors heads-views (the default) and heads all views of fixed
    cameras are sampled together; the defaults below are those of sds on heads-pixels, which optimises from drawn ones.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'rsd text-to-3d "a man with a beard" -n 2',
        "rsd text-to-3d --prompts prompts.txt --mesh obj",
        'rsd text-to-3d "a fox" --prior DeepFloyd/IF-I-XL-v1.0 --device cuda --mp4',
    )
    GROUPS: ClassVar[Groups] = {
        "input": "prompt prompts allow_empty negative_prompt view_words view_prompts scene_words",
        "method and prior": "method",
        "quality": "gamma interaction perp_neg threshold background",
        "speed and memory": "preset resolution views_at_once fit_steps fit_rays",
        "output": "size turntable mp4 mesh mesh_resolution mesh_faces texture mesh_threshold",
        "expert: distillation": (
            "clean guidance_convention t_range timesteps view_noise optimiser fit_lead lora_rank lr_phi lr "
            "lr_background"
        ),
        "expert: cameras and light": (
            "cameras views azimuth elevation distance fov front back overhead "
            "ambient_until shaded textureless ambient diffuse light_up light_spread"
        ),
        "expert: scenes": (
            "encoding grid blob levels log2_hashmap_size per_level_scale octaves bound renderer samples fine "
            "orientation sparsity opacity z_variance"
        ),
    }

    ABSENT: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("--draw", "--keep"), "every scene that runs is kept; give -n, and choose among the scenes in contact.png"
    )

    LEAST = {
        **Settings.LEAST,
        "mesh_resolution": SMALLEST_MESH,
        "mesh_faces": 4,
        "texture": 16,
        "size": SMALLEST_PICTURE,
        "turntable": 1,
    }
    MOST = {"mesh_resolution": 1024, "texture": 8192, "size": 4096, "turntable": 3600}

    prompt: Annotated[tuple[str, ...], Flag(positional=True)] = ()
    """What to make; several prompts are one run each. Leave the view out: its words are added to the prompt."""
    prior: str = "heads-views"
    preset: str | None = None
    """Packaged settings for a purpose: draft, with heads-views and heads, takes half the time (default: none)."""
    checkpoint_every: int = 50

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
    mesh_faces: int | None = None
    """Reduce the mesh to about this many triangles; needs pip install '.[mesh]' (default: all of them)."""
    texture: int | None = None
    """glb: pixels a side of a texture with the scene's colours, on an unwrapped mesh; needs pip install '.[mesh]'
    (default: no texture, a colour for each vertex)."""
    mesh_threshold: float | None = None
    """Density of the mesh's surface (default: the surface is where a tenth of the light is lost)."""

    def __post_init__(self) -> None:
        """Check nothing here: :meth:`check` does, when all fields are known."""

    @property
    def unread(self) -> Unread:
        """The fields that the encoding, the method, the mesh or the background does not read."""
        found = {
            name: (f"--encoding {encoding}", f"the encoding is {self.encoding}")
            for encoding, names in READ.items()
            if encoding != self.encoding
            for name in names
        }
        if not self.negative_prompt:
            found["perp_neg"] = ("--negative-prompt", "there is no negative prompt")
        if self.mesh != "glb":
            found["texture"] = ("--mesh glb", f"the mesh is {self.mesh}")
        if self.method != "vsd":
            found |= {name: (readers("method", ["vsd"]), f"the method is {self.method}") for name in LEARNED}
        if self.optimiser == "fit":
            found |= {name: ("--optimiser adam", "the optimiser is fit") for name in (*LIT, "views_at_once")}
        else:
            found |= {name: ("--optimiser fit", "the optimiser is adam") for name in FITTED}
        if self.background not in ("learned", "plain"):
            found["lr_background"] = ("--background learned or plain", f"the background is {self.background}")
        return unread_shared(self, found)

    @property
    def features_name(self) -> str:
        """The repulsion's feature map, "auto" resolved."""
        return features_of(self.features, self.prior)

    def check(self) -> None:
        """Raise ValueError or FileNotFoundError, in one sentence, for a value that cannot work."""
        self.check_settings()
        self.check_prior()
        if self.mesh_threshold is not None and not (math.isfinite(self.mesh_threshold) and self.mesh_threshold > 0):
            raise ValueError(f"mesh_threshold is {self.mesh_threshold}; give a finite number above 0.")
        if self.interaction == "views" and self.views < 2 and self.gamma:
            raise ValueError("With --interaction views a scene's views repel, but it has one; give --views 2 or more.")
        none = {"diffusers": 1, "dreamfusion": 0}[self.guidance_convention]
        if self.guidance == none and self.negative_prompt:
            raise ValueError(
                f'The negative prompt "{self.negative_prompt}" has no effect without guidance (guidance is {none}); '
                "give a larger --guidance or leave it out."
            )
        self.check_run(self.prompts)
