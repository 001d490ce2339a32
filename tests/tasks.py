"""Arguments of `rsd restore` for tests in which the task does not matter."""

from __future__ import annotations

from collections.abc import Iterable

SAYING = ("--task", "--mask", "--box", "--kernel", "--operator")


def tasked(arguments: Iterable[object]) -> list[str]:
    """Return the arguments as text, with the task inpaint_half_face if none of them implies a task."""
    given = [str(one) for one in arguments]
    return given if any(one.split("=")[0] in SAYING for one in given) else [*given, "--task", "inpaint_half_face"]
