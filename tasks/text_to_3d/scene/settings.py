"""The settings of a scene and of how it is seen: each field once, with its default, help and check, for options and
renderers alike. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rsd.runs.options import NumberChecks
from rsd.runs.words import match_name, unknown_name

ENCODINGS = ("grid", "hash", "frequency")
RENDERERS = ("dense", "packed")
INTERACTIONS = ("scenes", "views")
PLACES = ("drawn", "fixed")
OPTIMISERS = ("adam", "fit")
VIEW_NOISES = ("own", "alike")
BACKGROUNDS = ("white", "gray", "black", "random", "learned", "plain")


def check_names(settings: Any, **choices: tuple[str, ...]) -> None:
    """Normalise the names in these fields. Raise ValueError for an unknown one."""
    for name, names in choices.items():
        setattr(settings, name, match_name(getattr(settings, name), names))
        if getattr(settings, name) not in names:
            raise unknown_name(name.replace("_", " "), getattr(settings, name), names)


@dataclass(frozen=True)
class FieldSizes:
    """Sizes of a field's networks and its initial density, which no option sets.

    ``grid_features``: values at a corner of the dense grid; ``features_per_level``, ``base_resolution``: tinycudann's
    names. ``width``, ``depth``: hidden layers of the network behind a grid; ``frequency_width``, ``frequency_depth``:
    behind the frequencies, which store nothing themselves. ``blob_height``, ``blob_radius`` (a fraction of the bound):
    the initial density.
    """

    grid_features: int = 4
    features_per_level: int = 2
    base_resolution: int = 16
    width: int = 32
    depth: int = 1
    frequency_width: int = 64
    frequency_depth: int = 3
    blob_height: float = 10.0
    blob_radius: float = 0.5


@dataclass(kw_only=True)
class FieldSettings:
    """The field of a scene."""

    sizes: ClassVar[FieldSizes] = FieldSizes()

    encoding: str = "grid"
    """What a scene is stored in: grid (dense, for CPUs), hash (tinycudann's, on CUDA by tinycudann if it is installed)
    or frequency (sines and a network)."""
    grid: tuple[int, ...] = (8, 16, 32, 64)
    """grid: corners a side of each level."""
    levels: int = 16
    """hash: number of grids; the coarsest has 16 corners a side."""
    log2_hashmap_size: int = 19
    """hash: a grid has at most 2 to this power entries."""
    per_level_scale: float = 1.447269237440378
    """hash: ratio of the resolutions of successive grids."""
    octaves: int = 6
    """frequency: number of sines, of 1, 2, 4 ... half waves across the scene."""
    blob: float = 1.0
    """Size of the initial density; 1 is a ball of half the cube's size."""
    bound: float = 1.8
    """Half the side of the cube that holds a scene, in the units of the cameras' distance."""

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot run."""
        check_names(self, encoding=ENCODINGS)
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"bound is {self.bound}; give a finite number above 0.")
        if not 1 <= self.per_level_scale < math.inf:
            raise ValueError(f"per_level_scale is {self.per_level_scale}; give a finite number, 1 or more.")
        finest = 4 + (self.levels - 1) * math.log2(self.per_level_scale)
        if finest > 24:  # float32 cannot distinguish its corners
            raise ValueError(
                f"levels is {self.levels} and per_level_scale {self.per_level_scale:g}, whose finest grid has "
                f"2^{finest:.0f} corners a side; lower one of them, for 2^24 at most."
            )
        if not self.grid or min(self.grid) < 2:
            raise ValueError(f"grid is {self.grid}; give at least one number, each 2 or more.")


@dataclass(kw_only=True)
class RenderSettings:
    """How rays are sampled."""

    shade_above: ClassVar[float] = 1e-3
    """Samples of less weight are not shaded, since normals cost ten times as much as the rest; 0: all are."""

    samples: int = 32
    """Samples on a ray."""
    fine: int = 0
    """More samples on a ray where the first found density; the packed renderer's steps are as short as with both."""

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError for no samples."""
        if self.samples < 1 or self.fine < 0:
            raise ValueError(f"samples is {self.samples} and fine {self.fine}; give at least 1 and 0.")


@dataclass(kw_only=True)
class CameraSettings:
    """Ranges from which cameras are drawn uniformly. The defaults are the cameras of the built-in heads (distance 8, a
    picture 3.2 high at the origin); DreamFusion's are closer, with wider lenses and elevations from -10 to 90."""

    cameras: str = "drawn"
    """Where the cameras are: drawn (anew for each step), or fixed (the same throughout, evenly around, alternately at a
    third and two thirds of the elevation)."""
    azimuth: tuple[float, float] = (-180.0, 180.0)
    """Cameras: from and to, in degrees; 0 looks at the face, 90 at its left ear."""
    elevation: tuple[float, float] = (-10.0, 30.0)
    """Cameras: from and to, in degrees."""
    distance: tuple[float, float] = (8.0, 8.0)
    """Cameras: nearest and farthest from the centre."""
    fov: tuple[float, float] = (22.0, 23.3)
    """Cameras: narrowest and widest angle of the picture, in degrees."""

    @property
    def mean_distance(self) -> float:
        """The mean distance."""
        return sum(self.distance) / 2

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError for an unknown place, and for ranges without cameras."""
        check_names(self, cameras=PLACES)
        limits = {"azimuth": (-360, 360), "elevation": (-89, 89), "distance": (1e-3, math.inf), "fov": (1, 179)}
        for name, (low, high) in limits.items():
            first, last = getattr(self, name)
            if not (low <= first <= last <= high and math.isfinite(last)):
                at_most = "" if high == math.inf else f" <= {high}"
                raise ValueError(f"{name} is {(first, last)}; give LO HI with {low:g} <= LO <= HI{at_most}.")


@dataclass(kw_only=True)
class LightSettings:
    """Probabilities and strengths of the lights. The defaults are the light of the built-in heads; DreamFusion has half
    of its lit steps textureless, ambient 0.1, diffuse 0.9, and a lamp anywhere (light_up 0, light_spread 1)."""

    ambient_until: float = 0.2
    """Light: the share of the run, from its start, with ambient light only."""
    shaded: float = 0.75
    """Light: probability of a lamp after that."""
    textureless: float = 0.0
    """Light: probability that a step with a lamp leaves out colours."""
    ambient: float = 0.52
    """Light: strength of ambient light beside a lamp."""
    diffuse: float = 0.5
    """Light: strength of the lamp."""
    light_up: float = 0.45
    """Light: mean height of the lamp above the camera, as a share of its distance."""
    light_spread: float = 0.15
    """Light: standard deviation of the lamp's position, as a share of its distance."""

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError for probabilities outside [0, 1]."""
        for name in ("ambient_until", "shaded", "textureless"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1.")


@dataclass(kw_only=True)
class RegulariserSettings:
    """Weights of the regularisers, for score gradients of the size that 64 x 64 px give."""

    orientation: float = 100.0
    """Weight against visible surfaces that face away from the camera, at the end of the run; it grows from 0.01 of it
    (DreamFusion, B.3)."""
    sparsity: float = 1.0
    """Weight against fog: of sqrt(opacity^2 + 0.01)."""
    opacity: float = 0.0
    """Weight against half-transparent surfaces: of the opacity's entropy."""
    z_variance: float = 0.0
    """Weight against thick surfaces: of the depth's variance where the opacity is above a half."""


@dataclass(kw_only=True)
class SceneSettings(
    FieldSettings, RenderSettings, CameraSettings, LightSettings, RegulariserSettings, NumberChecks
):  # fmt: skip
    """The settings of scenes and of their rendering."""

    LEAST = {
        "fine": 0, **dict.fromkeys(("views", "samples", "views_at_once", "resolution", "levels"), 1),
        **dict.fromkeys(("log2_hashmap_size", "octaves", "fit_steps", "fit_rays"), 1),
    }  # fmt: skip
    POSITIVE = frozenset({
        "lr_background", "orientation", "sparsity", "opacity", "z_variance", "ambient", "diffuse", "light_up",
        "light_spread",
    })  # fmt: skip
    NONZERO = frozenset({"lr"})

    renderer: str = "dense"
    """dense (the same number of samples on each ray), or packed (samples only where a scene has density: for scenes of
    many samples; on CUDA by nerfacc if it works there)."""
    background: str = "learned"
    """What is behind a scene: white, gray, black, random (another colour each step), learned (a small network) or plain
    (one learned colour)."""
    interaction: str = "scenes"
    """What repels: scenes (N scenes seen by one camera), or views (one scene's views, as in the authors' released
    program)."""
    views: int = 1
    """V, cameras a step, which all scenes share."""
    view_noise: str = "own"
    """The first noise of a scene's views: own (independent), or alike (the same and mirror-symmetric: views begin with
    the same colours, and no view begins with a side)."""
    views_at_once: int | None = None
    """Views of a scene that are rendered with gradient at once (default: all); fewer need less memory."""
    resolution: int | None = None
    """Pixels a side that are rendered, and enlarged to the prior's (default: the prior's)."""
    optimiser: str = "adam"
    """How a scene follows its pictures' gradients: adam (a step of Adam along them) or fit (regression on the pictures'
    denoised estimates)."""
    fit_steps: int = 10
    """fit: steps of Adam for each set of estimates; the first takes 4 times as many, the last 6 times."""
    fit_lead: float = 0.25
    """fit: share of the run, from its start, in which only the views straight from the front and the back are fitted; a
    side view does not say which side it shows, so the others begin with what the scene shows from there."""
    fit_rays: int = 2048
    """fit: rays in each of these steps, drawn from all views."""
    lr: float = 0.01
    """Adam's learning rate for the scenes."""
    lr_background: float = 0.001
    """Adam's learning rate for learned backgrounds."""

    def check_settings(self) -> None:
        """Raise ValueError, in one sentence, for a value that cannot run."""
        check_names(
            self,
            interaction=INTERACTIONS,
            renderer=RENDERERS,
            background=BACKGROUNDS,
            optimiser=OPTIMISERS,
            view_noise=VIEW_NOISES,
        )
        self.check_numbers()
        if not 0 <= self.fit_lead <= 1:
            raise ValueError(f"fit_lead is {self.fit_lead}; give a share of the run from 0 to 1.")
        for part in (FieldSettings, RenderSettings, CameraSettings, LightSettings):
            part.check_settings(self)
