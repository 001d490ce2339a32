"""The exact posterior of what a measurement hides of a built-in head.

The generator's probabilities are known (:mod:`rsd.heads.attributes`), and a head can be rendered with any values. So
the posterior over the values that the measurement leaves open follows by enumeration: render every combination,
measure it, and weight it by its prior probability times the likelihood N(y; A x, sigma_v^2). The camera and the light
are those of the true head: the visible part determines them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from rsd.heads.agreement import picture
from rsd.heads.attributes import ATTRIBUTES, Head, log_probability, sample_values, visible

Measure = Callable[[torch.Tensor], torch.Tensor]
"""A, from pictures [1, 3, H, W] to measurements, zero at unobserved entries."""
Show = Callable[[Head], torch.Tensor]
"""Render a head as the picture [1, 3, H, W] in [-1, 1] that was measured."""
MOST = 20_000
"""The largest number of combinations that is enumerated."""
TRIES = 100_000
"""The largest number of draws from the prior for draws by rejection."""
NEGLIGIBLE = 1e-6
"""Posterior probability below which a combination is dropped."""


def squared_misfit(head: Head, y: torch.Tensor, measure: Measure, show: Show) -> float:
    """Return |A x - y|^2 for the picture x of a head."""
    return float((measure(show(head)) - y).abs().double().square().sum())


@dataclass(frozen=True)
class Posterior:
    """A distribution over combinations of values. ``names``: the attributes that are open and can be seen in some
    combination; ``values``: for each combination a value of each name, None where it cannot be seen (eyes behind
    sunglasses); ``weights`` [K], which sum to 1; ``heads``: a head of each combination."""

    names: tuple[str, ...]
    values: tuple[tuple[str | None, ...], ...]
    weights: np.ndarray
    heads: tuple[Head, ...]

    @cached_property
    def marginals(self) -> dict[str, dict[str | None, float]]:
        """The posterior probability of each value of each attribute."""
        found: dict[str, dict[str | None, float]] = {}
        for k, name in enumerate(self.names):
            mine = found[name] = {}
            for combination, weight in zip(self.values, self.weights, strict=True):
                mine[combination[k]] = mine.get(combination[k], 0.0) + float(weight)
        return found

    def draw(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Draw combinations, indices [number]."""
        return rng.choice(len(self.weights), size=number, p=self.weights)

    def pictures(self, show: Show) -> torch.Tensor:
        """Render a head of each combination, [K, 3, H, W] in [-1, 1]."""
        return torch.cat([show(head) for head in self.heads])

    def moments(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the posterior mean and standard deviation of each pixel, [3, H, W], from :meth:`pictures`."""
        w = torch.from_numpy(self.weights).to(pictures.dtype)[:, None, None, None]
        mean = (w * pictures).sum(0)
        return mean, (w * (pictures - mean) ** 2).sum(0).sqrt()


def candidates(head: Head, y: torch.Tensor, measure: Measure, sigma_v: float, show: Show) -> dict[str, list[str]]:
    """Return for each attribute the values that may be possible: the true one, and those whose likelihood, with all
    other values as they are, is not negligible beside it. Attributes that this head hides (eyes behind sunglasses)
    have all their values, since another open value may show them."""
    truth = squared_misfit(head, y, measure, show)
    found = {}
    for attribute, options in ATTRIBUTES.items():
        kept = []
        for option in options:
            other = replace(head, values={**head.values, attribute: option})
            misfit = truth if option == head[attribute] else squared_misfit(other, y, measure, show)
            if (misfit - truth) / (2 * sigma_v**2) < -2 * math.log(NEGLIGIBLE):
                kept.append(option)
        found[attribute] = kept
    return found


def exact(head: Head, y: torch.Tensor, measure: Measure, sigma_v: float, show: Show = picture) -> Posterior:
    """Return the exact posterior of what the measurement y = A x + v of a rendered head leaves open.

    ``sigma_v``: the standard deviation of v. Raises ValueError if more than :data:`MOST` combinations are possible.
    """
    options = candidates(head, y, measure, sigma_v, show)
    number = math.prod(map(len, options.values()))
    if number > MOST:
        raise ValueError(
            f"The measurement leaves {number:,} combinations of attributes open, more than {MOST:,}, too many to "
            "enumerate; take a task that hides less, for example inpaint_half_face."
        )
    heads = [replace(head, values=dict(zip(options, row, strict=True))) for row in itertools.product(*options.values())]
    prior = np.array([log_probability(h.values) for h in heads])
    heads = [h for h, p in zip(heads, prior, strict=True) if p > -math.inf]
    prior = prior[prior > -math.inf]
    seen = [visible(h.values, h.camera) for h in heads]
    # Heads that look the same (the colour of no hair) are rendered once.
    shown = [tuple(h[a] if s[a] else None for a in ATTRIBUTES) for h, s in zip(heads, seen, strict=True)]
    first = {row: h for row, h in zip(reversed(shown), reversed(heads), strict=True)}
    misfit = {row: squared_misfit(h, y, measure, show) for row, h in first.items()}
    logs = prior - np.array([misfit[row] for row in shown]) / (2 * sigma_v**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    merged: dict[tuple[str | None, ...], float] = {}
    for row, weight in zip(shown, weights, strict=True):
        merged[row] = merged.get(row, 0.0) + float(weight)
    kept = {row: weight for row, weight in merged.items() if weight > NEGLIGIBLE}
    varied = [k for k in range(len(ATTRIBUTES)) if len({row[k] for row in kept}) > 1]
    total = sum(kept.values())
    return Posterior(
        tuple(list(ATTRIBUTES)[k] for k in varied),
        tuple(tuple(row[k] for k in varied) for row in kept),
        np.array([weight / total for weight in kept.values()]),
        tuple(first[row] for row in kept),
    )


def weighted_draws(
    head: Head, y: torch.Tensor, measure: Measure, sigma_v: float, posterior: Posterior, *, draws: int,
    rng: np.random.Generator, show: Show = picture,
) -> Iterator[tuple[Head, float]]:  # fmt: skip
    """Draw values from the prior, ``draws`` times; yield a head with them, and its likelihood relative to the largest
    of the posterior's heads, at most 1. Attributes of which the posterior is certain are the true head's; draws of
    another person are left out, since the person depends on the beard (all other attributes are independent).

    Each picture is rendered once, so 10^5 draws take no longer than the different pictures among them."""
    certain = [a for a in ATTRIBUTES if a not in posterior.names and visible(head.values, head.camera)[a]]
    best = min(squared_misfit(h, y, measure, show) for h in posterior.heads)
    likelihood: dict[tuple[str, ...], float] = {}
    for _ in range(draws):
        drawn = sample_values(rng)
        if "person" in certain and drawn["person"] != head["person"]:
            continue
        one = replace(head, values={**drawn, **{a: head[a] for a in certain}})
        seen = visible(one.values, head.camera)
        key = tuple(one[a] if seen[a] else "" for a in ATTRIBUTES)
        if key not in likelihood:
            misfit = squared_misfit(one, y, measure, show)
            likelihood[key] = math.exp(-max(misfit - best, 0.0) / (2 * sigma_v**2))
        yield one, likelihood[key]


def check_by_drawing(
    head: Head, y: torch.Tensor, measure: Measure, sigma_v: float, posterior: Posterior, *, draws: int,
    rng: np.random.Generator, show: Show = picture,
) -> float:  # fmt: skip
    """Return the total variation between the posterior and an independent estimate of it, :func:`weighted_draws`."""
    place = {row: k for k, row in enumerate(posterior.values)}
    found, lost = np.zeros(len(place)), 0.0
    for one, weight in weighted_draws(head, y, measure, sigma_v, posterior, draws=draws, rng=rng, show=show):
        seen = visible(one.values, head.camera)
        row = tuple(one[a] if seen[a] else None for a in posterior.names)
        if row in place:
            found[place[row]] += weight
        else:
            lost += weight
    total = found.sum() + lost
    return float(np.abs(found / total - posterior.weights).sum() + lost / total) / 2


def by_rejection(
    head: Head, y: torch.Tensor, measure: Measure, sigma_v: float, posterior: Posterior, *, number: int,
    rng: np.random.Generator, show: Show = picture,
) -> list[Head] | None:  # fmt: skip
    """Return independent draws from the posterior that do not use its weights: heads drawn from the prior, each kept
    with the probability of its relative likelihood. None if fewer than ``number`` of :data:`TRIES` are kept."""
    kept: list[Head] = []
    for one, weight in weighted_draws(head, y, measure, sigma_v, posterior, draws=TRIES, rng=rng, show=show):
        if rng.random() < weight:
            kept.append(one)
        if len(kept) == number:
            return kept
    return None


def read_values(
    probabilities: Mapping[str, torch.Tensor], names: Sequence[str], confident: float
) -> list[tuple[str | None, ...] | None]:
    """Return the values that a classifier reads in each picture, in the order of ``names``; None for a picture in which
    it is not ``confident`` of one. Eyes behind sunglasses are not read: their value is None.

    ``probabilities``: for each attribute [N, K]."""
    number = len(next(iter(probabilities.values())))
    top = {name: probabilities[name].max(1) for name in {*names, "glasses"}}
    rows: list[tuple[str | None, ...] | None] = []
    for n in range(number):
        sun = ATTRIBUTES["glasses"][int(top["glasses"].indices[n])] == "sun"
        row: list[str | None] = []
        sure = True
        for name in names:
            if sun and name.endswith("_eye"):
                row.append(None)
                continue
            sure &= float(top[name].values[n]) >= confident
            row.append(ATTRIBUTES[name][int(top[name].indices[n])])
        rows.append(tuple(row) if sure else None)
    return rows
