"""Command lines: parse flags into the fields of a dataclass, and print ``--help`` in groups.

The options of a subcommand are a dataclass. A field ``a_b`` is the flag ``--a-b``; its help is the docstring below it,
which describes the default in words if that is None. ``Annotated[..., Flag(...)]`` adds details of a field; the class
variables GROUPS and EXAMPLES lay out ``--help``, and ABSENT says why a flag of other commands is missing. Base classes
may have fields and GROUPS too. Imports nothing heavy.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import shlex
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from rsd.runs.words import closest_name, expected, match_name

Kind = TypeVar("Kind")
Groups = Mapping[str, str]
"""Headings of ``--help`` in order, with the names of the fields below each, separated by spaces."""

YES, NO = ("true", "yes", "on"), ("false", "no", "off")
DESCRIBES_DEFAULT = r"default: |by default"
"""How a docstring describes the default."""
DASHED = re.compile(r"--\w|-[a-zA-Z]|[–—]{1,2}\w[\w-]*(=|$)")
"""The start of a flag; -5 and "- a dash" are values. Text copied from documents may contain long dashes."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """Details of a field. ``short``: a short form such as -n. ``positional``: the field takes the words without a flag.
    ``names``: the valid values of a list of text, or ``own``: a function that recognises them; other words after the
    list are positional."""

    short: str = ""
    positional: bool = False
    names: tuple[str, ...] = ()
    own: Callable[[str], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the options. ``hint``: its type without None; ``optional``: whether None is valid."""

    name: str
    hint: Any
    optional: bool
    default: Any
    flag: Flag

    @property
    def plain(self) -> str:
        """The name in messages and files."""
        return self.name.rstrip("_")

    @property
    def dashed(self) -> str:
        """The name on the command line."""
        return f"--{self.plain.replace('_', '-')}"

    @property
    def several(self) -> int | None:
        """The number of values: 1, a fixed number, or None for any."""
        if typing.get_origin(self.hint) is not tuple:
            return 1
        arguments = typing.get_args(self.hint)
        return None if arguments[-1] is Ellipsis else len(arguments)

    @property
    def each(self) -> Any:
        """The type of one value."""
        return typing.get_args(self.hint)[0] if typing.get_origin(self.hint) is tuple else self.hint

    def error(self, text: str, more: str = "") -> ValueError:
        """Return the error for an invalid value ``text``."""
        names = typing.get_args(self.each) if typing.get_origin(self.each) is Literal else self.flag.names
        if found := closest_name(text, names, cutoff=0.5):
            more = f'. Did you mean "{found}"?'
        elif self.several == 1 and re.fullmatch(r"-?\d+(,\d+)+", text):
            more = ", without commas." if self.each is int else ", with a decimal point."
        wants = f"some of {', '.join(self.flag.names)}" if self.flag.names else expected(self.hint)
        return ValueError(f'{self.plain} is "{text}"; give {wants}{more or "."}')

    def one(self, text: str) -> Any:
        """Parse one value. Raise ValueError, without a message, if it is invalid."""
        if self.each is bool and text.lower() in (*YES, *NO):
            return text.lower() in YES
        if typing.get_origin(self.each) is Literal and (name := match_name(text, typing.get_args(self.each))) != text:
            text = name
        if typing.get_origin(self.each) is Literal and text in typing.get_args(self.each):
            return text
        if self.each in (int, float):
            return self.each(text)
        if self.each is str or (self.each is Path and text):
            return self.each(text)
        raise ValueError

    def fits(self, text: str) -> bool:
        """Return whether ``text`` is a valid value, or several separated by commas."""
        try:
            return all(self.one(part) is not None for part in self.parts(text))
        except ValueError:
            return False

    def parts(self, text: str) -> list[str]:
        """Split at commas; after name=value only before another name=value."""
        comma = r",\s*(?=\w+=)" if self.each is str and "=" in text else ","
        return [part.strip() for part in re.split(comma, text) if part.strip()]


def fields_of(kind: Any) -> dict[str, Field]:
    """Return the fields of a dataclass of options by name."""
    return _fields_of(kind)


def hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, without their flags. Do not change the result, which is kept:
    finding it takes as long as reading a command line."""
    return _hints_of(kind)


@cache
def _hints_of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _fields_of(kind: Any) -> dict[str, Field]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        hint, flag = hints[field.name], Flag()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
            flag = next((mark for mark in marks if isinstance(mark, Flag)), flag)
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        inner = next(a for a in typing.get_args(hint) if a is not type(None)) if union else hint
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = Field(field.name, inner, union, default, flag)
    return found


@cache
def _spellings(kind: Any) -> dict[str, tuple[Field, bool]]:
    """Return the flags of a dataclass of options: the field of each, and whether the flag is not negated."""
    spelt: dict[str, tuple[Field, bool]] = {}
    for field in fields_of(kind).values():
        if field.flag.positional:
            continue
        spelt[field.dashed] = field, True
        if field.flag.short:
            spelt[field.flag.short] = field, True
        if field.each is bool:
            spelt[f"--no-{field.dashed[2:]}"] = field, False
    return spelt


def is_assignment(word: str) -> bool:
    """Return whether a word is name=value; for ``Flag(own=...)``."""
    return "=" in word


def joined(earlier: Iterable[str], later: Iterable[str]) -> tuple[str, ...]:
    """Return the ``later`` words name=value, after the ``earlier`` ones whose names they do not have."""
    later = tuple(later)
    names = {word.partition("=")[0] for word in later}
    return (*(word for word in earlier if word.partition("=")[0] not in names), *later)


def positional_of(kind: type) -> Field | None:
    """Return the positional field; None if there is none."""
    return next((field for field in fields_of(kind).values() if field.flag.positional), None)


def parse(kind: type[Kind], argv: Sequence[str], *, prog: str, more: str = "") -> Kind:
    """Parse ``argv``. Raise ValueError for mistakes; SystemExit after ``--help``, whose description ends in
    ``more``."""
    return build(kind, values(kind, argv, prog=prog, more=more), prog=prog)


def script(kind: type[Kind], prog: str, argv: Sequence[str] | None = None) -> Kind:
    """Parse the options of a script (default: from sys.argv); mistakes are printed and end it."""
    try:
        return parse(kind, sys.argv[1:] if argv is None else argv, prog=prog)
    except ValueError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def build(kind: type[Kind], *layers: Mapping[str, Any], prog: str) -> Kind:
    """Create options from layers of :func:`values`; later layers win, and words name=value are :func:`joined`."""
    given = {name: value for layer in layers for name, value in layer.items()}
    for field in fields_of(kind).values():
        if field.flag.own is is_assignment and field.name in given:
            given[field.name] = ()
            for layer in layers:
                given[field.name] = joined(given[field.name], layer.get(field.name) or ())
        if field.name not in given and field.default is dataclasses.MISSING:
            if not field.flag.positional:
                example = "".join(f", for example {text}" for text in getattr(kind, "EXAMPLES", ())[:1])
                raise ValueError(f"{field.dashed} is missing; give {expected(field.hint)}{example}.")
            given[field.name] = ()
    return kind(**given)


def values(kind: type, argv: Sequence[str], *, prog: str, more: str = "") -> dict[str, Any]:
    """Parse ``argv`` into the values of the given fields; raises as :func:`parse`."""
    if any(word in ("-h", "--help") for word in argv[: argv.index("--") if "--" in argv else None]):
        print(help_text(kind, prog=prog, more=more))
        raise SystemExit(0)
    return _Reader(kind, argv, prog).read()


class _Reader:
    """Parses a command line in one pass. ``words``: the positions of the words without a flag."""

    def __init__(self, kind: type, argv: Sequence[str], prog: str):
        self.kind, self.fields = kind, fields_of(kind)
        self.argv, self.prog = list(argv), prog
        self.absent = getattr(kind, "ABSENT", {})
        self.positional, self.own = positional_of(kind), vars(kind).get("__annotations__", {})
        self.found: dict[str, Any] = {}
        self.words: list[int] = []
        self.place = 0

    def read(self) -> dict[str, Any]:
        """Return the values of the given fields."""
        while self.place < len(self.argv):
            token = self.argv[self.place]
            self.place += 1
            if token == "--":
                self.words += range(self.place, len(self.argv))
                break
            if DASHED.match(token):
                self._flag(token)
            else:
                self.words.append(self.place - 1)
        if self.words:
            self._positional()
        return self.found

    def _next(self) -> str | None:
        """Return the next word if it is not a flag."""
        word = self.argv[self.place] if self.place < len(self.argv) else None
        return None if word is None or word == "--" or DASHED.match(word) else word

    def _flag(self, token: str) -> None:
        name, equals, attached = token.partition("=")
        if short := re.fullmatch(r"(-[a-zA-Z])(\d+)", token):
            name, attached = short.groups()
            equals = "="
        field, value = self._find(name, token)
        if field.each is bool and field.several == 1:
            self.found[field.name] = self._switch(field, value, attached if equals else None)
        elif not value:
            raise ValueError(f"{field.dashed} takes {expected(field.hint)}, so {name} has no meaning; leave it out.")
        elif field.several == 1:
            self.found[field.name] = self._value(field, attached if equals else None)
        else:
            self._list(field, attached if equals else None)

    def _find(self, name: str, token: str) -> tuple[Field, bool]:
        """Return the field of a flag, and whether the flag is not negated."""
        spelt = _spellings(self.kind)
        plain = name if name in spelt else name.replace("_", "-")
        if plain in spelt:
            return spelt[plain]
        if plain in self.absent:
            raise ValueError(f"{self.prog} has no {plain}: {self.absent[plain]}.")
        if name[0] in "–—":
            raise ValueError(f'"{token}" starts with a long dash; flags start with two short ones: --.')
        meant = plain.lower() if plain.startswith("--") else f"-{plain.lower()}"
        found = meant if meant in spelt else closest_name(meant, [flag for flag in spelt if flag.startswith("--")])
        hint = f" Did you mean {found}?" if found else ""
        raise ValueError(f"There is no flag {name}.{hint} {self.prog} --help lists them.")

    def _switch(self, field: Field, value: bool, attached: str | None) -> bool | None:
        if attached is None and (self._next() or "").lower() in ("true", "false"):
            attached, self.place = self._next(), self.place + 1
        if attached is None:
            return value
        if field.optional and attached == "None":
            return None
        try:
            return bool(field.one(attached)) == value
        except ValueError:
            off = f"--no-{field.dashed[2:]}"
            raise ValueError(f'{field.dashed} is "{attached}"; write {field.dashed}, or {off} for no.') from None

    def _value(self, field: Field, attached: str | None) -> Any:
        if attached is None:
            attached = self._next()
            if attached is None:
                raise self._missing(field)
            self.place += 1
        if field.optional and attached == "None":
            return None
        try:
            return field.one(attached)
        except ValueError:
            raise field.error(attached) from None

    def _missing(self, field: Field) -> ValueError:
        """Return the error for a flag without a value; a value that starts with a dash requires "="."""
        after = self.argv[self.place] if self.place < len(self.argv) else ""
        spelt = {f.dashed for f in self.fields.values()} | {f.flag.short for f in self.fields.values()}
        text = field.each is str and after and after.partition("=")[0].replace("_", "-") not in spelt
        hint = (
            f'; a value that starts with a dash is written {field.dashed}="{after} ..."'
            if text and after != "--"
            else ""
        )
        return ValueError(f"{field.dashed} has no value; give {expected(field.hint)}{hint}.")

    def _list(self, field: Field, attached: str | None) -> None:
        """Parse values separated by commas or spaces, up to the number of the field, or while they are valid: other
        words are positional. A list given twice is one list."""
        if attached is None and self._next() is None and field.several:
            raise self._missing(field)
        took = []
        if attached is not None:
            took.append(attached)
        elif (first := self._next()) is not None:
            took.append(first)
            self.place += 1
        if field.optional and took == ["None"]:
            self.found[field.name] = None
            return
        parts = [part for word in took for part in field.parts(word)]
        while (word := self._next()) is not None:
            enough = field.several is not None and len(parts) >= field.several
            if enough:
                if field.each in (int, float) and field.fits(word) and not os.path.exists(word):
                    raise field.error(" ".join([*parts, word]))
                break
            if self.positional and not self._belongs(field, word):
                self._stray(field, word)
                break
            parts += field.parts(word)
            self.place += 1
        for part in parts:
            if not field.fits(part):
                raise field.error(part)
        if field.several is not None and len(parts) != field.several:
            raise field.error(" ".join(parts))
        new = tuple(field.one(part) for part in parts)
        self.found[field.name] = (self.found.get(field.name) or ()) + new if field.several is None else new

    def _belongs(self, field: Field, word: str) -> bool:
        """Return whether a word after the first of a list still belongs to it; an empty one is positional."""
        if not word:
            return False
        if field.each is str:
            names, own = field.flag.names, field.flag.own
            return all(match_name(part, names) in names or (own and own(part)) for part in field.parts(word))
        return field.fits(word)

    def _stray(self, field: Field, word: str) -> None:
        """Raise ValueError for a word after a list that is neither valid for it nor clearly positional."""
        assert self.positional
        if self.positional.each is Path:
            clear = "." in word or "/" in word or os.path.exists(word)
            where = "; files come before the flags."
        else:
            clear = len(word.split()) != 1
            where = "; a prompt of one word comes before the flags."
        if not clear:
            raise field.error(word, where)

    def _positional(self) -> None:
        said = [self.argv[k] for k in self.words]
        self._path_of_several_words()
        field = self.positional
        if field is None:
            none = (None, dataclasses.MISSING)
            paths = (f for f in self.fields.values() if f.each is Path and f.name != "config" and f.default in none)
            likely = sorted(paths, key=lambda f: f.name not in self.own)  # before those of its bases
            meant = "".join(f" Did you mean {f.dashed} {quoted(said[0])}?" for f in likely[:1])
            raise ValueError(f'"{said[0]}" stands without a flag.{meant} {self.prog} --help lists them.')
        self._unquoted(field, said)
        if field.several == 1:
            if len(said) > 1:
                raise ValueError(f"Give one {field.plain}, not {len(said)} ({', '.join(said)}).")
            try:
                self.found[field.name] = field.one(said[0])
            except ValueError:
                raise field.error(said[0]) from None
            return
        for word in said:
            if field.each is Path and not word:
                raise ValueError("A path is empty; is a variable of the shell not set?")
        self.found[field.name] = tuple(field.one(word) for word in said)

    def _unquoted(self, field: Field, said: list[str]) -> None:
        """Raise ValueError if words look like text with spaces that was not quoted."""
        if field.several is not None:
            return
        if before := self._unquoted_prompt():
            flag, text = before
            if field.each is str or not any(os.path.exists(word) for word in text[1:]):
                raise ValueError(
                    f'{flag} is "{text[0]}", and "{" ".join(text[1:])}" would be '
                    f"{'an image' if field.each is Path else 'a prompt'}; if they belong together, put them in quotes: "
                    f"{flag} {quoted(' '.join(text))}"
                )
        if field.each is str:
            single = [word for word in said if len(word.split()) == 1]
            if len(single) > 1:
                raise ValueError(
                    f"{len(single)} prompts of one word each ({', '.join(single)})? If they are one prompt, put it in "
                    f"quotes: {self._quoted_together()} (otherwise write them to a file for --prompts FILE)."
                )

    def _path_of_several_words(self) -> None:
        """Raise ValueError if several words together are an existing path; the first may be a flag's value."""
        for first in range(len(self.argv)):
            flag, equals, value = self.argv[first].partition("=")
            start = value if equals and DASHED.match(flag) else self.argv[first]
            words = [start]
            while first + len(words) in self.words:
                words.append(self.argv[first + len(words)])
                path = " ".join(words)
                if not all(map(os.path.exists, words)) and os.path.exists(path):
                    raise ValueError(f"{' and '.join(words)} are one path; put it in quotes: {quoted(path)}")

    def _unquoted_prompt(self) -> tuple[str, list[str]] | None:
        """Return a prompt flag with a value of one word, and the single words that follow it, unless these may be the
        positional arguments."""
        assert self.positional
        for place in self.words:
            if place < 2 or place - 1 in self.words:
                continue
            name, value = self.argv[place - 2 : place]
            name = name.replace("_", "-")
            prose = any(f.dashed == name and f.plain.endswith("prompt") for f in self.fields.values())
            if not prose or len(value.split()) != 1:
                continue
            run = []
            while place in self.words and len(self.argv[place].split()) == 1:
                run.append(self.argv[place])
                place += 1
            if run and (self.positional.each is Path or len(self.words) > 1):
                return name, [value, *run]
        return None

    def _quoted_together(self) -> str:
        """Return the command with the positional words quoted as one."""
        together = quoted(" ".join(self.argv[k] for k in self.words))
        kept = [
            together if k == self.words[0] else quoted(word)
            for k, word in enumerate(self.argv)
            if k == self.words[0] or k not in self.words
        ]
        return " ".join([self.prog, *kept])


def quoted(word: str) -> str:
    """Quote a word for the shell if necessary."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return f'"{word}"' if not re.search(r'["$`\\!]', word) else shlex.quote(word)


def help_text(kind: type, *, prog: str, more: str = "") -> str:
    """Return the text of ``--help``: usage and examples, then the fields by GROUPS."""
    width = max(60, min(shutil.get_terminal_size().columns, 110))
    positional = positional_of(kind)
    first, *rest = (inspect.getdoc(kind) or "").split("\n\n")
    words = f"{_metavar(positional)} " if positional else ""
    lines = [f"usage: {prog} {words}[flags]", "", _wrap(first, width)]
    if examples := getattr(kind, "EXAMPLES", ()):
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    for paragraph in [*rest, *([more] if more else [])]:
        lines += ["", _wrap(paragraph, width)]
    docs, fields = docs_of(kind), fields_of(kind)
    for heading, names in groups(kind).items():
        lines += ["", f"{heading}:"]
        for name in names:
            lines += _entry(fields[name], docs.get(name, ""), width)
    return "\n".join([*lines, "", "  -h, --help  This text."])


def groups(kind: type) -> dict[str, list[str]]:
    """Return the fields below each heading of ``--help``: from GROUPS of the class, then of its bases; the others are
    below "more"."""
    found: dict[str, list[str]] = {}
    for one in kind.__mro__:
        for heading, names in vars(one).get("GROUPS", {}).items():
            found.setdefault(heading, []).extend(name for name in names.split() if name not in sum(found.values(), []))
    placed = sum(found.values(), [])
    left = [name for name in fields_of(kind) if name not in placed]
    return {**found, "more": left} if left else found


def _entry(field: Field, doc: str, width: int) -> Iterator[str]:
    takes = _metavar(field)
    if field.flag.positional:
        head = takes
    elif field.each is bool:
        head = field.dashed + (f", --no-{field.dashed[2:]}" if field.default is not False else "")
    else:
        short = f"{field.flag.short}, " if field.flag.short else ""
        head = f"{short}{field.dashed} {takes}"
    indent = 24
    stop = "" if doc.endswith("...") else "."
    doc = doc.removesuffix(stop) + _default(field, doc) + stop
    text = textwrap.wrap(doc, width - indent, break_on_hyphens=False, break_long_words=False)
    if len(head) + 4 > indent or not text:
        yield f"  {head}"
    else:
        yield f"  {head:<{indent - 2}}{text.pop(0)}"
    yield from (" " * indent + line for line in text)


def _default(field: Field, doc: str) -> str:
    """Describe the default, unless ``doc`` does."""
    value = field.default
    if value is dataclasses.MISSING and not field.flag.positional:
        return " (required)"
    if value is None or value is False or re.search(DESCRIBES_DEFAULT, doc) or field.flag.positional:
        return ""
    if value is True:
        return " (default: yes)"
    shown = " ".join(map(_shown, value)) if isinstance(value, tuple) else _shown(value)
    return f" (default: {shown or 'none'})"


def _shown(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _metavar(field: Field) -> str:
    if field.flag.positional:
        name = field.plain.upper()
        name = name if field.several == 1 else f"{name.rstrip('S')} ..."
        return name if field.default is dataclasses.MISSING else f"[{name}]"
    if typing.get_origin(field.each) is Literal:
        one = "{" + ",".join(map(str, typing.get_args(field.each))) + "}"
    else:
        one = {float: "NUMBER", int: "INT", Path: "PATH"}.get(field.each, "TEXT")
    if field.several is None:
        return f"{one},..."
    return " ".join([one] * field.several)


def _wrap(text: str, width: int) -> str:
    return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


@cache
def docs_of(kind: type) -> dict[str, str]:
    """Return the docstring below each field, of the class and its bases."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if named and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                found[field.target.id] = " ".join(str(doc.value.value).split())  # type: ignore[attr-defined]
    return found
