"""The attributes of heads, their captions, and which of them a camera can see.

*Left* and *right* are the head's own: its left side is on the right of a frontal picture. The two sides (eye, ear,
cheek) are drawn independently, so that the visible half of a face does not determine the hidden half.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "person": ("man", "woman"),
    "skin": ("pale", "tan", "brown", "green"),
    "hair": ("bald", "short", "long", "bun", "mohawk", "afro"),
    "hair_color": ("black", "brown", "blond", "red", "pink", "blue"),
    "glasses": ("none", "round", "sun"),
    "mouth": ("smile", "straight", "open"),
    "beard": ("none", "full"),
    "left_eye": ("open", "patch"),
    "right_eye": ("open", "patch"),
    "left_ear": ("plain", "ring"),
    "right_ear": ("plain", "ring"),
    "left_cheek": ("plain", "red", "blue"),
    "right_cheek": ("plain", "red", "blue"),
    "shirt": ("red", "green", "blue", "yellow", "white"),
    "background": ("white", "gray", "blue", "peach"),
}

PROBABILITIES: dict[str, tuple[float, ...]] = {
    "glasses": (0.5, 0.3, 0.2),
    "beard": (0.65, 0.35),
    "left_eye": (0.7, 0.3),
    "right_eye": (0.7, 0.3),
    "left_cheek": (0.5, 0.25, 0.25),
    "right_cheek": (0.5, 0.25, 0.25),
}

_CUMULATIVE = {a: (np.cumsum(chances) / np.cumsum(chances)[-1]).tolist() for a, chances in PROBABILITIES.items()}

VIEWS = ("front view", "side view", "back view")


@dataclass(frozen=True)
class Camera:
    """A camera on a sphere around the head; angles in degrees.

    ``azimuth`` 0 looks at the face, 90 at the head's left ear, 180 at the back; ``zoom`` 1 shows 3.2 head units.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    zoom: float = 1.0

    @property
    def direction(self) -> np.ndarray:
        """Unit vector from the head to the camera, [3]."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        return np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])

    @property
    def view(self) -> str:
        """The view word: front within 45 degrees of the face, back within 45 degrees of the back, else side."""
        a = abs((self.azimuth + 180) % 360 - 180)
        return VIEWS[0] if a <= 45 else VIEWS[1] if a <= 135 else VIEWS[2]


@dataclass(frozen=True)
class Head:
    """One head: a value for every attribute, and where the camera and the light stand."""

    values: dict[str, str]
    camera: Camera = Camera()
    light: tuple[float, float] = (0.0, 0.5)

    def __getitem__(self, attribute: str) -> str:
        return self.values[attribute]

    @property
    def codes(self) -> np.ndarray:
        """The values as indices into ATTRIBUTES, int64 [len(ATTRIBUTES)]."""
        return np.array([ATTRIBUTES[a].index(self.values[a]) for a in ATTRIBUTES])


def sample_values(rng: np.random.Generator) -> dict[str, str]:
    """Draw every attribute independently, except that only men have beards."""
    # As rng.choice(options, p=...) draws, whose conversion and checks of its arguments take most of its time.
    values = {
        a: options[bisect_right(_CUMULATIVE[a], rng.random()) if a in _CUMULATIVE else rng.integers(len(options))]
        for a, options in ATTRIBUTES.items()
    }
    if values["beard"] == "full":
        values["person"] = "man"
    return values


def log_probability(values: dict[str, str]) -> float:
    """Return the log probability of values under :func:`sample_values`; -inf for a woman with a beard."""
    total = 0.0
    for attribute, options in ATTRIBUTES.items():
        if attribute == "person" and values["beard"] == "full":
            if values["person"] == "woman":
                return -math.inf
            continue
        chances = PROBABILITIES.get(attribute)
        total += math.log(chances[options.index(values[attribute])] if chances else 1 / len(options))
    return total


def sample_head(rng: np.random.Generator, view: str = "any") -> Head:
    """Draw a head. ``view``: "frontal" (facing the camera), "any" (mostly faces) or "all" (uniform azimuth)."""
    values = sample_values(rng)
    if view == "frontal":
        azimuth, elevation = 0.0, 0.0
    elif view == "all":
        azimuth, elevation = rng.uniform(-180, 180), rng.uniform(-10, 30)
    elif view == "any":
        spread = rng.choice([8.0, 45.0, 180.0], p=[0.5, 0.3, 0.2])
        azimuth, elevation = rng.uniform(-spread, spread), rng.uniform(-8, 15)
    else:
        raise ValueError(f'Unknown view "{view}"; use "frontal", "any" or "all".')
    zoom = rng.uniform(0.97, 1.03)
    return Head(values, Camera(azimuth, elevation, zoom), (rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.7)))


# The outward normal where an attribute is, and the smallest cosine to the camera direction at which it is visible.
_SEEN_FROM: dict[str, tuple[tuple[float, float, float], float]] = {
    "person": ((0, -0.2, 1), 0.4),
    "mouth": ((0, -0.2, 1), 0.4),
    "glasses": ((0, 0, 1), 0.25),
    "beard": ((0, -0.2, 1), 0.1),
    "left_eye": ((0.4, 0, 0.92), 0.4),
    "right_eye": ((-0.4, 0, 0.92), 0.4),
    "left_ear": ((0.97, 0, 0.2), -0.05),
    "right_ear": ((-0.97, 0, 0.2), -0.05),
    "left_cheek": ((0.55, -0.1, 0.82), 0.4),
    "right_cheek": ((-0.55, -0.1, 0.82), 0.4),
}
_NORMALS = {a: (np.array(n) / np.linalg.norm(n), least) for a, (n, least) in _SEEN_FROM.items()}
ON_FACE = tuple(attribute for attribute, (normal, _) in _SEEN_FROM.items() if normal[2] > 0.5)
"""Attributes that are visible only if the face is: those on the front of a head, not the ears."""


def visible(values: dict[str, str], camera: Camera) -> dict[str, bool]:
    """Return which attributes are visible from this camera."""
    seen = {a: True for a in ATTRIBUTES}
    direction = camera.direction
    for attribute, (normal, least) in _NORMALS.items():
        seen[attribute] = bool(normal @ direction > least)
    if values["glasses"] == "sun":
        seen["left_eye"] = seen["right_eye"] = False
    if values["hair"] == "bald" and not (values["beard"] == "full" and seen["beard"]):
        seen["hair_color"] = False
    return seen


def _hair_phrase(values: dict[str, str], mentioned: set[str]) -> str | None:
    color = f"{values['hair_color']} " if "hair_color" in mentioned else ""
    style = values["hair"] if "hair" in mentioned else None
    if style in ("mohawk", "bun", "afro"):
        return f"a {color}{style}"
    if style in ("short", "long"):
        return f"{style} {color}hair"
    return f"{color}hair" if color and values["hair"] != "bald" else None


def _phrases(values: dict[str, str], mentioned: set[str]) -> list[str]:
    bald = values["hair"] == "bald"
    texts = {
        "glasses": {"none": "no glasses", "round": "round glasses", "sun": "sunglasses"},
        "beard": {"none": "no beard", "full": "a beard"},
        "mouth": {"smile": "a smile", "straight": "a straight mouth", "open": "an open mouth"},
    }
    for side in ("left", "right"):
        texts[f"{side}_eye"] = {"open": f"an open {side} eye", "patch": f"a {side} eye patch"}
        texts[f"{side}_ear"] = {"plain": f"no {side} earring", "ring": f"a {side} earring"}
        texts[f"{side}_cheek"] = {c: f"a {c} {side} cheek" for c in ATTRIBUTES["left_cheek"]}
    if bald and values["beard"] == "full" and {"hair_color", "beard"} <= mentioned:
        texts["beard"]["full"] = f"a {values['hair_color']} beard"
    parts = [_hair_phrase(values, mentioned)]
    parts += [texts[a][values[a]] for a in texts if a in mentioned]
    return [p for p in parts if p]


def caption(values: dict[str, str], mentioned: set[str] | None = None, view: str | None = None) -> str:
    """Return the caption of the attributes in ``mentioned`` (all if None), e.g.
    "a woman with long red hair and round glasses, pale skin, blue shirt, white background, side view"."""
    mentioned = set(ATTRIBUTES) if mentioned is None else mentioned
    person = values["person"] if "person" in mentioned else "person"
    noun = f"a bald {person}" if "hair" in mentioned and values["hair"] == "bald" else f"a {person}"
    phrases = _phrases(values, mentioned)
    if phrases:
        noun += " with " + phrases[0]
    if len(phrases) > 1:
        noun += "".join(f", {p}" for p in phrases[1:-1]) + f" and {phrases[-1]}"
    tail = [f"{values[a]} {a}" for a in ("skin", "shirt", "background") if a in mentioned]
    return ", ".join([noun, *tail, *([view] if view else [])])


def sample_mentioned(
    head: Head, rng: np.random.Generator, *, whole: float = 0.0, least: float = 0.3, mention_view: bool | None = None
) -> tuple[set[str], str | None]:
    """Draw the attributes of a training caption and its view: each visible attribute with the same probability, drawn
    from ``least`` to 1, and the view (``mention_view``; None: with that probability). ``whole``: how often a caption
    with a view also mentions attributes that only other views show, as the prompt of a scene does."""
    seen = visible(head.values, head.camera)
    keep = rng.uniform(least, 1.0)
    mentioned = {a for a in ATTRIBUTES if seen[a] and rng.random() < keep}
    view = head.camera.view if (rng.random() < keep if mention_view is None else mention_view) else None
    if view and whole and rng.random() < whole:
        around = [visible(head.values, Camera(azimuth, 0.0)) for azimuth in (0.0, 90.0, -90.0)]
        mentioned |= {a for a in ATTRIBUTES if not seen[a] and any(s[a] for s in around) and rng.random() < keep}
    return mentioned, view
