"""How a value that cannot be taken is told, and which name a word means. Imports nothing heavy."""

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


def known(kind: str, name: str, names: Sequence[str], everyday: Mapping[str, str] | None = None) -> ValueError:
    """The error for an unknown name: what ``everyday`` says of it (its keys as :func:`fold` writes them), else the
    nearest known one."""
    if told := (everyday or {}).get(fold(name)):
        return ValueError(f'There is no {kind} "{name}": {told}.')
    return ValueError(f'Unknown {kind} "{name}".{nearest(name, names)} There are: {", ".join(names)}.')


def everyday(table: Mapping[str, str]) -> dict[str, str]:
    """What to say of each word, of a table whose keys are several, with spaces between, as :func:`fold` writes them."""
    return {word: told for words, told in table.items() for word in words.split()}


def nearest(name: str, names: Collection[str]) -> str:
    """``Did you mean ...?`` with a space before it, or nothing."""
    found = near(name, names, cutoff=0.4)
    return f' Did you mean "{found}"?' if found else ""


def near(name: str, names: Collection[str], *, cutoff: float = 0.6) -> str | None:
    """The name most like ``name``, whatever its capitals; None if none is."""
    lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def fold(name: str) -> str:
    """A name without what people write in different ways: capitals, dashes, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name).lower()


def same(name: str, names: Collection[str]) -> str:
    """The one of ``names`` that ``name`` is but for :func:`fold`; ``name`` itself if there is none."""
    return next((one for one in names if fold(one) == fold(name)), name)


def articled(noun: str) -> str:
    """A class's name, or another word, with its article."""
    return f"an {noun}" if noun.startswith(tuple("aeioAEIO")) else f"a {noun}"


def wanted(hint: Any) -> str:
    """What a field of this type takes, for people."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return wanted(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        if typing.get_origin(arguments[0]) is Literal:
            return f"some of {', '.join(map(str, typing.get_args(arguments[0])))}"
        each = EACH.get(arguments[0], ("text", "texts"))[1]
        return f"a list of {each}" if arguments[-1] is Ellipsis else f"{len(arguments)} {each}"
    return EACH.get(hint, ("text", "texts"))[0]
