"""Whether claims held, and whether that is more than noise."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from .entry import Claim
from .measure import Measured

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5% quantile of Student's t for 1 to 9 degrees of freedom."""


def verdict(claim: Claim, rows: dict[str, Measured], reasons: dict[str, str], *, usual: bool) -> dict[str, Any]:
    """Whether a claim held, as claims.json has it.

    ``held``: of the means; null where a figure is missing, and ``reason`` says why. ``clear``: whether that is more
    than noise: all differences that hold are beyond their intervals, or one that does not is; null without intervals.
    ``rows``: what ran, by label; ``reasons``: why others did not; ``usual``: it is the run that :attr:`Claim.unmet` is
    about.
    """
    values: dict[str, float] = {}
    found: dict[str, Any] = {"claim": claim.text, "held": None, "clear": None}
    missing = None
    for label in claim.labels:
        value = rows[label].mean(claim.figure) if label in rows else None
        if value is not None:
            values[label] = value
        elif missing is None:
            missing = reasons.get(label, f"{label} has no {claim.figure}: it was not measured")
    between = differences(claim, rows) if missing is None else []
    found["measured"] = {
        "figure": claim.figure, "rising": list(claim.rising), "by": claim.by, "values": values, "differences": between,
    }  # fmt: skip
    if missing is not None:
        return {**found, "reason": missing}
    line = [values[one] if isinstance(one, str) else one for one in claim.rising]
    held = all(b - a > claim.by for a, b in pairwise(line))
    unmet = claim.unmet if usual and not held else ""
    return {**found, "held": held, "clear": clear(claim, between, held), "reason": unmet or None}


def clear(claim: Claim, between: list[dict[str, Any]], held: bool) -> bool | None:
    """Whether intervals leave no doubt that a claim held, or did not; None where there are too few of them."""
    if len(between) < len(claim.rising) - 1:
        return None
    if held:
        return all(d["mean"] - d["half"] > claim.by for d in between)
    return any(d["mean"] + d["half"] <= claim.by for d in between)


def differences(claim: Claim, rows: dict[str, Measured]) -> list[dict[str, Any]]:
    """From each of ``rising`` to the next: the mean difference over the pictures that both have, and the half-width of
    its 95% interval (paired, Student's), where there are two or more."""
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
    """A row's figure of a picture; a number stands for itself."""
    return rows[one].items.get(title, {}).get(figure) if isinstance(one, str) else one


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t; beyond the table by Abramowitz and Stegun 26.7.5, to four digits."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
