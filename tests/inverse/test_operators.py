import numpy as np
import pytest
import torch

from rsd.tasks.inverse.names import TASKS
from rsd.tasks.inverse.operators import (
    HDR,
    BicubicDownsample,
    BlockAverage,
    Blur,
    PhaseRetrieval,
    best_rotation,
    make_operator,
)
from rsd.tasks.inverse.operators.masks import known_of

LINEAR = {
    "inpaint_half_face": {}, "inpaint_full_face": {}, "inpaint_box": {"box": (2, 9, 0, 5)}, "inpaint_random": {},
    "inpaint_freeform": {}, "inpaint_mask": {"mask": torch.eye(32)}, "sr2": {}, "sr4": {},
    "sr8": {"downsample": "bicubic"}, "sr16": {"downsample": "bicubic"},
    "deblur_motion": {}, "deblur_gaussian": {"kernel": torch.arange(45.0).reshape(9, 5)},
    "scratches": {"mask": torch.eye(32)}, "denoise": {}, "colorize": {},
}  # fmt: skip
NONLINEAR = {
    "phase_retrieval": {}, "hdr": {}, "operator": {"operator": lambda x: (x**3).mean(1, keepdim=True)},
    "denoise_poisson": {}, "jpeg": {}, "deblur_blind": {},
}  # fmt: skip


def images(batch=2, size=32, seed=0, dtype=torch.float64):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def wavy(shape):
    """Return unstructured numbers, the same every time."""
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) ** 2).reshape(shape)


@pytest.mark.parametrize("task", LINEAR)
def test_adjoint_of_linear_operators(task):
    f = make_operator(task, size=32, **LINEAR[task])
    assert f.linear
    x, y = images(seed=1), wavy(f(images()).shape)
    inner, outer = (f(x) * y).sum(), (x * f.adjoint(y, x)).sum()
    assert abs(inner - outer) < 1e-10 * abs(inner) + 1e-10
    torch.testing.assert_close(f(2 * x - 3 * images()), 2 * f(x) - 3 * f(images()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", [task for task in (*LINEAR, *NONLINEAR) if task != "jpeg"])  # it rounds
def test_gradient_equals_finite_difference(task):
    f = make_operator(task, size=32, **{**LINEAR, **NONLINEAR}[task])
    x, direction = images(), images(seed=2)
    if task == "hdr":  # half the pixels are clipped; keep all of them away from the kink
        x = torch.where((2 * x).abs() > 0.9, x.sign() * 0.8, x)
        assert 0.3 < float((f(x).abs() == 1).double().mean()) < 0.7
    x.requires_grad_()
    w = wavy(f(x).shape)
    (gradient,) = torch.autograd.grad((f(x) * w).sum(), x)
    h = 1e-5
    difference = (((f(x + h * direction) - f(x - h * direction)) * w).sum() / (2 * h)).detach()
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", [*LINEAR, *NONLINEAR])
def test_batch_rows_are_independent_and_dtype_is_kept(task):
    f = make_operator(task, size=32, **{**LINEAR, **NONLINEAR}[task])
    x = images(3, dtype=torch.float32)
    assert f(x).dtype == torch.float32
    torch.testing.assert_close(f(x)[1:2], f(x[1:2]), rtol=1e-5, atol=1e-6)
    assert not list(f.parameters())


@pytest.mark.parametrize("task", [*LINEAR, *NONLINEAR])
def test_picture_is_an_image(task):
    f = make_operator(task, size=32, **{**LINEAR, **NONLINEAR}[task])
    picture = f.picture(f(images(2, dtype=torch.float32)))
    assert picture.shape[:2] == (2, 3) and picture.min() >= -1 and picture.max() <= 1 and picture.isfinite().all()


@pytest.mark.parametrize("task", [*LINEAR, *NONLINEAR])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_works_and_differentiates(task, dtype):
    f = make_operator(task, size=32, **{**LINEAR, **NONLINEAR}[task])
    x = images(dtype=dtype).requires_grad_()
    y, exact = f(x), f(x.detach().double())
    assert float((y.detach() - exact).abs().mean()) < 0.01 * float(exact.abs().mean()) + 1e-3
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_picture_of_a_measurement_that_is_not_an_image():
    f = make_operator("operator", size=8, operator=lambda x: x.flatten(1)[:, :5])
    y = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    expected = torch.tensor([[-1.0, -0.5, 0.0], [0.5, 1.0, -1.0], [-1.0, -1.0, -1.0]])
    torch.testing.assert_close(f.picture(y), expected.expand(1, 3, 3, 3))


def test_block_average_exact():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    expected = torch.tensor([[2.5, 4.5], [10.5, 12.5]]).expand(1, 3, 2, 2)
    assert torch.equal(BlockAverage(2)(x), expected)


def cubic_matrix(length, factor):
    """Return antialiased cubic downsampling (Keys, a = -1/2) as a matrix [length/factor, length], in plain numpy."""
    matrix = np.zeros((length // factor, length))
    for i in range(length // factor):
        centre = (i + 0.5) * factor - 0.5
        taps = np.arange(int(np.floor(centre - 2 * factor)), int(np.ceil(centre + 2 * factor)) + 1)
        t = np.abs(taps - centre) / factor
        inner, outer = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weights = np.where(t <= 1, inner, np.where(t < 2, outer, 0))
        for j, weight in zip(taps, weights / weights.sum(), strict=True):
            while not 0 <= j < length:
                j = -1 - j if j < 0 else 2 * length - 1 - j
            matrix[i, j] += weight
    return matrix


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16])
def test_bicubic_equals_numpy_reference(factor):
    x = images(size=48, dtype=torch.float32)
    m = cubic_matrix(48, factor)
    expected = np.einsum("ij,bcjk,lk->bcil", m, x.numpy().astype(np.float64), m)
    assert np.abs(BicubicDownsample(factor)(x).numpy() - expected).max() < 4e-7


def test_blur_of_a_point_is_the_kernel_and_reflects_at_the_border():
    kernel = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.0], [0.0, 0.0, 0.0]])
    x = torch.zeros(1, 3, 7, 7)
    x[:, :, 3, 3] = 1
    y = Blur(kernel)(x)
    torch.testing.assert_close(y[0, 1, 2:5, 2:5], kernel)
    assert torch.allclose(y.sum((-2, -1)), torch.ones(1, 3))
    ramp = torch.arange(7.0).expand(1, 3, 7, 7)
    left = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])  # y[j] = x[j-1]; x[-1] is x[1]
    torch.testing.assert_close(Blur(left)(ramp)[0, 0, 0], torch.tensor([1.0, 0, 1, 2, 3, 4, 5]))


def test_phase_retrieval_shape_parseval_rotation_and_centre():
    f, x = PhaseRetrieval(), images()
    y = f(x)
    assert y.shape == (2, 3, 48, 48) and (y >= 0).all()
    torch.testing.assert_close((y**2).sum(), (((x + 1) / 2) ** 2).sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(f(x.flip(-2, -1)), y, rtol=0, atol=1e-12)
    assert not torch.allclose(f(x.flip(-1)), y, atol=1e-2)
    white = f(torch.ones(1, 3, 32, 32))[0, 0]
    assert white.argmax() == 24 * 48 + 24
    torch.testing.assert_close(white.max(), torch.tensor(32 / 1.5))


def test_phase_retrieval_against_a_plain_discrete_fourier_transform():
    x = images(1, size=8)
    padded = np.zeros((12, 12))
    padded[2:10, 2:10] = (x[0, 0].numpy() + 1) / 2
    k, n = np.arange(12) - 6, np.arange(12)
    basis = np.exp(-2j * np.pi * np.outer(k, n) / 12) / np.sqrt(12)
    np.testing.assert_allclose(PhaseRetrieval()(x)[0, 0].numpy(), np.abs(basis @ padded @ basis.T), atol=1e-12)


def test_phase_gradient_is_finite_where_the_magnitude_is_zero():
    x = -torch.ones(1, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(PhaseRetrieval()(x).sum(), x)
    assert gradient.isfinite().all()


def test_best_rotation_picks_per_image():
    truth = images(1)
    x = torch.cat([truth + 0.01, truth.flip(-2, -1) + 0.02, truth])
    expected = torch.cat([truth + 0.01, truth + 0.02, truth])
    torch.testing.assert_close(best_rotation(x, truth), expected)


def test_hdr_values():
    x = torch.tensor([-1.0, -0.25, 0.0, 0.4, 0.6]).reshape(1, 1, 1, 5)
    torch.testing.assert_close(HDR()(x).flatten(), torch.tensor([-1.0, -0.5, 0.0, 0.8, 1.0]))


@pytest.mark.parametrize("task", ["inpaint_random", "inpaint_freeform", "deblur_motion"])
def test_seed_decides_the_operator(task):
    x = images(1)
    same = [make_operator(task, size=32, seed=seed)(x) for seed in (3, 3, 4)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("inpaint_half_fase", {}, 'Did you mean "inpaint_half_face"'),
        ("inpaint_mas", {"mask": torch.ones(64, 64)}, 'Did you mean "inpaint_mask"'),
        ("sr1", {}, "There is no task"),
        ("sr17", {}, "There is no task"),
        ("sr5", {}, "sr5 needs a size that 5 divides, but the image is 64"),
        ("sr4", {"downsample": "bicubik"}, 'Did you mean "bicubic"'),
        ("inpaint_box", {}, "needs box"),
        ("inpaint_mask", {}, "needs mask"),
        ("operator", {}, "needs operator"),
        ("hdr", {"mask": torch.ones(64, 64)}, "mask goes with inpaint_mask"),
        ("sr4", {"kernel": torch.ones(3, 3)}, "kernel goes with deblur_motion and deblur_gaussian"),
        ("deblur_motion", {"kernel": torch.ones(129, 129)}, "too large for an image of 64"),
        ("deblur_motion", {"intensity": 2.0}, "intensity of the motion blur is 2"),
    ],
)
def test_mistakes_are_named(task, options, words):
    with pytest.raises(ValueError, match=words):
        make_operator(task, size=64, **options)


def test_every_task_has_an_operator():
    options = {**LINEAR, **NONLINEAR}
    assert set(options) == set(TASKS)
    assert all(make_operator(task, size=32, **options[task]).name for task in TASKS)


def test_any_factor_that_divides():
    assert make_operator("sr3", size=48)(images(1, 48)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    "f", [make_operator("deblur_gaussian", size=64, blur=16.0), make_operator("deblur_blind", size=6)]
)
def test_a_blur_wider_than_the_picture_is_named(f):
    with pytest.raises(ValueError, match="px to each side, past an image of 6 x 6 px; give a smaller blur"):
        f(images(1, 6))


def test_the_colour_of_a_masks_hole_is_black_or_white():
    levels = torch.tensor([0.0, 1.0, 1.0])
    assert known_of(levels, "mask.png").tolist() == [False, True, True]
    assert known_of(levels, "mask.png", "white").tolist() == [True, False, False]
    with pytest.raises(ValueError, match='hidden pixels is "Black"; give black or white'):
        known_of(levels, "mask.png", "Black")
