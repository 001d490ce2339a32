"""Settings from YAML files and flags, for every subcommand. Imports nothing heavy: mistakes are told at once."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Collection, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from rsd.runs.flags import build, positional_of, values
from rsd.runs.words import known as known
from rsd.runs.words import nearest as nearest
from rsd.runs.words import wanted as wanted


class Options(Protocol):
    """The dataclass of a subcommand's flags."""

    config: Path | None

    def check(self) -> None:
        """Raise ValueError or OSError, in one sentence, for values that cannot work."""
        ...


Kind = TypeVar("Kind", bound=Options)
Packaged = Callable[[Kind], tuple[str | None, Collection[str]]]


def layered(
    kind: type[Kind], argv: Sequence[str], *, prog: str, positional: str, folder: str, packaged: Packaged[Kind]
) -> tuple[Kind, str | None]:
    """Options from the packaged configuration, then --config, then the flags, checked; and that configuration's name.

    ``positional``: the field without a flag, which files say nothing about ("": there is none). ``packaged``: of
    options that the other two layers give, the file's name in ``folder`` of rsd.configs, or None, and the fields that
    it does not decide.
    Raises ValueError or OSError, in one sentence that names the file, for a mistake in one.
    """

    def read(*layers: dict[str, Any]) -> Kind:
        options = build(kind, *layers, prog=prog)
        options.check()
        return options

    given = values(kind, argv, prog=prog)
    config = given.get("config")
    own = values(kind, file_tokens(kind, config, positional), prog=prog) if config else {}
    options = read(own, given)
    name, decided = packaged(options)
    if name is None:
        return options, None
    with as_file(files("rsd.configs") / folder / name) as path:
        return read(values(kind, file_tokens(kind, path, positional, skip=decided), prog=prog), own, given), name


def file_tokens(kind: type, path: Path, positional: str, *, skip: Collection[str] = ()) -> list[str]:
    """A YAML file's fields as flags, without ``positional`` and those in ``skip``.

    Raises ValueError or OSError, in one sentence that names the file, the field and the remedy.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name.rstrip("_"): field.name for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        plain_key = str(key).replace("-", "_").rstrip("_")
        if plain_key not in fields:
            raise ValueError(f'{path}: unknown field "{key}".{nearest(plain_key, fields)}')
        if plain_key == "config":
            raise ValueError(f"{path}: config has no meaning in a file; write the fields of {value} here.")
        if plain_key in given:
            raise ValueError(f'{path}: the field "{plain_key}" is given twice; leave one of them out.')
        given[plain_key] = value
    given = {key: value for key, value in given.items() if key not in (positional, *skip)}
    valued = [name for name, field in fields.items() if bool in typing.get_args(hints[field])]
    flags = tokens(given, valued=valued)
    if any(isinstance(value, dict) for value in given.values()) or not _fits(kind, flags):
        for key, value in given.items():
            if isinstance(value, dict) or not _fits(kind, tokens({key: value}, valued=valued)):
                shown = json.dumps(value, ensure_ascii=False, default=str)
                raise ValueError(f"{path}: {key} is {shown}; give {wanted(hints[fields[key]])}.")
    return flags


def _fits(kind: type, flags: list[str]) -> bool:
    """Whether flags are of the types they should be and leave no value over."""
    try:
        return not (values(kind, flags, prog="").keys() & {f.name for f in [positional_of(kind)] if f})
    except ValueError:
        return False


def tokens(settings: dict[str, Any], *, valued: Collection[str] = ()) -> list[str]:
    """Fields as the flags that say the same. A field without a value says nothing; ``valued``: fields whose true or
    false follows the flag."""
    flags: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool) and key not in valued:
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={value}")  # one token: a value may begin with a dash
    return flags


def read_yaml(path: Path) -> dict[str, Any]:
    """A settings file. Raises ValueError or OSError, in one sentence, if it is not a mapping of fields."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path.")
    example = "write one `field: value` a line, for example `gamma: 20`"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise PermissionError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date that is none
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is not YAML{line} ({why}); {example}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings; {example}.")
    return settings


def shard(text: str | None) -> tuple[int, int]:
    """K and N of "K/N", K = 0 .. N-1; 0 and 1 of None. Raises ValueError, in one sentence, for anything else."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f'shard is "{text}"; give K/N with K from 0 to N-1, for example 0/8 ... 7/8.')
    return int(found[1]), int(found[2])


def plain(value: Any) -> Any:
    """A value as config.yaml holds it: whole paths, lists for tuples."""
    if isinstance(value, Path):
        return str(value.resolve())
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def make_folder(path: Path) -> None:
    """An output folder, made if it is not there. Raises OSError, in one sentence, if it cannot be."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"The output folder {path} is a file; choose another --out.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"The output folder {path} is not writable ({error.strerror}); choose another --out."
        ) from error
