"""The page: tabs to restore, draw, make scenes, compare, and look at earlier runs."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from . import forms
from .driver import Driver
from .panel import Panel
from .past import past_runs
from .request import IMAGE, RESTORE, SCENE

CSS = Path(__file__).with_name("style.css")
HEADING = "# rsd\nSeveral plausible answers to one picture or prompt, and where they differ."


def theme() -> gr.themes.Base:
    """Return the look, light and dark. Its fonts are the system's, so nothing is fetched."""
    words, code = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.themes.Soft(primary_hue="blue", font=words, font_mono=code)


def build(driver: Driver) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="rsd", analytics_enabled=False) as page:
        gr.Markdown(HEADING)
        with gr.Tabs():
            with gr.Tab("Restore", id="restore"):
                _tab(driver, RESTORE, forms.restore(driver))
            with gr.Tab("Text to image", id="image"):
                _tab(driver, IMAGE, forms.prompt(driver, IMAGE))
            with gr.Tab("Text to 3D", id="scene"):
                _tab(driver, SCENE, forms.prompt(driver, SCENE))
            with gr.Tab("Compare", id="compare"):
                _compare(driver)
            with gr.Tab("Runs", id="runs") as tab:
                past_runs(driver, tab, page)
    return page


def _tab(driver: Driver, command: str, form: forms.Form) -> None:
    panel = Panel(driver, command)
    panel.follow([form])


def _compare(driver: Driver) -> None:
    """Two methods on one picture: two runs, one after the other, side by side."""
    form = forms.restore(driver, several=True)
    panel = Panel(driver, "compare")
    panel.follow(form.each())
