import subprocess
import sys

import pytest
import torch

from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.names import TASKS, is_task, sr_factor
from rsd.tasks.inverse.operators import Function, make_operator
from rsd.tasks.inverse.operators.deepinv import Physics, deepinv_physics

MINE = """
import torch
scale = 3
class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))
    def forward(self, x):
        return self.w * x
half = Half()
def square(x):
    return x ** 2
def broken(x):
    return x.sum()
"""


class LinearPhysics(torch.nn.Module):
    """A substitute for deepinv's base class of this name."""


class FakePhysics(LinearPhysics):
    """The part of a deepinv LinearPhysics that the adapter uses. Its forward adds noise and must not be called."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 3.0]).double().view(1, 3, 1, 1))

    def A(self, x):
        return (self.gain * x)[..., ::2]

    def A_adjoint(self, y):
        x = torch.zeros(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype)
        x[..., ::2] = y
        return self.gain * x

    def forward(self, x):
        raise AssertionError("the noise model was used")


class FakeNonlinear:
    def A(self, x):
        return x**3

    def A_adjoint(self, y):  # as deepinv's PhaseRetrieval: no adjoint of A
        return 7 * y


def test_linear_physics():
    f = make_operator("operator", size=8, operator=FakePhysics())
    x, y = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 4).double()
    assert isinstance(f, Physics) and f.linear and f.name == "FakePhysics" and f(x).shape == y.shape
    torch.testing.assert_close((f(x) * y).sum(), (x * f.adjoint(y, x)).sum())
    torch.testing.assert_close(f.adjoint(y, x), super(Physics, f).adjoint(y, x))


def test_nonlinear_physics_has_the_jacobians_adjoint():
    f = Physics(FakeNonlinear())
    x, y = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    assert not f.linear
    torch.testing.assert_close(f.adjoint(y, x), 3 * x**2 * y)


def test_physics_without_a_tensor_or_without_A():
    class Lists:
        def A(self, x):
            return [x]

    with pytest.raises(ValueError, match="one tensor"):
        Physics(Lists())(torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match="no method A"):
        Physics(3)


def test_missing_deepinv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    monkeypatch.setitem(sys.modules, "deepinv.physics", None)
    with pytest.raises(ImportError, match=r"rsd\[deepinv\].*changes the torch build"):
        deepinv_physics("Inpainting")


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_operators_for_rsd.py").write_text(MINE)
    (tmp_path / "needs_deepinv_for_rsd.py").write_text("import deepinv.physics")
    monkeypatch.chdir(tmp_path)
    yield "my_operators_for_rsd"
    sys.modules.pop("my_operators_for_rsd", None)


def test_function_of_a_module_in_the_current_folder(here):
    path = list(sys.path)
    f = make_operator("operator", size=4, operator=f"{here}:square")
    assert isinstance(f, Function) and not f.linear and f.name == f"{here}:square" and sys.path == path
    torch.testing.assert_close(f(torch.full((1, 3, 4, 4), -2.0)), torch.full((1, 3, 4, 4), 4.0))


def test_parameters_of_a_module_are_frozen(here):
    f = make_operator("operator", size=4, operator=f"{here}:half")
    x = torch.ones(1, 3, 4, 4, requires_grad=True)
    f(x).sum().backward()
    assert float(x.grad[0, 0, 0, 0]) == 0.5 and all(not p.requires_grad and p.grad is None for p in f.parameters())


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("square", ValueError, "module:name"),
        (":square", ValueError, "module:name"),
        ("my_operators_for_rsd:cube", ValueError, 'has no "cube"'),
        ("my_operators_for_rsd:scale", ValueError, "is an int"),
        ("my_operators_for_rsd:Half", ValueError, "is a class; give an object of it, for example Half"),
        ("no_such_module_for_rsd:f", ImportError, "cannot be imported"),
    ],
)
def test_unknown_names_are_rejected(here, spec, error, words):
    with pytest.raises(error, match=words):
        make_operator("operator", size=4, operator=spec)


def test_module_that_needs_deepinv_names_the_extra(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r"rsd\[deepinv\]"):
        make_operator("operator", size=4, operator="needs_deepinv_for_rsd:f")


def test_function_must_return_a_measurement_for_each_image(here):
    f = make_operator("operator", size=4, operator=f"{here}:broken")
    with pytest.raises(ValueError, match=r"broken returned \[\] for 2 images"):
        f(torch.ones(2, 3, 4, 4))


def test_names():
    assert all(is_task(name) for name in TASKS) and is_task("sr3") and sr_factor("sr16") == 16
    assert not any(is_task(name) for name in ("sr", "sr1", "sr17", "sr04", "sr2x", "", "inpaint"))
    assert tuple(METHODS)[:5] == ("rlsd", "nonrepuls", "nonaug", "hybrid", "latent-red-diff")


def test_names_import_no_torch():
    code = "import sys, rsd.tasks.inverse.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
