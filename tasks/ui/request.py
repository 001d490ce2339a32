"""A run that the page requests: the arguments of a command, the head that runs them, and how to type them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rsd.cli import command_line
from rsd.runs.flags import DASHED
from rsd.runs.folder import CONFIG
from rsd.runs.head import Head, PromptHead
from rsd.runs.settings import command_words

from ..inverse.head import RestoreHead
from ..inverse.options import Restore
from ..inverse.packaged import layers, resolve
from ..text_to_3d.head import SceneHead
from ..text_to_3d.options import TextTo3D
from ..text_to_image.head import ImageHead
from ..text_to_image.options import TextToImage

RESTORE, IMAGE, SCENE = "restore", "text-to-image", "text-to-3d"
KINDS: Mapping[str, type] = {RESTORE: Restore, IMAGE: TextToImage, SCENE: TextTo3D}
"""The options of the commands that the page runs."""
INPUTS = {RESTORE: "images", IMAGE: "prompt", SCENE: "prompt"}
"""The field of the inputs."""
PROMPTED: Mapping[str, type[PromptHead]] = {IMAGE: ImageHead, SCENE: SceneHead}
"""The heads of prompts."""
MACHINE = ("out", "device", "resume", "config")
"""Fields that the Python functions do not take: they write no folder, and take an object for the device."""


@dataclass(frozen=True)
class Request:
    """``command`` with ``inputs`` (pictures or prompts) and the ``settings`` that differ from the packaged ones: fields
    of the command's options by their plain name. None is the packaged value."""

    command: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        """The arguments of the command."""
        kind = KINDS[self.command]
        if any(DASHED.match(text) for text in self.inputs):
            return [*command_words(kind, self.settings), "--", *self.inputs]
        return command_words(kind, {**self.settings, INPUTS[self.command]: self.inputs})

    def with_settings(self, **settings: Any) -> Request:
        """Return the request with other settings."""
        return replace(self, settings={**self.settings, **settings})

    def options(self) -> tuple[Any, str]:
        """Return the options, and the name of the packaged settings ("" if there are none). There may be no input yet.
        Raise ValueError or OSError, in the command's own sentence, for a mistake."""
        if self.command == RESTORE:
            options, name = resolve(*layers(self.argv))
            return options, name or ""
        command = PROMPTED[self.command].command
        return command.resolve(*command.layers(self.argv))

    def head(self) -> Head:
        """Return the head that runs this. Raise as :meth:`options`, also for the inputs."""
        if self.command == RESTORE:
            file, given = layers(self.argv)
            return RestoreHead.of(given, file)
        kind = PROMPTED[self.command]
        options, prompts, _ = kind.command.jobs(*kind.command.layers(self.argv))
        return kind(options, prompts)

    def shell(self) -> str:
        """Return the line to type."""
        return command_line("rsd", self.command, *self.argv)

    def python(self) -> str:
        """Return the same as a call in Python: of a new prompt the head's function, which writes no folder, else the
        command's."""
        if self.command == RESTORE or "config" in self.settings:
            return f"from rsd.cli import main\n\nmain({[self.command, *self.argv]!r})"
        changes = {key: value for key, value in self.settings.items() if value is not None and key not in MACHINE}
        arguments = [repr(self.inputs[0]), *(f"{key}={value!r}" for key, value in changes.items())]
        return f"import rsd\n\nresult = rsd.{self.command.replace('-', '_')}({', '.join(arguments)})"


def continued(folder: Path) -> Request:
    """Return the request that goes on with the run in a folder, whoever began it. Raise ValueError if its config.yaml
    is missing or damaged."""
    config = read_config(folder)
    command = command_of(config)
    inputs = config["images"] if command == RESTORE else [config["prompt"]]
    settings: dict[str, Any] = {"config": folder / CONFIG, "out": folder, "resume": True}
    if command != RESTORE and not config["prompt"]:
        settings["allow_empty"] = True
    return Request(command, tuple(map(str, inputs)), settings)


def command_of(config: Mapping[str, Any]) -> str:
    """Return the command whose run has this config.yaml."""
    if "images" in config:
        return RESTORE
    return SCENE if "encoding" in config else IMAGE


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run's config.yaml. Raise ValueError if it is missing or damaged, or belongs to no run of these
    commands."""
    file = folder / CONFIG
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is missing or damaged; choose another run.") from error
    if not isinstance(found, dict) or not {"images", "prompt"} & found.keys():
        raise ValueError(f"{file} is not of a run that the page can show; choose another run.")
    return found
