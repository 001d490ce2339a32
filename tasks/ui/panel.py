"""The lower part of a tab: run, cancel, go on; the particles while they move; the samples when they are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from rsd.errors import describe, is_mistake
from rsd.runs.folder import METRICS

from . import history, view
from .driver import Driver, can_continue
from .forms import QUIET, Form
from .history import Ranking
from .request import SCENE, continued

BY = {"fit": "fit", "difference from the others": "difference", "number": ""}
"""How samples are ordered."""
PERIOD = 1.0
"""Seconds between two looks at a run."""


@lru_cache(maxsize=64)
def _ranked(folder: Path, time: int) -> Ranking:
    return history.rank(folder)


def ranking(folder: Path) -> Ranking:
    """Return how the samples of a run rank; computed once for each result."""
    file = folder / METRICS
    return _ranked(folder, file.stat().st_mtime_ns) if file.exists() else Ranking([])


def sentence(error: Exception) -> str:
    """Return an error as the command line prints it."""
    return str(error) if is_mistake(error) and str(error) else describe(error)


class Panel:
    """Shows the run, or the two runs, that a tab has started. ``name``: of the tab, in the browser's storage.

    The browser remembers only the folders: after a reload, or in a tab that was closed meanwhile, the page shows the
    same runs from their folders.
    """

    def __init__(self, driver: Driver, name: str):
        self.driver, self.name = driver, name
        self.shown = gr.BrowserState("[]", storage_key=f"rsd-{name}", secret="rsd")
        self.seen = gr.State("")
        with gr.Row():
            self.start = gr.Button("Run", variant="primary", elem_id=f"{name}-run", min_width=90)
            self.stop = gr.Button("Cancel", elem_id=f"{name}-cancel", interactive=False, min_width=90)
            self.go_on = gr.Button("Go on", elem_id=f"{name}-resume", interactive=False, min_width=90)
        self.error = gr.HTML(elem_id=f"{name}-error")
        self.view = gr.HTML(view.status(driver, None), elem_id=f"{name}-view")
        self.by = gr.Radio(list(BY), value="fit", label="Order the samples by", visible=name != SCENE)
        with gr.Accordion("Copy as command", open=False):
            self.line = gr.Code(label="Command line", language="shell", interactive=False, lines=1, wrap_lines=True)
            self.call = gr.Code(label="Python", language="python", interactive=False, lines=1, wrap_lines=True)
        self.timer = gr.Timer(PERIOD)

    def follow(self, forms: Sequence[Form]) -> None:
        """Start the forms' requests with the buttons, and follow their runs."""
        every = list(forms[0].fields) if forms else []

        def run(shown: str, *values: Any) -> tuple[str, str]:
            try:
                requests = [form.make(*values) for form in forms]
                if len({one.options()[0].method for one in requests}) < len(requests):  # auto may be the other one
                    raise ValueError("Both methods are the same; choose another one.")
                jobs = [self.driver.submit(request) for request in requests]
            except Exception as error:
                return shown, view.problem(sentence(error))
            return self.names([job.folder for job in jobs]), ""

        def cancel(shown: str) -> str:
            for folder in self.folders(shown):
                if (job := self.driver.job(folder)) and job.live:
                    self.driver.cancel(job)
            return ""

        def resume(shown: str) -> str:
            try:
                for folder in self.folders(shown):
                    if self.resumable(folder):
                        self.driver.resume(folder)
            except Exception as error:
                return view.problem(sentence(error))
            return ""

        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        look: dict[str, Any] = {"fn": self.look, "inputs": [self.shown, self.seen, self.by], "outputs": self.outputs}
        self.start.click(run, [self.shown, *every], [self.shown, self.error], **quick).then(**look, **QUIET)
        self.stop.click(cancel, self.shown, self.error, **QUIET).then(**look, **QUIET)
        self.go_on.click(resume, self.shown, self.error, **QUIET).then(**look, **QUIET)
        self.watch()

    def watch(self) -> None:
        """Look at the shown runs again and again."""
        self.timer.tick(self.look, [self.shown, self.seen, self.by], self.outputs, **QUIET)
        self.by.change(self.look, [self.shown, self.seen, self.by], self.outputs, **QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`look` renews."""
        return [self.seen, self.view, self.stop, self.go_on, self.line, self.call]

    def names(self, folders: Sequence[Path]) -> str:
        """Return folders as the browser keeps them."""
        return json.dumps([view.shown_name(self.driver, folder) for folder in folders])

    def folders(self, shown: str | None) -> list[Path]:
        """Return the folders that the browser remembers, without those that have gone. What it sends may be
        anything."""
        try:
            names = json.loads(shown or "[]")
            found = [self.driver.inside(str(name)) for name in names if isinstance(names, list)]
        except (ValueError, TypeError):
            return []
        return [folder for folder in found[:2] if self.driver.job(folder) or can_continue(folder) or _done(folder)]

    def resumable(self, folder: Path) -> bool:
        """Return whether a run can go on."""
        job = self.driver.job(folder)
        if job and job.live:
            return False
        return can_continue(folder) or bool(job and job.state == "stopped" and not _done(folder))

    def look(self, shown: str | None, seen: str, by: str) -> list[Any]:
        """Return what has changed of the shown runs since ``seen``."""
        folders = self.folders(shown)
        pieces = [self.piece(folder, by) for folder in folders] or [view.status(self.driver, None)]
        if len(pieces) == 2:
            pieces = [view.method(self.driver, folder) + piece for folder, piece in zip(folders, pieces, strict=True)]
        body = view.pair("two runs", *pieces) if len(pieces) == 2 else pieces[0]
        jobs = [self.driver.job(folder) for folder in folders]
        live = any(job and job.live for job in jobs)
        ready = any(map(self.resumable, folders))
        mark = str(hash((body, live, ready, tuple(folders))))
        if mark == seen:
            return [gr.skip()] * len(self.outputs)
        line, call = self.texts(folders)
        return [mark, body, gr.update(interactive=live), gr.update(interactive=ready), line, call]

    def piece(self, folder: Path, by: str) -> str:
        """Return a run as HTML."""
        shown = view.status(self.driver, folder) + view.moving(folder)
        return shown + view.result(folder, ranking(folder), BY.get(by, "")) if _done(folder) else shown

    def texts(self, folders: Sequence[Path]) -> tuple[str, str]:
        """Return the command lines and the Python calls of runs."""
        requests = []
        for folder in folders:
            job = self.driver.job(folder)
            try:
                requests.append(job.request if job else continued(folder))
            except ValueError:
                continue
        return "\n".join(one.shell() for one in requests), "\n\n".join(one.python() for one in requests)


def _done(folder: Path) -> bool:
    return (folder / METRICS).exists()
