"""Parse the attributes that a prompt mentions, the inverse of :func:`rsd.heads.attributes.caption`; and the
vocabulary."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from rsd.heads.attributes import ATTRIBUTES, VIEWS, Camera, caption, visible

AZIMUTHS = {"front view": (0.0,), "side view": (90.0, -90.0), "back view": (180.0,)}
"""The cameras of a view word; a side view may show either side."""
SECTORS = {"front view": (0.0,), "side view": (60.0, -60.0), "back view": (180.0,)}
"""Cameras that see everything visible in the sector of a view word; sides begin beside the face."""
UNREMARKABLE = {**{a: options[0] for a, options in ATTRIBUTES.items()}, "hair": "short"}


@dataclass(frozen=True)
class PromptAttributes:
    """The attributes of a prompt: ``values``, the ``view`` word or None, and the attributes with two different values
    (``contradicted``), which are in neither ``values`` nor :attr:`open`."""

    values: dict[str, str]
    view: str | None = None
    contradicted: frozenset[str] = field(default_factory=frozenset)

    @property
    def seen(self) -> list[str]:
        """The mentioned attributes that are visible from the view (default: the front)."""
        return [a for a in ATTRIBUTES if a in self.values and self.shows(self.values, a)]

    @property
    def open(self) -> list[str]:
        """The attributes not mentioned that are visible from the view, whatever the values of the others.

        A woman's beard, and the person with a beard, are not open.
        """
        closed = {*self.values, *self.contradicted}
        if self.values.get("person") == "woman":
            closed.add("beard")
        if self.values.get("beard") == "full":
            closed.add("person")
        return [a for a in ATTRIBUTES if a not in closed and self.shows(self.values, a)]

    def shows(self, values: dict[str, str], attribute: str) -> bool:
        """Return whether every camera of the view shows the attribute on a head with these values (others: default)."""
        whole = {**UNREMARKABLE, **values}
        cameras = [Camera(azimuth=azimuth) for azimuth in AZIMUTHS[self.view or VIEWS[0]]]
        return all(visible(whole, camera)[attribute] for camera in cameras)


def _any(attribute: str) -> str:
    return "|".join(ATTRIBUTES[attribute])


def _rules() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return (attribute, value, pattern) for negated phrases, then for others. A negation without a value has ""."""
    color, styles = _any("hair_color"), "hair|bun|mohawk|afro"
    denied = [
        ("glasses", "none", r"no glasses"),
        ("glasses", "", r"no (?:round glasses|sunglasses)"),
        ("beard", "none", rf"no (?:(?:{color}) )?beard"),
        ("mouth", "", r"no smile"),
    ]
    said = [("person", value, value) for value in ATTRIBUTES["person"]]
    said += [(a, value, f"{value} {a}") for a in ("skin", "shirt", "background") for value in ATTRIBUTES[a]]
    said += [("hair", "bald", "bald"), *(("hair", style, style) for style in ("bun", "mohawk", "afro"))]
    said += [("hair", length, rf"{length}(?: (?:{color}))? hair") for length in ("short", "long")]
    said += [("hair_color", c, rf"{c} (?:(?:short|long) )?(?:{styles}|beard)") for c in ATTRIBUTES["hair_color"]]
    said += [("glasses", "round", "round glasses"), ("glasses", "sun", "sunglasses"), ("beard", "full", "beard")]
    said += [("mouth", "smile", "smile"), *(("mouth", m, f"{m} mouth") for m in ("straight", "open"))]
    for side in ("left", "right"):
        denied += [(f"{side}_eye", "open", f"no {side} eye patch"), (f"{side}_ear", "plain", f"no {side} earring")]
        said += [(f"{side}_eye", "open", f"open {side} eye"), (f"{side}_eye", "patch", f"{side} eye patch")]
        said += [(f"{side}_ear", "ring", f"{side} earring")]
        said += [(f"{side}_cheek", c, f"{c} {side} cheek") for c in ATTRIBUTES[f"{side}_cheek"]]
    return denied, said


def _plain(prompt: str) -> str:
    """Normalise a prompt: lower case, words and punctuation separated by single spaces."""
    return " ".join(re.findall(r"[a-z]+|[^a-z\s]", prompt.lower()))


def read(prompt: str) -> PromptAttributes:
    """Parse the attributes of a prompt in the words of the captions, in any order and case; other words are ignored.

    The inverse of ``caption``: ``read(caption(values, mentioned, view))`` has the values of ``mentioned`` and the view,
    except for the hair colour of a bald head without a beard.
    """
    text = _plain(prompt)
    denied, said = _rules()
    found: dict[str, set[str]] = {}
    for attribute, value, pattern in denied:
        text, count = re.subn(rf"\b{pattern}\b", "-", text)
        if count and value:
            found.setdefault(attribute, set()).add(value)
    for attribute, value, pattern in said:
        if re.search(rf"\b{pattern}\b", text):
            found.setdefault(attribute, set()).add(value)
    views = {view for view in VIEWS if view in text}
    return PromptAttributes(
        {a: next(iter(found[a])) for a in ATTRIBUTES if len(found.get(a, ())) == 1},
        next(iter(views)) if len(views) == 1 else None,
        frozenset(a for a, values in found.items() if len(values) > 1),
    )


def from_view(prompt: str, view: str, azimuth: float | None = None) -> str:
    """Return the prompt of a view such as "back view", without the attributes that this view hides, as in captions.
    With "sunglasses, back view" a prior may put them on the back of the head. ``azimuth``: the camera's, in degrees, if
    it is known better than by the view. Prompts with other words are not shortened."""
    attributes = read(prompt)
    if attributes.contradicted or unknown_words(prompt) or unread_words(prompt):
        return f"{prompt}, {view}"
    whole = {**UNREMARKABLE, **attributes.values}
    seen = [visible(whole, Camera(a)) for a in (SECTORS[view] if azimuth is None else (azimuth,))]
    return caption(whole, {a for a in attributes.values if any(s[a] for s in seen)}, view)


@functools.cache
def known_words() -> frozenset[str]:
    """Return the words of all captions, on which the built-in priors were trained."""
    plain = {a: options[-1] for a, options in ATTRIBUTES.items()}
    heads = [{**plain, attribute: value} for attribute, options in ATTRIBUTES.items() for value in options]
    texts = [caption(values, view=view) for values in heads for view in VIEWS] + [caption(plain, set())]
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text))


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that are in no caption, in order, without duplicates."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known_words()]


def unread_words(prompt: str) -> list[str]:
    """Return the words that are values but mention no attribute in their place, such as "green" in "a green bun"."""
    text = _plain(prompt)
    denied, said = _rules()
    read = {
        k for _, _, pattern in [*denied, *said] for m in re.finditer(rf"\b{pattern}\b", text) for k in range(*m.span())
    }
    values = {word for options in ATTRIBUTES.values() for word in options} - {"none", "plain"}
    unread = [m[0] for m in re.finditer("[a-z]+", text) if m[0] in values and m.start() not in read]
    return list(dict.fromkeys(unread))


def vocabulary() -> str:
    """List what prompts for the built-in priors can contain."""
    hair = f"{'/'.join(ATTRIBUTES['hair'][1:3])} {'/'.join(ATTRIBUTES['hair_color'])} hair"
    sides = "a left/right eye patch, a left/right earring, a red/blue left/right cheek"
    others = [f"{'/'.join(ATTRIBUTES[a])} {a}" for a in ("skin", "shirt", "background")]
    return ", ".join([
        "man/woman/person", "bald", hair, "a bun/mohawk/afro", "no/round glasses", "sunglasses", "a/no beard",
        "a smile", "a straight/open mouth", sides, *others, "/".join(view.split()[0] for view in VIEWS) + " view",
    ])  # fmt: skip
