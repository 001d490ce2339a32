"""Progress lines with an estimate of the remaining time, for output that is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY, SOON = 30.0, 10.0
"""Seconds between two lines, at most; and until the first line, even after few steps."""


def output_redirected() -> bool:
    """Return whether output goes to a file, for example a job's log."""
    return not (sys.stdout.isatty() and sys.stderr.isatty())


class Progress:
    """Progress of ``total`` steps (or runs), of which ``done`` are finished; call :meth:`tick` after each other one.

    It prints a line with an estimate after the first few steps (``first``), then at least every 30 seconds unless a
    step takes longer; none after the last. ``what``: the start of each line. ``clock``: returns seconds; default: the
    system's.
    """

    def __init__(
        self, total: int, what: str, *, done: int = 0, first: int = 3, clock: Callable[[], float] | None = None
    ):
        self.total, self.what, self.done, self.before, self.first = total, what, done, done, first
        self.clock = clock or time.monotonic
        self.start = self.printed = self.clock()
        self.warm = self.start
        self.silent = True

    def tick(self, detail: str = "") -> None:
        """Count a step and print a line if one is due, with ``detail``."""
        self.done += 1
        now, new = self.clock(), self.done - self.before
        if new == 1:
            self.warm = now  # the first step is slower: it plans memory and selects kernels
        each = (now - self.warm) / (new - 1) if new > 1 else now - self.start
        first = min(self.first, max(self.total - self.before - 1, 1))
        due = now - self.printed + each > EVERY  # the next step would be too late
        if self.silent:
            due = new >= first or now - self.start >= SOON
        if not due or self.done >= self.total:
            return
        self.silent, self.printed = False, now
        more = f", {detail}" if detail else ""
        spent, left = format_duration(now - self.start), format_duration(each * (self.total - self.done))
        print(f"{self.what} {self.done} of {self.total}{more}, {spent} so far, about {left} left", flush=True)


def format_duration(seconds: float) -> str:
    """Format a duration: 8 s, 3 min 20 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
