"""How far a long work is, in lines for those who see no progress bar, with an estimate of the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY, SOON = 30.0, 10.0
"""Seconds: between two lines at most; and after which the first comes, however few steps are done."""


def unseen() -> bool:
    """Whether some of what is printed goes elsewhere than to a terminal, say to a file or a job's log."""
    return not (sys.stdout.isatty() and sys.stderr.isatty())


class Progress:
    """Of ``total`` steps (or runs) ``done`` are done before; call :meth:`tick` after each of the others.

    It prints a line with an estimate after the first few (``first``), then one at least every 30 seconds, as long as
    steps are no longer than that; none after the last. ``what``: begins the lines. ``clock``: seconds, by default
    the system's.
    """

    def __init__(
        self, total: int, what: str, *, done: int = 0, first: int = 3, clock: Callable[[], float] | None = None
    ):
        self.total, self.what, self.done, self.before, self.first = total, what, done, done, first
        self.clock = clock or time.monotonic
        self.start = self.told = self.clock()
        self.warm = self.start
        self.silent = True

    def tick(self, detail: str = "") -> None:
        """One more is done. ``detail``: what else its line tells."""
        self.done += 1
        now, new = self.clock(), self.done - self.before
        if new == 1:
            self.warm = now  # the first is slower: memory is planned, kernels are chosen
        each = (now - self.warm) / (new - 1) if new > 1 else now - self.start
        first = min(self.first, max(self.total - self.before - 1, 1))
        due = now - self.told + each > EVERY  # the next one would be too late
        if self.silent:
            due = new >= first or now - self.start >= SOON
        if not due or self.done >= self.total:
            return
        self.silent, self.told = False, now
        more = f", {detail}" if detail else ""
        spent, left = spelt(now - self.start), spelt(each * (self.total - self.done))
        print(f"{self.what} {self.done} of {self.total}{more}, {spent} so far, about {left} left", flush=True)


def spelt(seconds: float) -> str:
    """A time for people: 8 s, 3 min 20 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
