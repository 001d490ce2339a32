"""Importance weights of repelled samples: averages over them are those of independent samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.repulsion import Interaction
from rsd.sampling import Chain, Denoiser, levels, log_ratio, sample
from rsd.spread import Spread
from rsd.tasks.text_to_image.samplers import Ancestral

MEANS = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
GROUPS = 300


def run(gamma: float, kind: str = "repulsion", groups: int = GROUPS) -> Chain:
    prior = GaussianMixture(MEANS, 0.3**2, [0.8, 0.2])
    chain = Chain(prior, Spread(range(4 * groups)), Stream(0))
    interaction = Interaction(gamma, (0.1, 0.9), ensembles=groups, embed=lambda z: z, kind=kind)
    steps = levels(prior.schedule, prior.schedule.descending(15))
    for _ in sample(chain, Ancestral(), Denoiser(prior, None, Stream(0)), levels=steps, interaction=interaction):
        pass
    return chain


@pytest.mark.slow
def test_weighted_averages_are_those_of_independent_samples():
    alone, together = run(0.0), run(0.02)
    assert alone.log_weights.tolist() == [0.0] * len(alone.z)
    w = together.log_weights.exp()
    assert float(w.mean()) == pytest.approx(1, abs=5 * float(w.std()) / len(w) ** 0.5)
    rare, repelled = ((chain.z[:, 0] > 0).double() for chain in (alone, together))
    error = float((w * (repelled - rare.mean())).std()) / len(w) ** 0.5
    assert float(repelled.mean()) > float(rare.mean()) + 0.006  # the rare mode is found more often ...
    weighted = float((w * repelled).sum() / w.sum())
    assert abs(weighted - float(rare.mean())) < 3 * error  # ... and weighted back
    assert 0.3 < float(w.sum() ** 2 / w.square().sum()) / len(w) < 0.9


def test_the_ratio_is_that_of_two_gaussians():
    push, noise = (
        torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1)
    )
    s, m = 0.7, 0.2
    z = m + push + s * noise
    with_push, without = (torch.distributions.Normal(m + p, s).log_prob(z).flatten(1).sum(1) for p in (push, 0 * push))
    assert torch.allclose(log_ratio(push, noise, s), without - with_push)
    assert log_ratio(push, None, s).isnan().all()


def test_a_checkpoint_keeps_the_weights():
    whole, part = run(0.3, groups=3), run(0.3, groups=3)
    fresh = run(0.0, groups=3)
    fresh.load_state(part.state())
    assert torch.equal(fresh.log_weights, whole.log_weights)
    old = {name: value for name, value in part.state().items() if name != "log_weights"}
    fresh.load_state(old)
    assert fresh.log_weights.isnan().all()


@pytest.fixture(params=["tiny", pytest.param("heads", marks=pytest.mark.slow)])
def networks(request, tiny_folder):
    """Flags for a tiny random prior of 16 px and pixels, or for the built-in networks, which are the defaults; and a
    gamma with which the samples keep similar weights, and one with which they do not."""
    if request.param == "heads":
        return [], "0.001", "8"
    return ["--prior", str(tiny_folder()), "--features", "pixels"], "8", "1000"


def test_a_repelled_restoration_reports_its_weights_and_shows_them(networks, tmp_path):
    from rsd.cli import main

    assert main(["heads", "--out", str(tmp_path / "heads"), "--number", "1"]) == 0
    command = ["restore", str(tmp_path / "heads"), "--clean", "--task", "inpaint_half_face", "--steps", "4", "-n", "2"]
    flags, little, much = networks
    command += flags
    found = {}
    for gamma in ("0", little, much):
        assert main([*command, "--gamma", gamma, "--out", str(tmp_path / gamma)]) == 0
        [folder] = [path for path in (tmp_path / gamma).iterdir() if path.is_dir()]
        found[gamma] = json.loads((folder / "metrics.json").read_text()), folder / "grid.png"
    assert "weights" not in found["0"][0]
    weak, strong = (found[gamma][0]["weights"] for gamma in (little, much))
    assert sum(weak["values"]) == pytest.approx(1) and 1.5 < weak["effective"] < 2
    assert strong["effective"] < 1.001  # nearly all of the weight is one sample's, so the grid has no weights
    plain, weighted, hidden = (np.asarray(Image.open(grid))[:20] for _, grid in found.values())
    assert np.array_equal(plain, hidden) and not np.array_equal(plain, weighted)
