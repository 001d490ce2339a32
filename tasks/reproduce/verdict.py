"""Decide whether claims held, did not, or are undecided within their confidence intervals."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from .experiments.entry import Claim

if TYPE_CHECKING:  # the list of experiments needs no torch
    from .measure import Measured

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5% quantile of Student's t for 1 to 9 degrees of freedom."""


HELD, NOT_HELD, UNDECIDED, NOT_MEASURED = STATES = ("held", "not held", "undecided", "not measured")
NOISE, NO_INTERVAL = "within noise", "no interval: too few images, prompts or pairs were measured"


def verdict(claim: Claim, rows: dict[str, Measured], reasons: dict[str, str], *, usual: bool) -> dict[str, Any]:
    """Return the verdict on a claim, as in claims.json.

    ``state``: one of :data:`STATES`, from the paired intervals (:func:`state_of`). ``held``: the same as true, false,
    or null for the last two, with a ``reason``. ``clear``: whether intervals decide; null without intervals. ``means``:
    whether the means alone rise as claimed. ``rows``: the rows that ran, by label; ``reasons``: why others did not;
    ``usual``: whether this is the run that :attr:`Claim.unmet` refers to.
    """
    values: dict[str, float] = {}
    missing = None
    for label in claim.labels:
        value = rows[label].mean(claim.figure) if label in rows else None
        if value is not None:
            values[label] = value
        elif missing is None:
            missing = reasons.get(label, f"{label} has no {claim.figure}: it was not measured")
    between = differences(claim, rows) if missing is None else []
    measured = {
        "figure": claim.figure, "rising": list(claim.rising), "by": claim.by, "values": values, "differences": between,
    }  # fmt: skip
    if missing is not None:
        return claim_row(claim.text, NOT_MEASURED, None, None, measured, missing)
    line = [values[one] if isinstance(one, str) else one for one in claim.rising]
    means = all(b - a > claim.by for a, b in pairwise(line))
    state, clear = state_of(claim.by, len(claim.rising) - 1, between)
    unmet = claim.unmet if usual and (state == NOT_HELD or not means) else ""
    return claim_row(claim.text, state, clear, means, measured, unmet)


def claim_row(
    text: str, state: str, clear: bool | None, means: bool | None, measured: dict[str, Any], reason: str
) -> dict[str, Any]:
    """Return a claim as in claims.json. An undecided one gets its reason: within noise, or without an interval."""
    if state == UNDECIDED:
        why = NO_INTERVAL if clear is None else NOISE
        reason = reason if reason.startswith(why) else f"{why}. {reason}" if reason else why
    held = {HELD: True, NOT_HELD: False}.get(state)
    return {
        "claim": text, "held": held, "state": state, "clear": clear, "means": means, "measured": measured,
        "reason": reason or None,
    }  # fmt: skip


def state_of(by: float, steps: int, between: list[dict[str, Any]]) -> tuple[str, bool | None]:
    """Return the state and whether intervals decide it, None if there are too few of them.

    ``between``: the differences with an interval, of ``steps``. A claim held if all of them exceed ``by`` by more than
    their interval, and did not hold if one is below by as much; else it is undecided.
    """
    if any(d["mean"] + d["half"] <= by for d in between):
        return NOT_HELD, True
    if len(between) < steps:
        return UNDECIDED, None
    if all(d["mean"] - d["half"] > by for d in between):
        return HELD, True
    return UNDECIDED, False


def with_state(claim: dict[str, Any]) -> dict[str, Any]:
    """Return a claim of claims.json with its state, also one from an older version, in which ``held`` was about the
    means and ``clear`` about noise."""
    if "state" in claim:
        return claim
    held, clear = claim["held"], claim["clear"]
    state = NOT_MEASURED if held is None else UNDECIDED if not clear else HELD if held else NOT_HELD
    return claim_row(claim["claim"], state, clear, held, claim["measured"], claim.get("reason") or "")


def differences(claim: Claim, rows: dict[str, Measured]) -> list[dict[str, Any]]:
    """Return, from each of ``rising`` to the next, the mean difference over the images that both have, and the
    half-width of its 95% interval (paired, Student's), if there are two or more images."""
    found = []
    for a, b in pairwise(claim.rising):
        known = {title for one in (a, b) if isinstance(one, str) for title in rows[one].items}
        pairs = [tuple(value(one, title, claim.figure, rows) for one in (a, b)) for title in sorted(known)]
        change = [y - x for x, y in pairs if x is not None and y is not None]
        if len(change) > 1:
            half = student(len(change) - 1) * stdev(change) / math.sqrt(len(change))
            found.append({"from": a, "to": b, "mean": fmean(change), "half": half, "number": len(change)})
    return found


def value(one: str | float, title: str, figure: str, rows: dict[str, Measured]) -> float | None:
    """Return a row's figure of an image; a number stands for itself."""
    return rows[one].items.get(title, {}).get(figure) if isinstance(one, str) else one


def student(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t; beyond the table by Abramowitz and Stegun 26.7.5, to four digits."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
