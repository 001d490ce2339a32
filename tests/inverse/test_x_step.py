"""The exact x-step: the minimum of data term and coupling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsd.cli import main
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.operators.linear import nearest
from rsd.tasks.inverse.rlsd import data_loss, particle_mean
from rsd.tasks.inverse.run import Run
from tests.inverse.test_rlsd import BASE, Toy, embed_of, problem, result

SIZE = 16
TASKS = {
    "inpaint_half_face": {}, "inpaint_random": {}, "sr4": {}, "sr2": {"downsample": "bicubic"}, "deblur_gaussian": {},
    "deblur_motion": {},
}  # fmt: skip


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_the_exact_x_step_is_the_minimum(task, rho):
    operator = make_operator(task, size=SIZE, seed=1, **TASKS[task])
    y, d = measure(operator, drawn(1, 3, SIZE, SIZE, seed=0), 0.1, seed=2), drawn(3, 3, SIZE, SIZE, seed=3)
    x = nearest(operator, y, d, rho, tolerance=1e-10).requires_grad_()
    start = d.clone().requires_grad_()
    gradients = []
    for at in (x, start):
        loss = data_loss(operator, at, y) + rho * 0.5 * particle_mean((at - d) ** 2)
        gradients.append(torch.autograd.grad(loss.sum(), at)[0].abs().max())
    assert gradients[0] < 1e-8 * gradients[1]


@pytest.mark.parametrize(("task", "scale"), [("inpaint_half_face", 1.0), ("sr4", 1 / 16), ("sr2", 1 / 4)])
def test_gram_scale_is_that_of_a_a_transposed(task, scale):
    operator, like = make_operator(task, size=SIZE, seed=1), drawn(2, 3, SIZE, SIZE, seed=0)
    u = operator(drawn(2, 3, SIZE, SIZE, seed=4))
    assert operator.gram_scale == scale
    torch.testing.assert_close(operator(operator.adjoint(u, like)), scale * u)


def test_a_particle_alone_has_the_same_minimum():
    operator = make_operator("deblur_gaussian", size=SIZE)
    y, d = operator(drawn(1, 3, SIZE, SIZE, seed=0)), drawn(3, 3, SIZE, SIZE, seed=3)
    d[1] *= 1e-3  # they need different numbers of iterations
    together = nearest(operator, y, d, 0.01, tolerance=1e-3)
    for row in range(3):
        torch.testing.assert_close(nearest(operator, y, d[row : row + 1], 0.01, tolerance=1e-3)[0], together[row])


@pytest.mark.parametrize("task", ["inpaint_half_face", "sr2", "deblur_gaussian"])
def test_runs_with_the_exact_step_do_not_depend_on_chunks_and_resume(task):
    settings = replace(BASE, gamma=3.0, x_step="exact")
    whole, records, _ = result(settings, task)
    assert (whole - result(replace(settings, x_step="adam"), task)[0]).abs().max() > 0.01
    assert records[-1].losses["data"] < 0.1 * records[1].losses["data"]
    torch.testing.assert_close(result(replace(settings, chunk=3), task)[0], whole, rtol=0, atol=1e-8)
    prior, (operator, y) = Toy(), problem(task)
    run = Run(prior, operator, y, settings, embed=embed_of(prior))
    steps = run.steps()
    for _ in range(7):
        next(steps)
    torch.testing.assert_close(result(settings, task, state=run.state())[0], whole, rtol=0, atol=0)


def test_nonlinear_operators_are_rejected(tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    command = ["restore", str(tmp_path / "a.png"), "--clean", "--x-step", "exact", "--out", str(tmp_path / "out")]
    assert main([*command, "--task", "hdr", "--method", "rlsd"]) == 2
    output = "--x-step exact needs a linear operator, but high dynamic range is not"
    assert output in capsys.readouterr().err
    assert main([*command, "--task", "inpaint_half_face", "--method", "nonaug"]) == 2
    assert "--x-step goes with the methods rlsd, nonrepuls, hybrid, but the method is" in capsys.readouterr().err
    with pytest.raises(ValueError, match=output):
        Run(Toy(), make_operator("hdr", size=8), torch.zeros(1, 3, 8, 8), replace(BASE, x_step="exact"))
