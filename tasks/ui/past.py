"""The tab of earlier runs: a gallery of the run folders, also of those that the command line made."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import history, view
from .driver import Driver
from .forms import QUIET
from .panel import Panel, sentence


def past_runs(driver: Driver, tab: gr.Tab, page: gr.Blocks) -> None:
    """Build the tab. It lists the runs when it is opened."""
    with gr.Row():
        which = gr.Dropdown([], label="Run", scale=4, elem_id="runs-which", allow_custom_value=True)
        again = gr.Button("List again", min_width=90, scale=1)
    gallery = gr.Gallery(
        label="Runs, the newest first",
        columns=4,
        object_fit="contain",
        allow_preview=False,
        height=320,
        buttons=[],
    )
    panel = Panel(driver, "runs")
    panel.start.visible = False

    def listed() -> list[Any]:
        found = history.entries(driver.runs)
        choices = [(f"{one.about} ({one.state}): {one.name}", one.name) for one in found]
        pictures = [(str(one.picture), f"{one.about} ({one.state})") for one in found if one.picture]
        return [gr.update(choices=choices), gr.update(value=pictures)]

    def pick(event: gr.SelectData) -> Any:
        found = [one for one in history.entries(driver.runs) if one.picture]
        return found[event.index].name if event.index < len(found) else gr.skip()

    def show(name: str | None) -> tuple[str, str]:
        if not name:
            return "[]", ""
        try:
            return panel.names([driver.inside(name)]), ""
        except ValueError as error:
            return "[]", view.problem(sentence(error))

    for moment in (tab.select, again.click, page.load):
        moment(listed, None, [which, gallery], **QUIET)
    gallery.select(pick, None, which, **QUIET)
    which.change(show, which, [panel.shown, panel.error], **QUIET).then(
        panel.look, [panel.shown, panel.seen, panel.by], panel.outputs, **QUIET
    )
    panel.follow([])
