"""Words for error messages: unknown names, suggestions and expected values. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

EACH = {float: ("a number", "numbers"), int: ("a whole number", "whole numbers"), bool: ("true or false",) * 2,
        Path: ("a path", "paths")}  # fmt: skip


def unknown_name(kind: str, name: str, names: Sequence[str], synonyms: Mapping[str, str] | None = None) -> ValueError:
    """Return the error for an unknown name, with the remedy of ``synonyms`` (keys normalised) or the closest name."""
    if remedy := (synonyms or {}).get(normalise(name)):
        return ValueError(f'There is no {kind} "{name}": {remedy}.')
    return ValueError(f'Unknown {kind} "{name}".{suggestion(name, names)} There are: {", ".join(names)}.')


def synonyms(table: Mapping[str, str]) -> dict[str, str]:
    """Map each word to its remedy. A key of ``table`` holds several normalised words, separated by spaces."""
    return {word: remedy for words, remedy in table.items() for word in words.split()}


def suggestion(name: str, names: Collection[str]) -> str:
    """Return `` Did you mean ...?`` (with the leading space), or "" if no name is close."""
    found = closest_name(name, names, cutoff=0.4)
    return f' Did you mean "{found}"?' if found else ""


def closest_name(name: str, names: Collection[str], *, cutoff: float = 0.6) -> str | None:
    """Return the most similar name, ignoring case; None if none is similar."""
    lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def normalise(name: str) -> str:
    """Remove case, dashes, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name).lower()


def match_name(name: str, names: Collection[str]) -> str:
    """Return the entry of ``names`` that equals ``name`` after :func:`normalise`; ``name`` itself if there is none."""
    return next((one for one in names if normalise(one) == normalise(name)), name)


def with_article(noun: str) -> str:
    """Prefix a noun with "a" or "an"."""
    return f"an {noun}" if noun.startswith(tuple("aeioAEIO")) else f"a {noun}"


def expected(hint: Any) -> str:
    """Describe the values of a type in words, for example "a number"."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return expected(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        if typing.get_origin(arguments[0]) is Literal:
            return f"some of {', '.join(map(str, typing.get_args(arguments[0])))}"
        each = EACH.get(arguments[0], ("text", "texts"))[1]
        return f"a list of {each}" if arguments[-1] is Ellipsis else f"{len(arguments)} {each}"
    return EACH.get(hint, ("text", "texts"))[0]
