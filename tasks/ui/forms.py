"""The fields of the tabs, and the requests that they make. An empty field takes the packaged value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from PIL import Image

from rsd import media
from rsd.formats import FORMATS
from rsd.runs.flags import docs_of, fields_of

from ..inverse.damage import scratched, write_proposal
from ..inverse.methods import METHODS as RESTORING
from ..inverse.names import READ_BY_SOME, REQUIRED, TASK, reads
from ..inverse.options import Restore
from ..text_to_3d.options import METHODS as SCENE_METHODS
from ..text_to_image.options import METHODS as IMAGE_METHODS
from . import view
from .driver import Driver
from .request import IMAGE, KINDS, RESTORE, SCENE, Request
from .uploads import keep, painted

AUTO = "auto"
PAINTED, ALPHA, FILE = "what I paint", "what is transparent", "a file"
LEFT_OUT = {task for name in ("box", "operator") for task in REQUIRED[name]}
"""Tasks that the page leaves to the command line: a box is painted, and an operator is code."""
PRIORS = {
    RESTORE: ("heads", "heads-pixels", "photos"),
    IMAGE: ("heads", "heads-pixels"),
    SCENE: ("heads-views", "heads", "heads-pixels"),
}
NUMBERS = {"particles": "Samples", "steps": "Steps", "gamma": "γ, the repulsion", "seed": "Seed"}
OWN = tuple(name for name in READ_BY_SOME if name not in (*REQUIRED, "mask_hole", "propose"))
"""The options that only some tasks read. The mask's are chosen by painting, and "propose" is a button."""
YES, NO = "yes", "no"
FIRST = "inpaint_mask"
"""The task that is chosen at first."""
NO_PICTURE = "There is no picture; drop one on the page."
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Events that answer at once, and are no API."""


@dataclass(frozen=True)
class Form:
    """``fields``: gradio's components; ``make``: from their values to a request."""

    fields: Sequence[Any]
    make: Callable[..., Request]
    other: Callable[..., Request] | None = None
    """The second request of a comparison."""

    def each(self) -> list[Form]:
        """Return the forms of the requests that this one makes."""
        return [self, Form(self.fields, self.other)] if self.other else [self]


def number(label: str, about: str | None = None) -> Any:
    """Return a field for a number; the command line's own check reads it. gradio's field of numbers is never empty."""
    info = spoken(about) if about else None
    return gr.Textbox(label=label, info=info, placeholder="packaged", lines=1, max_lines=1, min_width=90)


def numbers(names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields of numbers in a row, empty at first."""
    with gr.Row():
        return {name: number(label) for name, label in names.items()}


def spoken(text: str) -> str:
    """Return a text about options for the page: its fields in quotes for the flags, without those in brackets."""
    text = re.sub(r" \(--[^)]*\)", "", text)
    text = re.sub(r"--([\w-]+)", lambda flag: f"“{flag[1].replace('-', ' ').capitalize()}”", text)
    return text.replace("“Sigma v”", "σᵥ")


def own_field(name: str, tab: str) -> Any:
    """Return the field of an option that only some tasks read, in a tab. Its kind, its words and its choices are those
    of the option's declaration."""
    field, doc = fields_of(Restore)[name], docs_of(Restore)[name]
    about = spoken(re.sub(r"^\w+: | \(default: .*\)|\.$", "", doc))
    default = re.search(r"\(default: (.*)\)", spoken(doc))
    label = field.plain.replace("_", " ").capitalize()
    words: dict[str, Any] = {"label": label, "info": about, "elem_id": f"{tab}-{field.plain}"}
    words["visible"] = reads(FIRST, name)
    if field.each is Path:  # a field for files shows its label alone
        words |= {"label": f"{label}: {words.pop('info')}"}
        return gr.File(file_count="single", type="filepath", height=120, **words)
    names = (YES, NO) if field.each is bool else get_args(field.each)
    if names:
        words["info"] += f"; {AUTO}: {default[1]}" if default else ""
        return gr.Dropdown([AUTO, *names], value=AUTO, **words)
    return gr.Textbox(placeholder=default[1] if default else "packaged", lines=1, max_lines=1, **words)


def chosen(command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a command that are filled in, in the types of their options."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        text = value.strip() if isinstance(value, str) else value
        if text not in (None, "", AUTO, False):
            found[name] = _typed(fields_of(KINDS[command])[name].each, text)
    return found


def _typed(kind: Any, text: Any) -> Any:
    """Return a text as a number or a truth value if that is what the option takes; as it is if it is none, which is
    reported when the options are checked."""
    if kind is bool:
        return {YES: True, NO: False}.get(text, text)
    for one in (int, float) if kind in (int, float) else ():
        try:
            return one(text)
        except ValueError:
            continue
    return text


def choice(label: str, names: Sequence[str], *, own: bool = False, value: str = AUTO) -> Any:
    """Return a field with names to choose from, of which "auto" is the packaged one; ``own``: or a name of one's
    own."""
    return gr.Dropdown([AUTO, *names], value=value, label=label, allow_custom_value=own, min_width=180)


def brush(width: int = 12) -> gr.Brush:
    """Return the brush of masks, so many pixels wide."""
    return gr.Brush(colors=["#ff00ff"], color_mode="fixed", default_size=width)


def brush_for(picture: str | None) -> gr.Brush | None:
    """Return a brush a tenth of a picture wide; None if it cannot be read, which is reported below the fields."""
    try:
        with Image.open(picture or "", formats=FORMATS) as shown:
            return brush(max(2, min(shown.size) // 10))
    except Exception:  # Pillow's decoders raise many types
        return None


def _file_of(payload: Any) -> str | None:
    """Return the uploaded file; None without one."""
    return payload.path if payload else None


def restore(driver: Driver, *, several: bool = False) -> Form:
    """Return the fields of a restoration; ``several``: with two methods."""
    tab = "compare" if several else "restore"
    with gr.Row():
        with gr.Column(min_width=280):
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300,
                elem_id=f"{tab}-picture", buttons=[],
            )  # fmt: skip
            # the file as it is: what is no picture is reported by the check of uploads
            picture.preprocess = _file_of  # type: ignore[method-assign, unused-ignore]
        with gr.Column(min_width=280):
            tasks = [(f"{name}: {spoken(what)}", name) for name, (what, _) in TASK.items() if name not in LEFT_OUT]
            task = gr.Dropdown(tasks, value=FIRST, label="What happened to it", filterable=True)
            mask = gr.Radio([PAINTED, ALPHA, FILE], value=PAINTED, label="What is missing")
            with gr.Row():
                methods = [choice("Method", tuple(RESTORING), value="proximal-guidance" if several else AUTO)]
                methods += [choice("Other method", tuple(RESTORING), value="rlsd")] if several else []
                prior = choice("Prior", PRIORS[RESTORE], own=True)
            clean = gr.Checkbox(False, label="The picture is clean: damage it first, restore it, and score the samples")
    editor = gr.ImageEditor(
        label="Paint over what is missing", type="pil", sources=[], layers=False, transforms=(), height=420,
        brush=brush(), visible=False, buttons=[], elem_id=f"{tab}-editor",
    )  # fmt: skip
    with gr.Row(visible=False) as upload:
        file = gr.File(label="Mask, of the picture's size", file_count="single", type="filepath")
        hole = gr.Radio(["black", "white"], value="black", label="The missing pixels are")
    detect = gr.Button("Show the scratches", visible=False, size="sm")
    noted = gr.HTML(visible=False)
    with gr.Row():
        own = {name: own_field(name, tab) for name in OWN}
        noise = number("σᵥ, the measurement's noise", docs_of(Restore)["sigma_v"])
    fields = {**numbers(NUMBERS), "sigma_v": noise}

    def masked(task: str, mask: str, picture: str | None) -> tuple[Any, ...]:
        """Show what the task needs."""
        by_mask = task in REQUIRED["mask"]
        paint = brush_for(picture) if by_mask and mask == PAINTED else None
        shown: dict[str, Any] = {"value": None}
        if paint:
            shown = {"value": {"background": picture, "layers": [], "composite": None}, "brush": paint}
        return (
            gr.update(visible=by_mask), gr.update(visible=paint is not None, **shown),
            gr.update(visible=by_mask and mask == FILE), gr.update(visible=reads(task, "propose")),
            gr.update(visible=False), *(gr.update(visible=reads(task, name)) for name in OWN),
        )  # fmt: skip

    for one in (task, mask, picture):
        one.change(masked, [task, mask, picture], [mask, editor, upload, detect, noted, *own.values()], **QUIET)

    def scratches(path: str | None) -> Any:
        """Show what the detector takes for scratches."""
        try:
            if not path:
                raise ValueError(NO_PICTURE)
            kept = keep(path, driver.runs)
            shown = media.read_image(kept)
            known, _ = scratched(shown)
        except (ValueError, OSError) as error:
            return gr.update(value=view.problem(str(error)), visible=True)
        files = write_proposal(shown, known, kept.parent, kept.stem)
        return gr.update(value=view.scratches(1 - float(known.double().mean()), *files), visible=True)

    detect.click(scratches, picture, noted, **QUIET)

    def settings(which: int, *values: Any) -> Request:
        (path, what, source, prior, clean, paint, mask_file, hole), rest = values[:8], values[8:]
        method, rest = rest[which], rest[len(methods) :]
        if not path:
            raise ValueError(NO_PICTURE)
        kept = keep(path, driver.runs)
        found = {"task": what, "method": method, "prior": prior, "clean": clean}
        if what in REQUIRED["mask"]:
            found |= _mask(source, paint, mask_file, hole, kept, driver.runs)
        for name, value in zip([*own, *fields], rest, strict=True):
            if name in own and not reads(what, name):
                continue  # it is hidden
            given = fields_of(Restore)[name].each is Path and value
            found[name] = keep(value, driver.runs, what=name) if given else value
        return Request(RESTORE, (str(kept),), chosen(RESTORE, found))

    every = [picture, task, mask, prior, clean, editor, file, hole, *methods, *own.values(), *fields.values()]
    form = Form(
        every, lambda *values: settings(0, *values), (lambda *values: settings(1, *values)) if several else None
    )
    _restoration_defaults(form, driver, picture, task, prior, methods[0])
    return form


def _mask(source: str, paint: Any, file: str | None, hole: str, picture: Path, runs: Path) -> dict[str, Any]:
    if source == ALPHA:
        return {"mask": "alpha"}
    if source == PAINTED:
        return {"mask": painted(paint, picture, runs)}
    if not file:
        raise ValueError("There is no mask; give a file, or choose another mask.")
    kept = keep(file, runs, what="mask", arrays=False)
    return {"mask": kept} | ({"mask_hole": hole} if hole != "black" else {})


def _restoration_defaults(form: Form, driver: Driver, picture: Any, task: Any, prior: Any, method: Any) -> None:
    """Show the packaged settings of the task, the method and the prior."""
    line = gr.HTML(elem_id=f"{'compare' if form.other else 'restore'}-defaults")

    def describe(path: str | None, task: str, prior: str, method: str) -> str:
        try:
            given = chosen(RESTORE, {"task": task, "prior": prior, "method": method})
            inputs = (str(keep(path, driver.runs)),) if path else ()
            if task in REQUIRED["mask"]:
                given["mask"] = "alpha"  # any: it chooses no settings
            options, name = Request(RESTORE, inputs, given).options()
        except (ValueError, OSError) as error:
            return view.problem(str(error))
        return view.defaults(RESTORE, options, name)

    inputs = [picture, task, prior, method]
    for one in inputs:
        one.change(describe, inputs, line, **QUIET)


def prompt(driver: Driver, command: str) -> Form:
    """Return the fields of a prompt, for pictures or scenes."""
    text = gr.Textbox(label="Prompt", placeholder="a man with a beard", lines=1)
    with gr.Row():
        methods = IMAGE_METHODS if command == IMAGE else SCENE_METHODS
        method = choice("Method", methods)
        prior = choice("Prior", PRIORS[command], own=True)
        negative = gr.Textbox(label="What not to show", lines=1)
    fields = numbers({**NUMBERS, "guidance": "Guidance"})
    if command == SCENE:
        names = {"resolution": "Pixels of the rendered views", "mesh_resolution": "Samples a side of the mesh"}
        fields |= numbers(names)

    def make(text: str, method: str, prior: str, negative: str, *more: Any) -> Request:
        if not (text or "").strip():
            raise ValueError("The prompt is empty; say what to show.")
        given = {"method": method, "prior": prior, "negative_prompt": negative}
        settings = chosen(command, {**given, **dict(zip(fields, more, strict=True))})
        return Request(command, (" ".join(text.split()),), settings)

    form = Form([text, method, prior, negative, *fields.values()], make)
    line = gr.HTML(_prompt_defaults(command, AUTO, AUTO))
    for one in (method, prior):
        one.change(lambda method, prior: _prompt_defaults(command, method, prior), [method, prior], line, **QUIET)
    return form


def _prompt_defaults(command: str, method: str, prior: str) -> str:
    try:
        options, name = Request(command, ("a man",), chosen(command, {"method": method, "prior": prior})).options()
    except (ValueError, OSError) as error:
        return view.problem(str(error))
    return view.defaults(command, options, name)
