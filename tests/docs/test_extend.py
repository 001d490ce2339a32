"""The code of docs/extend.md, run as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.media import read_image, write_png
from rsd.tasks.inverse import methods
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.operators.base import measure

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
PRIOR, FUNCTION, OPERATOR, FEATURES, METHOD = BLOCKS


def run(block: str, name: str) -> ModuleType:
    """Load a block of the page as a module."""
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(block, str(PAGE), "exec"), module.__dict__)
    return module


@pytest.fixture
def prior():
    return run(PRIOR, "page_prior").Dim()


def test_each_example_has_about_twenty_lines():
    assert all(sum(bool(line.strip()) for line in block.splitlines()) <= 30 for block in BLOCKS)


def test_the_prior_is_exact(prior):
    """It predicts the noise relative to its mean, so none at z_t = alpha mean."""
    alpha = prior.schedule.alpha(500)
    assert prior.epsilon(torch.full((2, 3, 16, 16), alpha * -0.5), 500).abs().max() < 1e-6
    f = make_operator("inpaint_half_face", size=16)
    x = torch.full((1, 3, 16, 16), -0.5) + 0.1 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = dict(features="pixels", particles=2, steps=50, gamma=0.0)
    answers = rsd.restore(measure(f, x, 0.001, seed=0), f, prior=prior, **settings).images
    hidden = ~f.observed.expand_as(answers)
    assert (answers - x)[~hidden].abs().mean() < 0.05
    assert answers[hidden].mean() == pytest.approx(-0.5, abs=0.1)


def test_the_prior_on_the_command_line(tmp_path, monkeypatch, capsys):
    """Every measured pixel is the prior's mean, so the hidden ones become the mean too."""
    (tmp_path / "page_priors.py").write_text(PRIOR + "\nnumber = 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "grey.png", torch.full((1, 3, 16, 16), -0.5))
    command = ["restore", "grey.png", "--clean", "--task", "inpaint_half_face", "--features", "pixels", "-n", "2"]
    command += ["--div-features", "pixels", "--steps", "50", "--gamma", "0", "--out", "out"]
    assert main([*command, "--prior", "page_priors:Dim"]) == 0
    assert read_image(tmp_path / "out" / "particles" / "00.png").mean() == pytest.approx(-0.5, abs=0.05)
    capsys.readouterr()
    for name, output in (("page_priors:number", "has no epsilon"), ("no_such_module:Dim", "cannot be imported")):
        assert main([*command, "--prior", name]) == 2
        assert output in capsys.readouterr().err


def test_the_operators(prior, tmp_path, monkeypatch):
    (tmp_path / "page_operators.py").write_text(FUNCTION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    x = torch.randn(1, 3, 16, 16)
    y = x[..., ::2, :]
    answers = rsd.restore(y, "page_operators:every_other_row", prior=prior, features="pixels", steps=5, particles=2)
    assert answers.images.shape == (2, 3, 16, 16)
    grey = run(OPERATOR, "page_operator").Grey()
    assert grey(x).shape == (1, 1, 16, 16) and grey.linear
    v = torch.randn(1, 1, 16, 16)
    assert float((grey(x) * v).sum()) == pytest.approx(float((x * grey.adjoint(v, x)).sum()), rel=1e-4)


def test_the_features_keep_samples_apart(prior):
    colours = run(FEATURES, "page_features").colours
    assert colours(torch.zeros(2, 3, 16, 16)).shape == (2, 48)
    f = make_operator("inpaint_half_face", size=16)
    y = f(torch.full((1, 3, 16, 16), -0.5))
    apart = []
    for gamma in (0.0, 100.0):
        a, b = rsd.restore(y, f, prior=prior, features=colours, particles=2, steps=50, gamma=gamma).images
        apart.append(float((colours(a[None]) - colours(b[None])).norm()))
    assert apart[1] > 1.2 * apart[0]


def test_the_method_runs_by_its_module_and_name(prior, monkeypatch):
    run(METHOD, "page_method")
    monkeypatch.setitem(methods.METHODS, "page_method:Projection", None)  # so that it goes afterwards
    del methods.METHODS["page_method:Projection"]
    f = make_operator("inpaint_half_face", size=16)
    x = torch.full((1, 3, 16, 16), 0.3)
    settings = dict(features="pixels", particles=2, steps=20, hyper=("eta=0.5",))
    answers = rsd.restore(f(x), f, prior=prior, method="page_method:Projection", **settings).images
    assert (answers - x)[f.observed.expand_as(answers)].abs().max() < 1e-4
    assert answers.isfinite().all()
    with pytest.raises(ValueError, match="page_method:torch.* is not a dataclass with a method step"):
        rsd.restore(f(x), f, prior=prior, method="page_method:torch")
    run(
        "from dataclasses import make_dataclass\nBare = make_dataclass('Bare', ['eta'], namespace={'step': print})",
        "bare_method",
    )
    with pytest.raises(ValueError, match='hyper-parameter eta of the method "bare_method:Bare" has no default'):
        rsd.restore(f(x), f, prior=prior, method="bare_method:Bare")
    with pytest.raises(ValueError, match='has no hyper-parameter "zeta"'):
        rsd.restore(f(x), f, prior=prior, method="page_method:Projection", hyper=("zeta=1",))
