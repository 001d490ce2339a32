"""Settings from YAML files and flags, for every subcommand. Imports nothing heavy: mistakes are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml


def known(kind: str, name: str, names: Sequence[str]) -> ValueError:
    """The error for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return ValueError(f'Unknown {kind} "{name}".{hint} There are: {", ".join(names)}.')


def tokens(settings: dict[str, Any], *, skip: Collection[str] = (), valued: Collection[str] = ()) -> list[str]:
    """A YAML file's fields as the flags that say the same, so that mistakes in it get the same messages.

    A run's own config.yaml is such a file: fields without a value, and those in ``skip``, say nothing here.
    ``valued``: fields whose true or false follows the flag.
    """
    flags: list[str] = []
    for key, value in settings.items():
        if value is None or key in skip:
            continue
        name = str(key).rstrip("_").replace("_", "-")
        if isinstance(value, bool) and key not in valued:
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags += [f"--{name}", str(value)]
    return flags


def read_yaml(path: Path) -> dict[str, Any]:
    """A settings file. Raises ValueError if it is not a mapping of fields."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings; write one `field: value` a line, for example `gamma: 20`.")
    return settings


def plain(value: Any) -> Any:
    """A value as config.yaml holds it: whole paths, lists for tuples."""
    if isinstance(value, Path):
        return str(value.resolve())
    return [plain(v) for v in value] if isinstance(value, tuple) else value
