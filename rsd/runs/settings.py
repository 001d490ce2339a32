"""Settings from YAML files, manifests and flags. Imports nothing heavy, so that mistakes are reported at once."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import yaml

from rsd.runs.flags import DASHED, Field, build, fields_of, hints_of, positional_of, values
from rsd.runs.words import expected, suggestion


class Options(Protocol):
    """The dataclass of a subcommand's flags."""

    config: Path | None

    def check(self) -> None:
        """Raise ValueError or OSError for invalid values."""
        ...


Kind = TypeVar("Kind", bound=Options)
Made = TypeVar("Made")
MANIFESTS = (".jsonl", ".csv")
"""Suffixes of manifests: files that list inputs, each with settings of its own."""


@dataclasses.dataclass(frozen=True)
class Packaged:
    """Settings that ship with the package: the section ``method`` of a file in rsd.configs, or one of its presets.

    A file has the keys ``default`` (fields of all sections), ``methods`` (a section of fields per method, whose
    ``presets`` override some of them for a number of steps or under a name), and other keys that describe what the file
    was tuned for; sections may override these.
    """

    file: str
    method: str
    preset: int | str | None
    settings: Mapping[str, Any]
    origin: Mapping[str, str]
    tuned_for: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file and the section for messages."""
        preset = f"{self.preset} steps" if isinstance(self.preset, int) else self.preset
        return f"{self.file}: {self.method}" + (f", {preset}" if preset else "")

    def values(self, kind: type) -> dict[str, Any]:
        """Return the settings as values of the fields of ``kind``."""
        return values(kind, file_flags(kind, self.settings, self.file), prog="")


@cache
def sections(folder: str) -> dict[str, dict[str, Any]]:
    """Load the packaged files of a folder in rsd.configs, by name."""
    found = {file.name: file for file in (files("rsd.configs") / folder).iterdir() if file.name.endswith(".yaml")}
    return {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in sorted(found.items())}


def section(
    folder: str, file: str, method: str, preset: int | str | None = None, *, skip: Collection[str] = ()
) -> Packaged | None:
    """Return a file's section ``method`` with a preset, a number of steps or a name, without the fields in ``skip``;
    None if there is none."""
    held = sections(folder).get(file, {})
    if method not in held.get("methods", {}):
        return None
    own = {key: value for key, value in held["methods"][method].items() if key != "presets"}
    layers = {f"{file}, default": held.get("default", {}), f"{file}, {method}": own}
    presets = held["methods"][method].get("presets", {})
    if preset is not None:
        if preset not in presets:
            return None
        steps = {"steps": preset} if isinstance(preset, int) else {}
        layers[f"{file}, {method}, presets, {preset}"] = {**presets[preset], **steps}
    tuned_for = {key: value for key, value in held.items() if key not in ("default", "methods", "auto")}
    tuned_for |= {key: own.pop(key) for key in tuple(own) if key in tuned_for or key == "task"}
    settings = {key: value for layer in layers.values() for key, value in layer.items() if key not in skip}
    origin = {key: where for where, layer in layers.items() for key in layer}
    return Packaged(file, method, preset, settings, origin, tuned_for)


def presets(folder: str, file: str, method: str) -> list[str]:
    """Return the presets of a file's section, as they are typed."""
    return [str(name) for name in sections(folder)[file]["methods"][method].get("presets", {})]


def layered(
    kind: type[Kind], argv: Sequence[str], *, prog: str, positional: str,
    packaged: Callable[[Kind], Packaged | None] = lambda options: None,
) -> tuple[Kind, str | None]:  # fmt: skip
    """Return what :func:`resolve` returns for a command line and its --config; see :func:`layers_of`."""
    return resolve(kind, *layers_of(kind, argv, prog=prog, positional=positional), prog=prog, packaged=packaged)


def layers_of(kind: type, argv: Sequence[str], *, prog: str, positional: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the fields that --config sets, and of those that the command line sets.

    ``positional``: the field without a flag; "" if there is none. Raise ValueError or OSError, with the name of the
    file, for mistakes.
    """
    given = values(kind, argv, prog=prog)
    config = given.get("config")
    return (file_values(kind, config, positional) if config else {}), given


def resolve(
    kind: type[Kind], *layers: Mapping[str, Any], prog: str,
    packaged: Callable[[Kind], Packaged | None] = lambda options: None,
) -> tuple[Kind, str | None]:  # fmt: skip
    """Return the checked options from the packaged settings and the ``layers`` of values (later ones win), and the name
    of the packaged settings.

    ``packaged``: finds the packaged settings for the options of the layers alone. Raise ValueError or OSError for
    invalid values.
    """

    def make(*layers: Mapping[str, Any]) -> Kind:
        options = build(kind, *layers, prog=prog)
        options.check()
        return options

    options = make(*layers)
    found = packaged(options)
    if found is None:
        return options, None
    return make(found.values(kind), *layers), found.name


def typed_values(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the types of the fields of ``kind``: whole numbers as floats, lists as tuples, text as paths.
    Raise ValueError for an unknown field or another type."""
    fields = fields_of(kind)
    for name in settings:
        if name not in fields:
            raise ValueError(f'Unknown setting "{name}".{suggestion(name, fields)}')
    return {name: _json_value(kind, fields[name], value) for name, value in settings.items()}


def command_words(kind: type, settings: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line that sets these fields of ``kind``; the positional ones come first."""
    positional = positional_of(kind)
    first = settings.get(positional.name, ()) if positional else ()
    rest = {name: value for name, value in settings.items() if not positional or name != positional.name}
    return [*map(str, first), *tokens(rest, apart=True)]


def file_values(kind: type, path: Path, positional: str) -> dict[str, Any]:
    """Return the values of the fields in a YAML file. ``positional``: the one without a flag.

    Raise ValueError or OSError with the file, the field and the remedy.
    """
    settings = read_yaml(path)
    found = values(kind, file_flags(kind, settings, str(path), skip=(positional,)), prog="")
    if (inputs := settings.get(positional)) is not None:
        try:
            several = inputs if isinstance(inputs, list) else [inputs]
            found[positional] = _json_value(kind, fields_of(kind)[positional], several)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return found


def file_flags(kind: type, settings: Mapping[str, Any], where: str, *, skip: Collection[str] = ()) -> list[str]:
    """Return a file's fields as flags, without those in ``skip``. Raise ValueError with the file (``where``), the field
    and the remedy."""
    hints = hints_of(kind)
    fields = {field.name.rstrip("_"): field.name for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    if isinstance(settings.get("methods"), dict):
        raise ValueError(f"{where} has sections for methods; --config takes a file of fields: copy those of a section.")
    for key, value in settings.items():
        plain_key = str(key).replace("-", "_").rstrip("_")
        if plain_key not in fields:
            raise ValueError(f'{where}: unknown field "{key}".{suggestion(plain_key, fields)}')
        if plain_key == "config":
            raise ValueError(f"{where}: config has no meaning in a file; write the fields of {value} here.")
        if plain_key in given:
            raise ValueError(f'{where}: the field "{plain_key}" is given twice; leave one of them out.')
        given[plain_key] = value
    given = {key: value for key, value in given.items() if key not in skip}
    valued = [name for name, field in fields.items() if bool in typing.get_args(hints[field])]
    flags = tokens(given, valued=valued)
    if any(isinstance(value, dict) for value in given.values()) or not _fits(kind, flags):
        for key, value in given.items():
            if isinstance(value, dict) or not _fits(kind, tokens({key: value}, valued=valued)):
                shown = json.dumps(value, ensure_ascii=False, default=str)
                raise ValueError(f"{where}: {key} is {shown}; give {expected(hints[fields[key]])}.")
    return flags


def _fits(kind: type, flags: list[str]) -> bool:
    """Return whether the flags have valid types and no values are left over."""
    try:
        return not (values(kind, flags, prog="").keys() & {f.name for f in [positional_of(kind)] if f})
    except ValueError:
        return False


def tokens(settings: Mapping[str, Any], *, valued: Collection[str] = (), apart: bool = False) -> list[str]:
    """Convert fields to flags; fields with value None are skipped. ``valued``: boolean fields whose value follows the
    flag. ``apart``: write --gamma 6 rather than --gamma=6, as people do, unless the value looks like a flag."""
    flags: list[str] = []
    for key, value in settings.items():
        name = key.rstrip("_").replace("_", "-")
        if isinstance(value, bool) and key not in valued:
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list | tuple):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            dashed = DASHED.match(str(value)) or value == "--"
            flags += [f"--{name}", str(value)] if apart and not dashed else [f"--{name}={value}"]
    return flags


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file. Raise ValueError or OSError if it is not a mapping of fields."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path.")
    example = "write one `field: value` per line, for example `gamma: 20`"
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        settings = loader.get_single_data()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise PermissionError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an invalid date
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is not YAML{line} ({why}); {example}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} contains no settings; {example}.")
    for key in loader.twice:
        raise ValueError(f'{path}: the field "{key}" is given twice; leave one of them out.')
    return settings


class _Loader(yaml.SafeLoader):
    """Also lists the keys that a mapping has twice; YAML would take the last of them."""

    def __init__(self, text: str):
        super().__init__(text)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping."""
        self.twice += repeated([key.value for key, _ in node.value])
        return super().construct_mapping(node, deep)


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that are there more than once."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def shard(text: str | None) -> tuple[int, int]:
    """Parse "K/N" with K = 0 .. N-1; None gives 0 and 1. Raise ValueError for anything else."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f'shard is "{text}"; give K/N with K from 0 to N-1, for example 0/8 ... 7/8.')
    return int(found[1]), int(found[2])


def plain(value: Any) -> Any:
    """Convert a value for config.yaml: absolute paths, lists for tuples."""
    if isinstance(value, Path):
        return str(value.resolve())
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def make_folder(path: Path) -> None:
    """Create an output folder if necessary. Raise OSError if that fails."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"The output folder {path} is a file; choose another --out.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"The output folder {path} is not writable ({error.strerror}); choose another --out."
        ) from error


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a manifest: its input as written, its name ("" if it has none), and its settings by field name."""

    source: str
    name: str
    settings: dict[str, Any]


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest, by its suffix."""
    return path.suffix.lower() in MANIFESTS


def read_manifest(
    path: Path, kind: type, key: str, names: Collection[str], make: Callable[[Line], Made], *, example: str
) -> Iterator[Made]:
    """Yield ``make(line)`` for each line of a manifest: a JSON object a line (.jsonl), or a table with a header (.csv).

    ``key``: the column of the inputs. ``names``: the fields of ``kind`` that a line may set; paths are relative to the
    manifest. ``example``: a valid line as JSON. Empty lines, and empty cells of a table, are skipped.
    Raises ValueError or OSError, in one sentence that names the file, the line and the column, for a mistake.
    """
    columns, fields = (key, "name", *names), {field.plain: field for field in fields_of(kind).values()}
    table = path.suffix.lower() == ".csv"
    for number, cells in _table_rows(path, columns) if table else _json_rows(path, columns):
        with _naming(path, number):
            source, name = cells.pop(key, None), cells.pop("name", "" if table else None)
            if not isinstance(source, str):
                what = f'fill in the column "{key}"' if table else f'give an object with "{key}", for example {example}'
                raise ValueError(f"{what}.")
            if name is not None and (not isinstance(name, str) or not (name or table)):
                raise ValueError(f"name is {json.dumps(name)}; give text.")
            read = _cell if table else _json_value
            settings = {fields[key].name: read(kind, fields[key], value) for key, value in cells.items()}
            placed = {k: path.parent / v if isinstance(v, Path) else v for k, v in settings.items()}
            made = make(Line(source, name or "", placed))
        yield made


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    """Name the file and the line in ValueErrors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_manifest_text(path).splitlines(), 1):
        if not line.strip():
            continue
        with _naming(path, number):
            try:
                cells = json.loads(line, object_pairs_hook=_unique)
            except json.JSONDecodeError as error:
                raise ValueError(f"this is not JSON ({error.msg} at column {error.colno}).") from error
            cells = cells if isinstance(cells, dict) else {}
            _check_columns("key", cells, columns)
        yield number, cells


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; Python would take the last of two equal keys."""
    for key in repeated([key for key, _ in pairs]):
        raise ValueError(f'the key "{key}" is given twice; leave one of them out.')
    return dict(pairs)


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_manifest_text(path), newline=""), skipinitialspace=True)
    with _naming(path, 1):
        for name in repeated(reader.fieldnames or ()):
            raise ValueError(f'the column "{name}" is there twice; leave one of them out.')
        _check_columns("column", reader.fieldnames or (), columns)
        if columns[0] not in (reader.fieldnames or ()):
            raise ValueError(f'the column "{columns[0]}" is missing; the first line names the columns.')
    for row in reader:
        with _naming(path, reader.line_num):
            if None in row:
                raise ValueError("it has more cells than the first line; quote cells that contain commas.")
        yield reader.line_num, {name: text.strip() for name, text in row.items() if text and text.strip()}


def _check_columns(what: str, found: Collection[str], columns: Sequence[str]) -> None:
    for name in found:
        if name not in columns:
            raise ValueError(f'unknown {what} "{name}".{suggestion(name, columns)} There are: {", ".join(columns)}.')


def _manifest_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error


def _cell(kind: type, field: Field, text: str) -> Any:
    """Return a table's cell as the field's type; several values have spaces or commas between them."""
    words = [f"{field.dashed}={text}"] if field.several == 1 else [field.dashed, *text.split()]
    return values(kind, words, prog="")[field.name]


def _json_value(kind: type, field: Field, value: Any) -> Any:
    """Return a JSON value as the field's type."""
    if value is None and field.optional:
        return None
    try:
        return _typed(field.hint, value)
    except TypeError as error:
        shown = json.dumps(value, ensure_ascii=False, default=str)
        raise ValueError(f"{field.plain} is {shown}; give {expected(field.hint)}.") from error


def _typed(hint: Any, value: Any) -> Any:
    """Return a JSON value as the type ``hint``; lists become tuples. Raises TypeError for another type."""
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(map(_typed, kinds, value))
    elif origin is Literal and value in arguments:
        return value
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise TypeError(hint)
