"""Serve the page on this machine until Ctrl-C or SIGTERM, then stop the run in progress with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from rsd.priors import load_prior

from .driver import Driver
from .options import HOST, Ui
from .uploads import LIMIT

TEMPORARY = ".ui"
"""The folder in the folder of runs where gradio keeps uploads before they are checked."""


def prepare(runs: Path) -> None:
    """Set what gradio reads when it is imported: it reports nothing to anybody, and keeps its files with the runs."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(runs.resolve() / TEMPORARY)


def launch(driver: Driver, port: int, *, browser: bool = False) -> Any:
    """Start the server of the page in threads; return gradio's page. Only this machine can open it, and it serves the
    files in the folder of runs alone."""
    prepare(driver.runs)
    from .page import CSS, build, theme

    page = build(driver)
    page.launch(
        server_name=HOST, server_port=port, share=False, inbrowser=browser, prevent_thread_lock=True, quiet=True,
        allowed_paths=[str(driver.runs)], max_file_size=LIMIT, strict_cors=True, enable_monitoring=False,
        mcp_server=False, ssr_mode=False, footer_links=[], theme=theme(), css_paths=[CSS],
    )  # fmt: skip
    return page


def warm() -> None:
    """Load the built-in prior once, so that the first run need not import what reads it."""
    with suppress(Exception):  # the run reports what is wrong
        load_prior("heads")


def serve(options: Ui) -> int:
    """Serve the page until it is interrupted; return the exit code."""
    driver = Driver(options.runs, device=options.device)
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    threading.Thread(target=warm, daemon=True).start()
    page = launch(driver, options.port, browser=options.browser)
    print(f"rsd ui: http://{HOST}:{options.port} (only on this machine); Ctrl-C ends it", flush=True)
    ended.wait()
    print("rsd ui: ending; a run in progress keeps its checkpoint", flush=True)
    driver.close()
    page.close()
    return 0
