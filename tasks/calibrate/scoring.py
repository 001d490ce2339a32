"""Score samples against the exact posterior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from rsd.heads.agreement import picture
from rsd.heads.attributes import ATTRIBUTES, PROBABILITIES, Head
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.data import head_at
from rsd.media import fit_to, read_image, write_png
from rsd.metrics import CONFIDENT
from rsd.priors import is_latent, load_prior
from rsd.randomness import Stream
from rsd.runs.summary import particles
from rsd.tasks.inverse.compare.pairs import Pair
from rsd.tasks.inverse.inputs import Job
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.problem import Problem, head_of, load

from .figures import (
    LEVELS,
    attribute_figures,
    bootstrap,
    calibration_error,
    crps,
    energy_score,
    interval_coverage,
    pooled,
    rank_histogram,
    tarp_shares,
    uniform_gap,
)
from .options import Calibrate
from .posterior import Posterior, Show, by_rejection, exact, read_values

EXACT, REJECTED = "exact draws", "draws by rejection"
ENCODED = "exact draws, through the autoencoder"
REFERENCES = 64
"""Number of reference points of the test of coverage with random points, for each head."""
PROMPT = "a person, front view"
"""The prompt of the draws from the prior: all the heads here face the camera."""


@dataclass(frozen=True)
class Known:
    """A degraded head and its posterior. ``hidden``: the pixels [3, H, W] that the measurement does not show, bool;
    ``pictures`` [K, 3, H, W]: one of each combination; ``mean`` and ``deviation`` [3, H, W]: the posterior's;
    ``show`` renders a ``head`` at the prior's size."""

    problem: Problem
    posterior: Posterior
    hidden: np.ndarray
    pictures: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    head: Head
    show: Show
    sigma_v: float

    @classmethod
    def of(cls, job: Job, size: int) -> Known:
        """Return what is known of a job for a prior of size x size px. Raise ValueError if nothing is hidden."""
        options = job.options
        problem = load(job.path, options, size, job.name)
        assert problem.clean is not None

        def show(head: Head) -> torch.Tensor:
            return fit_to(picture(head), size, options.fitted)[0]

        head = head_of(job.path)  # a problem has none if it is resized for a smaller prior
        assert head is not None
        posterior = exact(head, problem.y, problem.operator, options.sigma_v, show)
        if not posterior.names:
            raise ValueError(f"{options.task} hides no attribute of {job.title}; take inpaint_half_face.")
        observed = problem.operator.observed
        hidden = torch.ones(1, 1, size, size, dtype=torch.bool) if observed is None else ~observed.bool()
        pictures = posterior.pictures(show)
        mean, deviation = posterior.moments(pictures)
        return cls(
            problem,
            posterior,
            hidden[0].expand(3, -1, -1).numpy(),
            pictures,
            mean,
            deviation,
            head,
            show,
            options.sigma_v,
        )

    def rejected(self, number: int, rng: np.random.Generator) -> torch.Tensor | None:
        """Return pictures of :func:`by_rejection`, [number, 3, H, W]."""
        given, sigma_v = self.problem, self.sigma_v
        heads = by_rejection(
            self.head, given.y, given.operator, sigma_v, self.posterior, number=number, rng=rng, show=self.show
        )
        return None if heads is None else torch.cat([self.show(head) for head in heads])

    def at_hidden(self, images: torch.Tensor) -> np.ndarray:
        """Return the hidden values of images [N, 3, H, W], [N, d]."""
        return images.double().clamp(-1, 1).numpy()[:, self.hidden]


def label(pair: Pair) -> str:
    """Return the name of a row: the method and, if it repels, its gamma."""
    repels = "gamma" in METHODS[pair.method].uses
    return f"{pair.method}, γ = {pair.options.gamma:g}" if repels else pair.method


Posteriors = dict[tuple[int, str], Known]
"""What is known of each head, by the prior's size in pixels and the head's title."""


def score(
    rows: Sequence[Pair], options: Calibrate, sizes: dict[str, int], known: Posteriors
) -> Iterator[dict[str, Any]]:
    """Yield a row of calibration.json for exact draws, for draws by rejection, for exact draws through the autoencoder,
    and for each pair with finished runs. Adds to ``known`` what it lacks."""
    judge = HeadsClassifier.load()
    exact_rows: dict[str, list[dict[str, Any]]] = {}
    method_rows = []
    for pair in rows:
        size = sizes[pair.options.prior]
        heads: list[dict[str, Any]] = []
        weighted: list[dict[str, Any]] = []
        for job in pair.jobs:
            cell = pair.cell(job)
            if not cell.done:
                continue
            if (size, job.title) not in known:
                known[size, job.title] = Known.of(job, size)
            images, one = particles(cell), known[size, job.title]
            heads.append(one_head(images, one, judge, job.title, options))
            if (found := cell.metrics().get("weights")) and found["values"]:
                weights = np.array(found["values"])
                weighted.append(one_head(images, one, judge, job.title, options, weights))
        if heads:
            for name, some in ((label(pair), heads), (f"{label(pair)}, weighted", weighted)):
                facts = {"prior": pair.options.prior, "steps": pair.options.steps}
                method_rows += [summarise(name, some, options, **facts)] if some else []
    size = sizes[options.prior] if options.prior in sizes else min(sizes.values())
    prior = load_prior(options.prior) if is_latent(options.prior) else None
    for (own, title), one in known.items():
        if own != size:
            continue
        rng = np.random.default_rng([options.seed, *map(ord, title)])
        draws = one.pictures[torch.from_numpy(one.posterior.draw(options.particles, rng))]
        exact_rows.setdefault(EXACT, []).append(one_head(draws, one, judge, title, options))
        if (kept := one.rejected(options.particles, rng)) is not None:
            exact_rows.setdefault(REJECTED, []).append(one_head(kept, one, judge, title, options))
        if prior is not None:
            with torch.no_grad():
                decoded = prior.decode(prior.encode(draws)).clamp(-1, 1)
            decoded = torch.where(torch.from_numpy(one.hidden), decoded, draws)
            exact_rows.setdefault(ENCODED, []).append(one_head(decoded, one, judge, title, options))
    for name, heads in exact_rows.items():
        yield summarise(name, heads, options, prior=None, steps=None)
    yield from method_rows


def one_head(
    images: torch.Tensor, known: Known, judge: HeadsClassifier, title: str, options: Calibrate,
    weights: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare samples [N, 3, H, W] of one head with its posterior; ``weights`` [N]: theirs, which sum to 1. Ranks,
    intervals and random points are of equal samples, and None with weights."""
    rows = read_values(judge.probabilities(images), known.posterior.names, CONFIDENT)
    clean = known.problem.clean
    assert clean is not None
    samples, truth = known.at_hidden(images), known.at_hidden(clean)[0]
    deviation = known.deviation.numpy()[known.hidden]
    w = np.full(len(samples), 1 / len(samples)) if weights is None else weights
    mean = w @ samples
    variance = w @ (samples - mean) ** 2
    gap = mean - known.mean.double().numpy()[known.hidden]
    alike: dict[str, Any] = dict.fromkeys(("coverage", "ranks", "tarp"))
    if weights is None:
        references = known.at_hidden(references_of(options.seed, images.shape[-1]))
        alike = {
            "coverage": interval_coverage(samples, truth),
            "ranks": rank_histogram(samples, truth).tolist(),
            "tarp": tarp_shares(samples, truth, references).tolist(),
        }
    return {
        "head": title,
        **attribute_figures(rows, known.posterior, weights),
        "crps": crps(samples, truth, weights),
        "energy": energy_score(samples, truth, weights),
        "effective": float(1 / (w**2).sum()),
        **alike,
        "mean_error": float(np.sqrt((gap**2).mean())),
        "spread": float(np.sqrt(variance.mean() / max(float((deviation**2).mean()), 1e-12))),
    }


@cache
def references_of(seed: int, size: int) -> torch.Tensor:
    """Return pictures of other heads, [REFERENCES, 3, size, size]: the reference points of the test of coverage."""
    pictures = [picture(head_at("validation", seed * REFERENCES + k, "frontal")) for k in range(REFERENCES)]
    return torch.cat([fit_to(x, size, "resize")[0] for x in pictures])


def summarise(name: str, heads: list[dict[str, Any]], options: Calibrate, **facts: Any) -> dict[str, Any]:
    """Return a row: the means over heads, with 95% intervals by bootstrap over heads for the most important."""
    rng = np.random.default_rng(options.seed)

    def mean(figure: str, some: Sequence[dict[str, Any]] = heads) -> float | None:
        values = [head[figure] for head in some if head.get(figure) is not None]
        return float(np.mean(values)) if values else None

    def by_level(figure: str) -> dict[str, float | None]:
        values = [head[figure] for head in heads if head.get(figure) is not None]
        return {f"{q:g}": float(np.mean(part)) for q, part in zip(LEVELS, zip(*values, strict=True), strict=False)}

    ranks, tarp = ([head[name] for head in heads if head[name] is not None] for name in ("ranks", "tarp"))
    return {
        "method": name, **facts, "images": len(heads), "particles": options.particles,
        "calibration_error": calibration_error(heads),
        "calibration_error_interval": bootstrap(heads, calibration_error, rng=rng),
        **{figure: mean(figure) for figure in (
            "tv", "tv_joint", "repeats", "invented", "missed", "missed_exact", "read", "crps", "energy", "mean_error",
            "spread", "effective",
        )},
        "tv_interval": bootstrap(heads, partial(mean, "tv"), rng=rng),
        "credible": by_level("credible"),
        "coverage": by_level("coverage"),
        "ranks": np.mean(ranks, 0).tolist() if ranks else None,
        "tarp_gap": uniform_gap(np.concatenate(tarp)) if tarp else None,
        "values": pooled(heads),
        "heads": heads,
    }  # fmt: skip


def prior_frequencies(options: Calibrate) -> dict[str, Any]:
    """Draw from the prior without a measurement. Return how often its pictures show each value, beside the generator's
    probability, and the mean absolute difference. The pictures are kept in ``out/prior`` and not drawn again."""
    folder = options.out / "prior"
    files = [folder / f"{k:04d}.png" for k in range(options.prior_draws)]
    if not all(file.exists() for file in files):
        import rsd

        folder.mkdir(exist_ok=True)
        for start in range(0, len(files), 16):
            part = files[start : start + 16]
            if all(file.exists() for file in part):
                continue
            seed = int(Stream(options.seed).integers("prior draws", 0, 2**31 - 1, [start])[0])
            drawn = rsd.text_to_image(
                PROMPT, prior=options.prior, method="ancestral", particles=len(part), guidance=1.0, seed=seed
            )
            for file, image in zip(part, drawn.images, strict=True):
                write_png(file, image[None])
    images = torch.cat([read_image(file) for file in files])
    probabilities = HeadsClassifier.load().probabilities(images)
    found: dict[str, dict[str, list[float]]] = {}
    gaps = []
    for name, values in ATTRIBUTES.items():
        confidence, value = probabilities[name].max(1)
        sure = value[confidence >= CONFIDENT]
        if not len(sure):
            continue
        known = generator_probabilities(name)
        shares = [float((sure == k).double().mean()) for k in range(len(values))]
        found[name] = {option: [a, b] for option, a, b in zip(values, shares, known, strict=True)}
        gaps += [abs(a - b) for a, b in zip(shares, known, strict=True)]
    return {"draws": len(files), "values": found, "calibration_error": float(np.mean(gaps))}


def generator_probabilities(name: str) -> Sequence[float]:
    """Return the generator's probability of each value of an attribute; women with beards become men."""
    number = len(ATTRIBUTES[name])
    if name == "person":
        beard = PROBABILITIES["beard"][ATTRIBUTES["beard"].index("full")]
        man = beard + (1 - beard) / 2
        return [man, 1 - man]
    return PROBABILITIES.get(name) or [1 / number] * number
