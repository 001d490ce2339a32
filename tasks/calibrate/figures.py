"""Figures that compare samples with a known distribution: of attributes (discrete) and of pixels (continuous)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .posterior import Posterior

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Nominal probabilities of credible sets and intervals."""

Row = tuple[str | None, ...]


def frequencies(rows: Sequence[Row | None], weights: np.ndarray | None = None) -> dict[Row, float]:
    """Return how often each combination occurs among the readable samples; ``weights`` [N]: those of the samples (None:
    equal). Empty if no sample is readable."""
    w = np.ones(len(rows)) if weights is None else weights
    found: dict[Row, float] = {}
    for row, weight in zip(rows, w, strict=True):
        if row is not None:
            found[row] = found.get(row, 0.0) + float(weight)
    total = sum(found.values())
    return {row: weight / total for row, weight in found.items()} if total else {}


def total_variation(a: Mapping[Any, float], b: Mapping[Any, float]) -> float:
    """Return half the sum of |a - b| over all keys of two distributions."""
    return sum(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in {*a, *b}) / 2


def marginal(joint: Mapping[Row, float], k: int) -> dict[str | None, float]:
    """Return the distribution of the k-th attribute."""
    found: dict[str | None, float] = {}
    for row, weight in joint.items():
        found[row[k]] = found.get(row[k], 0.0) + weight
    return found


def credible_mass(joint: Mapping[Row, float], posterior: Mapping[Row, float], level: float) -> float:
    """Return the posterior probability of the smallest set of combinations that has ``level`` of the samples. The set
    is extended in order of frequency; its last member counts in part, so that an exact sampler reaches ``level``."""
    mass, held = 0.0, 0.0
    for row, weight in sorted(joint.items(), key=lambda item: -item[1]):
        part = min(1.0, (level - held) / weight)
        mass += part * posterior.get(row, 0.0)
        held += part * weight
        if held >= level - 1e-12:
            break
    return mass


def attribute_figures(
    rows: Sequence[Row | None], posterior: Posterior, weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Compare the values in the samples of one head with the posterior.

    ``rows``: for each sample its combination, None if it cannot be read. Returns ``read``: the readable share; ``tv``:
    total variation, mean over attributes; ``tv_joint``: of combinations; ``repeats``: the probability that two samples
    are the same combination, divided by the posterior's (1: as diverse as the posterior; above: less); ``invented``:
    the share of samples with posterior probability 0; ``missed``: the posterior probability of combinations in no
    sample, and ``missed_exact``, what as many exact draws miss on average; ``credible``: :func:`credible_mass` at
    :data:`LEVELS`; ``values``: for each attribute and value the frequency and the posterior. All but ``read`` are None
    if nothing can be read.
    """
    known = dict(zip(posterior.values, map(float, posterior.weights), strict=True))
    number = sum(row is not None for row in rows)
    joint = frequencies(rows, weights)
    found: dict[str, Any] = {"read": number / len(rows), "samples": number}
    if not joint:
        return found | dict.fromkeys(("tv", "tv_joint", "repeats", "invented", "missed", "missed_exact", "credible"))
    marginals = [(marginal(joint, k), marginal(known, k)) for k in range(len(posterior.names))]
    found["tv"] = float(np.mean([total_variation(a, b) for a, b in marginals])) if marginals else 0.0
    found["tv_joint"] = total_variation(joint, known)
    square = sum(p**2 for p in known.values())
    pairs = (sum(w**2 for w in joint.values()) * number - 1) / (number - 1) if number > 1 and weights is None else None
    found["repeats"] = None if pairs is None else pairs / square
    found["invented"] = sum(w for row, w in joint.items() if row not in known)
    found["missed"] = sum(p for row, p in known.items() if row not in joint)
    found["missed_exact"] = sum(p * (1 - p) ** number for p in known.values())
    found["credible"] = [credible_mass(joint, known, level) for level in LEVELS]
    found["values"] = {
        name: {
            str(value): [a.get(value, 0.0), b.get(value, 0.0)] for value in sorted({*a, *b}, key=str)
        }
        for name, (a, b) in zip(posterior.names, marginals, strict=True)
    }  # fmt: skip
    return found


def pooled(heads: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return for each attribute and value the mean frequency and the mean posterior probability over heads, which are
    from :func:`attribute_figures`."""
    sums: dict[str, dict[str, list[list[float]]]] = {}
    for head in heads:
        for name, values in (head.get("values") or {}).items():
            for value, pair in values.items():
                sums.setdefault(name, {}).setdefault(value, []).append(pair)
    return {
        name: {value: np.mean(pairs, 0).tolist() for value, pairs in values.items()} for name, values in sums.items()
    }


def calibration_error(heads: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean over attribute values of |mean frequency - mean posterior|, both over heads. It measures bias: by
    chance it falls as 1/sqrt(samples in all), unlike the total variation of each head. None if no head can be read."""
    gaps = [abs(a - b) for values in pooled(heads).values() for a, b in values.values()]
    return float(np.mean(gaps)) if gaps else None


def bootstrap(heads: Sequence[Any], figure: Any, *, rng: np.random.Generator, times: int = 400) -> tuple[float, float]:
    """Return the 95% interval of ``figure(heads)`` when the heads are drawn again with replacement."""
    values = []
    for _ in range(times):
        value = figure([heads[k] for k in rng.integers(len(heads), size=len(heads))])
        if value is not None:
            values.append(value)
    low, high = np.quantile(values, (0.025, 0.975)) if values else (np.nan, np.nan)
    return float(low), float(high)


def crps(samples: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the continuous ranked probability score, mean over entries: E|X - x| - E|X - X'| / 2, with the unbiased
    estimate of the second term (Gneiting and Raftery 2007; Ferro 2014). 0 is best, in units of the values.

    ``samples`` [N, d], N >= 2; ``truth`` [d]; ``weights`` [N], which sum to 1 (None: equal).
    """
    n = len(samples)
    w = np.full(n, 1 / n) if weights is None else weights
    order = np.argsort(samples, 0)
    x = np.take_along_axis(samples, order, 0)
    v = w[order]
    before = np.cumsum(v, 0) - v
    # sum_ij w_i w_j |x_i - x_j| = 2 sum_i w_i x_i (weight before i - weight after i)
    spread = 2 * (v * x * (before - (1 - before - v))).sum(0)
    fair = spread / (1 - (w**2).sum())
    return float(((w[:, None] * np.abs(samples - truth)).sum(0) - fair / 2).mean())


def energy_score(samples: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the energy score, the CRPS of all entries together: E|X - x| - E|X - X'| / 2 with the lengths of
    differences divided by sqrt(d), and the unbiased estimate of the second term (Gneiting and Raftery 2007). 0 is best.

    ``samples`` [N, d], N >= 2; ``truth`` [d]; ``weights`` [N], which sum to 1 (None: equal)."""
    n, d = samples.shape
    w = np.full(n, 1 / n) if weights is None else weights
    apart = np.array([np.linalg.norm(samples - one, axis=1) for one in samples])
    fair = (w @ apart @ w) / (1 - (w**2).sum())
    return float((w @ np.linalg.norm(samples - truth, axis=1) - fair / 2) / np.sqrt(d))


def interval_coverage(
    samples: np.ndarray, truth: np.ndarray, levels: Sequence[float] = LEVELS, *, error: np.ndarray | None = None
) -> list[float]:
    """Return for each level the share of entries in which the truth lies in the central interval of the samples.

    The interval holds the truth with probability ``level`` if truth and samples are exchangeable: rank r of the truth
    among N samples is then uniform on 0..N, and ties are broken at random in expectation. ``samples`` [N, d]; ``truth``
    [d]; ``error`` [N, d]: independent errors that are added to the samples before (the error of an autoencoder, which
    the samples cannot have).
    """
    x = samples if error is None else samples + error
    n = len(x)
    below, equal = (x < truth).sum(0), (x == truth).sum(0)
    found = []
    for level in levels:
        # Ranks in the central part; fractional at its edges.
        low, high = (n + 1) * (1 - level) / 2, (n + 1) * (1 + level) / 2
        ranks = np.arange(n + 1)
        inside = np.clip(np.minimum(ranks + 1, high) - np.maximum(ranks, low), 0, 1)
        total = np.concatenate([[0], np.cumsum(inside)])
        found.append(float(((total[below + equal + 1] - total[below]) / (equal + 1)).mean()))
    return found


def rank_histogram(samples: np.ndarray, truth: np.ndarray, bins: int = 11) -> np.ndarray:
    """Return the histogram of the truth's rank among the samples, as shares [bins]; ties are spread evenly. Uniform for
    exact samples (simulation-based calibration, Talts et al. 2018)."""
    n = len(samples)
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    edges = np.linspace(0, n + 1, bins + 1)
    low, high = below.astype(float), (below + equal + 1).astype(float)
    shares = []
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        overlap = np.clip(np.minimum(high, right) - np.maximum(low, left), 0, None)
        shares.append((overlap / (high - low)).mean())
    return np.array(shares)


def tarp_shares(samples: np.ndarray, truth: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return for each reference point the share of samples nearer to it than the truth is, [R]. Over many problems
    these shares are uniform for exact samples (tests of accuracy with random points, Lemos et al. 2023). Ties count
    half.

    ``samples`` [N, d]; ``truth`` [d]; ``references`` [R, d].
    """
    d = np.linalg.norm(samples[None] - references[:, None], axis=2)
    own = np.linalg.norm(truth - references, axis=1)[:, None]
    return ((d < own).sum(1) + 0.5 * (d == own).sum(1)) / len(samples)


def uniform_gap(shares: np.ndarray) -> float:
    """Return the largest difference between the distribution of ``shares`` and the uniform one (Kolmogorov-Smirnov)."""
    x = np.sort(np.asarray(shares, dtype=float))
    n = len(x)
    return float(max((np.arange(1, n + 1) / n - x).max(), (x - np.arange(n) / n).max()))
