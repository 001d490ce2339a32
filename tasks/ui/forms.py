"""The fields of the tabs, and the requests that they make. An empty field takes the packaged value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from rsd.formats import FORMATS

from ..inverse.methods import METHODS as RESTORING
from ..inverse.names import READ_BY, REQUIRED, TASK
from ..text_to_3d.options import METHODS as SCENE_METHODS
from ..text_to_image.options import METHODS as IMAGE_METHODS
from . import view
from .driver import Driver
from .request import IMAGE, RESTORE, SCENE, Request
from .uploads import keep, painted

AUTO = "auto"
PAINTED, ALPHA, FILE = "what I paint", "what is transparent", "a file"
LEFT_OUT = {task for name in ("box", "operator") for task in REQUIRED[name]}
"""Tasks that the page leaves to the command line: a box is painted, and an operator is code."""
PRIORS = {RESTORE: ("heads", "heads-pixels", "photos"), IMAGE: ("heads", "heads-pixels"), SCENE: ("heads-pixels",)}
NUMBERS = {"particles": "Samples", "steps": "Steps", "gamma": "γ, the repulsion", "seed": "Seed"}
SHORT = (*NUMBERS, "sigma_v", "guidance", "resolution", "mesh_resolution")
"""Fields of numbers."""


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


def number(label: str) -> Any:
    """Return a field for a number; the command line's own check reads it. gradio's field of numbers is never empty."""
    return gr.Textbox(label=label, placeholder="packaged", lines=1, max_lines=1, min_width=90)


def numbers(names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields of numbers in a row, empty at first."""
    with gr.Row():
        return {name: number(label) for name, label in names.items()}


def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are filled in, numbers as such."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        text = value.strip() if isinstance(value, str) else value
        if text not in (None, "", AUTO, False):
            found[name] = _number(text) if name in SHORT else text
    return found


def _number(text: Any) -> Any:
    """Return a text as a number; as it is if it is none, which is reported when the options are checked."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def choice(label: str, names: Sequence[str], *, own: bool = False, value: str = AUTO) -> Any:
    """Return a field with names to choose from, of which "auto" is the packaged one; ``own``: or a name of one's
    own."""
    return gr.Dropdown([AUTO, *names], value=value, label=label, allow_custom_value=own, min_width=140)


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


def restore(driver: Driver, *, several: bool = False) -> Form:
    """Return the fields of a restoration; ``several``: with two methods."""
    with gr.Row():
        with gr.Column(min_width=280):
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300,
                elem_id=f"{'compare' if several else 'restore'}-picture", buttons=[],
            )  # fmt: skip
            # the file as it is: what is no picture is reported by the check of uploads
            picture.preprocess = lambda payload: payload.path if payload else None
        with gr.Column(min_width=280):
            tasks = [(f"{name}: {what}", name) for name, (what, _) in TASK.items() if name not in LEFT_OUT]
            task = gr.Dropdown(tasks, value="inpaint_mask", label="What happened to it", filterable=True)
            mask = gr.Radio([PAINTED, ALPHA, FILE], value=PAINTED, label="What is missing")
            with gr.Row():
                methods = [choice("Method", tuple(RESTORING))]
                methods += [choice("Other method", tuple(RESTORING), value="rlsd")] if several else []
                prior = choice("Prior", PRIORS[RESTORE], own=True)
            clean = gr.Checkbox(False, label="The picture is clean: damage it first, restore it, and score the samples")
    editor = gr.ImageEditor(
        label="Paint over what is missing", type="pil", sources=[], layers=False, transforms=(), height=420,
        brush=brush(), visible=False, buttons=[],
    )  # fmt: skip
    with gr.Row(visible=False) as upload:
        file = gr.File(label="Mask, of the picture's size", file_count="single", type="filepath")
        hole = gr.Radio(["black", "white"], value="black", label="The missing pixels are")
    kernel = gr.File(label="Blur kernel, if you know it", visible=False, file_count="single", type="filepath")
    noise = "σᵥ, the measurement's noise; 0 keeps the known pixels as they are"
    fields = {**numbers(NUMBERS), **numbers({"sigma_v": noise})}

    def masked(task: str, mask: str, picture: str | None) -> tuple[Any, ...]:
        """Show what the task needs."""
        by_mask = task in REQUIRED["mask"]
        paint = brush_for(picture) if by_mask and mask == PAINTED else None
        shown: dict[str, Any] = {"value": None}
        if paint:
            shown = {"value": {"background": picture, "layers": [], "composite": None}, "brush": paint}
        return (
            gr.update(visible=by_mask), gr.update(visible=paint is not None, **shown),
            gr.update(visible=by_mask and mask == FILE), gr.update(visible=task in READ_BY["kernel"]),
        )  # fmt: skip

    for one in (task, mask, picture):
        one.change(
            masked, [task, mask, picture], [mask, editor, upload, kernel], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def settings(which: int, *values: Any) -> Request:
        (path, what, source, prior, clean, paint, mask_file, hole, kernel_file), rest = values[:9], values[9:]
        method, more = rest[which], rest[len(methods) :]
        if not path:
            raise ValueError("There is no picture; drop one on the page.")
        kept = keep(path, driver.runs)
        found = {"task": what, "method": method, "prior": prior, "clean": clean}
        if what in REQUIRED["mask"]:
            found |= _mask(source, paint, mask_file, hole, kept, driver.runs)
        if what in READ_BY["kernel"] and kernel_file:
            found["kernel"] = keep(kernel_file, driver.runs, what="kernel")
        return Request(RESTORE, (str(kept),), chosen({**found, **dict(zip(fields, more, strict=True))}))

    every = [picture, task, mask, prior, clean, editor, file, hole, kernel, *methods, *fields.values()]
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
            given = chosen({"task": task, "prior": prior, "method": method})
            inputs = (str(keep(path, driver.runs)),) if path else ()
            if task in REQUIRED["mask"]:
                given["mask"] = "alpha"  # any: it chooses no settings
            options, name = Request(RESTORE, inputs, given).options()
        except (ValueError, OSError) as error:
            return view.problem(str(error))
        return view.defaults(RESTORE, options, name)

    inputs = [picture, task, prior, method]
    for one in inputs:
        one.change(describe, inputs, line, queue=False, show_progress="hidden", api_visibility="private")


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
        return Request(command, (" ".join(text.split()),), chosen({**given, **dict(zip(fields, more, strict=True))}))

    form = Form([text, method, prior, negative, *fields.values()], make)
    line = gr.HTML(_prompt_defaults(command, AUTO, AUTO))
    for one in (method, prior):
        one.change(
            lambda method, prior: _prompt_defaults(command, method, prior), [method, prior], line, queue=False,
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
    return form


def _prompt_defaults(command: str, method: str, prior: str) -> str:
    try:
        options, name = Request(command, ("a man",), chosen({"method": method, "prior": prior})).options()
    except (ValueError, OSError) as error:
        return view.problem(str(error))
    return view.defaults(command, options, name)
