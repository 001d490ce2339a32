"""The options of ``rsd ui``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rsd.runs.flags import Groups

HOST = "127.0.0.1"
"""The only address that the page is served at: this machine's own."""


@dataclass(kw_only=True)
class Ui:
    """Open a page in the browser to restore pictures, draw prompts and make scenes, and to watch the particles.

    The page starts the same runs as the command line, one after the other, and writes the same folders. Only this
    machine can open it. It needs pip install '.[ui]' (gradio).
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("rsd ui", "rsd ui --port 8000 --runs results --device cuda")
    GROUPS: ClassVar[Groups] = {"page": "port browser", "runs": "runs device"}

    port: int = 7860
    """The port of the page's address, http://127.0.0.1:PORT."""
    browser: bool = False
    """Open the page in the browser."""
    runs: Path = Path("runs")
    """The folder of the runs: new ones are written to it, earlier ones are shown."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    def check(self) -> None:
        """Raise ValueError or OSError, in one sentence, for an invalid value."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; give 1 to 65535, for example 7860.")
        if self.runs.exists() and not self.runs.is_dir():
            raise FileExistsError(f"The folder of runs {self.runs} is a file; choose another --runs.")
