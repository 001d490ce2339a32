"""A user's operator is tried before models are loaded. Missing gradients and values that are not finite are errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

import rsd
from rsd.cli import main
from rsd.runs import batch
from rsd.tasks.inverse import run as solve
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.operators.base import Operator
from rsd.tasks.inverse.operators.own import load_operator
from rsd.tasks.inverse.operators.trial import needs_gradient, try_out

SHAPE = (3, 16, 16)
OPERATORS = """
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d as pool

w = torch.nn.Parameter(torch.ones(1))
def cut(x): return x.detach() * 2
def numbers(x): return torch.tensor(pool(x, 2).tolist())
def unrecorded(x):
    with torch.no_grad(): return pool(x, 2)
def compared(x): return x > 0
def whole(x): return (127 * x).to(torch.int32)
def other(x): return w * torch.ones_like(x)
def by_numpy(x): return torch.as_tensor(x.numpy()[..., ::2])
def by_pil(x):
    picture = Image.fromarray(np.uint8(255 * (np.asarray(x[0].permute(1, 2, 0)).clip(-1, 1) + 1) / 2))
    return torch.as_tensor(np.asarray(picture.resize((8, 8))) / 127.5 - 1).permute(2, 0, 1)[None].float()
def rounded(x): return (4 * x).round() / 4
def signs(x): return x.sign()
def endless(x): return x / 0
def lost(x): return x * float("nan")
def curve(x): return ((x + 1) / 2) ** (1 / 2.2)
def steep(x): return (x - x).abs().sqrt() + x
def greedy(x): return x.mul_(2)
def broken(x): raise RuntimeError("mine, try .detach()")

def fine(x): return pool(x, 2)
def fourier(x): return torch.fft.rfft2(x)
def imaginary(x): return 1j * x
def cut_curve(x): return ((x.clamp(-0.999, 1) + 1) / 2) ** (1 / 2.2)
def passed(x): return x + (x.round() - x).detach()
def partly(x): return torch.cat([x.round(), x], 1)
def clipped(x): return (4 * x).clamp(-1, 1)
def scaled(x): x = x.clone(); x.mul_(2); return x
"""
NO_GRADIENT = r"has no gradient: its result is detached from x .*; write it entirely in torch functions of x"
LEAVES = r"works on a plain tensor, but fails on one that requires a gradient \(RuntimeError\): it leaves torch"
ZERO = "has a gradient of zero everywhere"
REFUSED = {
    "cut": NO_GRADIENT, "numbers": NO_GRADIENT, "unrecorded": NO_GRADIENT, "compared": NO_GRADIENT,
    "whole": NO_GRADIENT, "other": NO_GRADIENT, "by_numpy": LEAVES, "by_pil": LEAVES, "rounded": ZERO, "signs": ZERO,
    "endless": r"returned values that are not finite \(NaN or infinite\) for an image in \[-1, 1\]; fix it",
    "lost": r"returned values that are not finite \(NaN or infinite\) for an image in \[-1, 1\]; fix it",
    "curve": r"not finite \(NaN or infinite\) for an image that goes beyond \[-1, 1\]; samples do during a run: ",
    "steep": r"The gradient of given_trials:steep is not finite \(NaN or infinite\) at an image in \[-1, 1\]",
    "greedy": r"changes its argument in place; write x \* 2",
    "broken": r"failed on an image \[1, 3, 16, 16\] \(RuntimeError: mine",
}  # fmt: skip
TAKEN = ("fine", "fourier", "imaginary", "cut_curve", "passed", "partly", "clipped", "scaled")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with an image of 64 px and operators."""
    (tmp_path / "given_trials.py").write_text(OPERATORS)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("given_trials", None)


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_that_no_method_can_follow_is_rejected(here, name):
    with pytest.raises(ValueError, match=REFUSED[name]) as output:
        try_out(load_operator(f"given_trials:{name}"), SHAPE, "cpu")
    assert "given_trials:" + name in str(output.value)
    if REFUSED[name] is LEAVES:
        assert "detach" not in str(output.value)  # torch's own advice, which leads to an operator that is ignored


@pytest.mark.parametrize("name", TAKEN)
def test_an_operator_with_a_gradient_is_accepted(here, name):
    try_out(load_operator(f"given_trials:{name}"), SHAPE, "cpu")


@pytest.mark.parametrize("name", ["cut", "by_numpy", "rounded", "lost", "curve"])
@pytest.mark.parametrize("clean", [True, False])
def test_the_command_line_rejects_it_before_any_model_is_loaded(here, name, clean, monkeypatch, capsys):
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    flags = ["--task", "operator", "--operator", f"given_trials:{name}", *(["--clean"] if clean else [])]
    assert main(["restore", "photo.png", *flags]) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"rsd: given_trials:{name} ") and output.count("\n") == 1 and "lr_x" not in output


def test_a_manifests_own_operator_is_tried(here, monkeypatch, capsys):
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    line = '{"image": "photo.png", "task": "operator", "operator": "given_trials:rounded", "clean": true}\n'
    (here / "jobs.jsonl").write_text(line)
    assert main(["restore", "jobs.jsonl", "--out", "out"]) == 1
    assert f"given_trials:rounded {ZERO}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cut", "by_numpy", "rounded", "curve"])
def test_python_rejects_it_before_any_model_is_loaded(here, name, monkeypatch):
    monkeypatch.setattr(solve, "load_prior", lambda *a, **k: pytest.fail("a model was loaded"))
    shape = {"by_numpy": (1, 3, 64, 32)}.get(name, (1, 3, 64, 64))
    with pytest.raises(ValueError, match=REFUSED[name]):
        rsd.restore(torch.zeros(shape), f"given_trials:{name}")


class ByNumpy(Operator):
    """An operator that computes the mean over colours, with numpy in both directions."""

    def __init__(self, linear=True, with_adjoint=True):
        super().__init__("grey by numpy", linear=linear)
        if with_adjoint:
            self.adjoint = self.back

    def forward(self, x):
        return torch.as_tensor(np.asarray(x.detach().cpu()).mean(1, keepdims=True)).to(x)

    def back(self, y, like):
        return (y / 3).expand(-1, 3, -1, -1)


def test_methods_without_gradients_take_an_operator_with_its_own_adjoint():
    takers = {(method, step) for method in METHODS for step in ("adam", "exact") if not needs_gradient(method, step)}
    exact = {(method, "exact") for method in ("rlsd", "nonrepuls", "hybrid")}
    assert takers == exact | {(m, s) for m in ("pigdm", "fps-smc", "latino") for s in ("adam", "exact")}
    try_out(ByNumpy(), SHAPE, "cpu", gradient=False)
    for f, gradient in ((ByNumpy(), True), (ByNumpy(linear=False), False), (ByNumpy(with_adjoint=False), False)):
        with pytest.raises(ValueError, match="rlsd, nonrepuls, hybrid with the exact x-step, pigdm, fps-smc, latino"):
            try_out(f, SHAPE, "cpu", gradient=gradient)


@pytest.mark.parametrize(
    ("method", "pixels", "settings"),
    [
        ("rlsd", False, {"x_step": "exact", "lambda_": 0.1, "rho": 0.1, "lr_z": 0.4}),
        ("latino", False, {}),
        ("pigdm", True, {}),
        ("fps-smc", True, {"hyper": ("M=2",)}),
    ],
)
def test_methods_without_gradients_fit_the_measurement(tiny_folder, heads_pixels, method, pixels, settings):
    """The samples' grey equals the measurement, and the result of the same operator in torch."""
    prior = "heads-pixels" if pixels else str(tiny_folder("epsilon"))
    size = 32 if pixels else 16
    y = torch.linspace(-0.5, 0.5, size * size).view(1, 1, size, size)

    class Grey(ByNumpy):
        def forward(self, x):
            return x.mean(1, keepdim=True)

    fixed = dict(prior=prior, method=method, features="pixels", particles=1, steps=6, sigma_v=0.01, **settings)
    a, b = (rsd.restore(y, f, **fixed).images for f in (ByNumpy(), Grey()))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    if method == "rlsd":
        assert float((a.mean(1, keepdim=True) - y).abs().max()) < 0.25 * float(y.abs().max())


def test_a_deepinv_physics_is_accepted():
    class LinearPhysics(torch.nn.Module):
        def A(self, x):
            return avg_pool2d(x, 2)

        def A_adjoint(self, y):
            return y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4

    try_out(make_operator("operator", size=16, operator=LinearPhysics()), SHAPE, "cpu")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (torch.full((1, 3, 8, 8), float("nan")), "y has values that are not finite"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.complex64), "y is complex, but .* makes real numbers"),
        (torch.zeros(3, 8, 8), r"y is \[3, 8, 8\], but .* makes \[1, 3, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8), r"y is \[2, 3, 8, 8\], but"),
    ],
)
def test_an_impossible_measurement_is_reported_before_any_model_is_loaded(tiny_folder, y, expected, monkeypatch):
    monkeypatch.setattr(solve, "load_prior", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=expected):
        rsd.restore(y, make_operator("sr2", size=16), prior=str(tiny_folder("epsilon")))


def test_unobserved_entries_may_have_any_value(tiny_folder):
    f = make_operator("inpaint_half_face", size=16)
    y = torch.zeros(1, 3, 16, 16).masked_fill(~f.observed, float("nan"))
    images = rsd.restore(y, f, prior=str(tiny_folder("epsilon")), gamma=0.0, particles=1, steps=2).images
    assert images.isfinite().all()
