"""The example of docs/operators.md: accelerated MRI, a complex measurement, by every method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from rsd.priors import load_prior
from rsd.tasks.inverse.methods import METHODS, run_class
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.run import Settings

DOCS = Path(__file__).parents[2] / "docs" / "operators.md"
SMALL = {"resample": ("fits=2", "every=2"), "daps": ("ode=2", "langevin=3"), "latent-daps": ("ode=2", "langevin=3")}
SMALL["score-prior"] = ("batch=2", "ode=2", "layers=2", "hidden=8")


@pytest.fixture
def scanner(tmp_path, monkeypatch):
    """Write the documented module as the user's file ``mri.py``, for that size."""
    code = re.search(r"```python\n# mri.py\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)

    def at(size):
        (tmp_path / f"mri{size}.py").write_text(code.replace("AcceleratedMRI(64)", f"AcceleratedMRI({size})"))
        return make_operator("operator", size=size, operator=f"mri{size}:scanner")

    return at


def test_the_operator_passes_the_adjoint_test(scanner):
    f = scanner(64)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    u = torch.randn(2, 3, 64, 64, dtype=torch.complex128).masked_fill(~f.observed, 0)
    inner = (f(x).conj() * u).real.sum()
    assert float(inner) == pytest.approx(float((x * f.adjoint(u, x)).sum()))
    assert 0.25 < float(f.observed.float().mean()) < 0.4
    torch.testing.assert_close(f.adjoint(f(x), x), f.adjoint(f(f.adjoint(f(x), x)), x))  # A A^T = 1 where measured


@pytest.mark.parametrize("method", [name for name in METHODS if name != "hybrid"])
def test_every_method_restores_from_it(method, scanner, request):
    kind = METHODS[method].space or "latents"
    request.getfixturevalue("heads_pixels")
    folder = str(request.getfixturevalue("tiny_folder")("epsilon"))
    prior = load_prior("heads-pixels" if kind == "pixels" else folder)
    f = scanner(prior.image_size)
    x = torch.rand(1, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = measure(f, x, 0.01, seed=0)
    settings = Settings(
        method=method, particles=2, steps=3, sigma_v=0.01, hyper=SMALL.get(method, ()), gamma=0.1, lr_x=0.1, lr_z=0.1
    )
    run = run_class(method)(prior, f, y, settings, embed=lambda z: z.flatten(1))
    list(run.steps())
    images = run.finish()
    assert images.shape == (2, *x.shape[1:]) and images.isfinite().all()
