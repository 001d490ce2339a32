"""The adapter with deepinv itself, which needs a separate environment: see CONTRIBUTING.md."""

import pytest
import torch

from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.operators.deepinv import deepinv_physics

pytestmark = pytest.mark.deepinv

PHYSICS = """
import deepinv
kernel = deepinv.physics.blur.gaussian_blur(sigma=(2, 2))
blur = deepinv.physics.BlurFFT(img_size=(3, 64, 64), filter=kernel)
"""


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("Demosaicing", {}, (2, 3, 64, 64)),
        ("Inpainting", {"mask": 0.5}, (2, 3, 64, 64)),
        ("Downsampling", {"factor": 4, "filter": "bicubic"}, (2, 3, 16, 16)),
        ("Decolorize", {}, (2, 1, 64, 64)),
    ],
)
def test_linear_physics_pass_the_adjoint_test(name, options, shape):
    f = deepinv_physics(name, img_size=(3, 64, 64), **options)
    x = torch.randn(2, 3, 64, 64)
    y = f(x)
    u = torch.randn_like(y)
    assert f.linear and y.shape == shape
    assert float((y * u).sum()) == pytest.approx(float((x * f.adjoint(u, x)).sum()), rel=1e-4)


def test_a_physics_of_the_users_module_is_the_operator_task(tmp_path, monkeypatch):
    (tmp_path / "physics_for_rsd.py").write_text(PHYSICS)
    monkeypatch.chdir(tmp_path)
    f = make_operator("operator", size=64, operator="physics_for_rsd:blur")
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    y = f(x)
    (gradient,) = torch.autograd.grad(0.5 * (y**2).sum(), x)
    torch.testing.assert_close(gradient, f.adjoint(y.detach(), x), atol=1e-5, rtol=1e-4)
    assert float(y.detach().std()) < 0.3  # it does blur
