import pytest
import torch

from rsd.tasks.inverse.operators import data_residual, make_operator, measure, observed_count


def image(size=32):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(7)) * 2 - 1


def test_noise_has_its_standard_deviation_and_depends_on_seed_and_image():
    f, x = make_operator("sr2", size=64), image(64)
    noise = measure(f, x, 0.1, seed=0) - f(x)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.06) and abs(float(noise.mean())) < 0.008
    assert torch.equal(measure(f, x, 0.1, seed=0), measure(f, x, 0.1, seed=0))
    assert not torch.equal(measure(f, x, 0.1, seed=0), measure(f, x, 0.1, seed=1))
    assert not torch.equal(measure(f, x, 0.1, seed=0, image="a"), measure(f, x, 0.1, seed=0, image="b"))
    assert torch.equal(measure(f, x, 0.0, seed=0), f(x))


def test_masked_entries_are_zero_and_not_counted():
    f, x = make_operator("inpaint_box", size=32, box=(0, 15, 0, 31)), image()
    y = measure(f, x, 0.5, seed=0)
    assert (y[:, :, :16] == 0).all() and (y[:, :, 16:] != x[:, :, 16:]).all()
    assert observed_count(f, y) == 3 * 16 * 32


def test_residual_counts_only_what_was_observed():
    f, x = make_operator("inpaint_box", size=32, box=(0, 15, 0, 31)), image()
    particles = x.repeat(4, 1, 1, 1) + 0.25
    y = x.clone()
    y[:, :, :16] = float("nan")  # a user's picture may hold anything in the hole
    difference, count = data_residual(f, particles, y)
    assert count == 3 * 16 * 32 and difference.shape == (4, 3, 32, 32)
    torch.testing.assert_close(difference[:, :, 16:], torch.full((4, 3, 16, 32), -0.25), rtol=0, atol=1e-6)
    assert (difference[:, :, :16] == 0).all()
    assert (f.picture(y)[:, :, :16] == 0).all() and torch.equal(f.picture(y)[:, :, 16:], x[:, :, 16:])


def test_residual_of_the_truth_is_the_noise():
    f, x = make_operator("deblur_motion", size=64), image(64)
    difference, count = data_residual(f, x, measure(f, x, 0.01, seed=3))
    assert count == 3 * 64 * 64
    assert float(difference.norm()) / (0.01 * count**0.5) == pytest.approx(1, abs=0.03)


def test_complex_measurements():
    f = make_operator("operator", size=32, operator=torch.fft.fft2)
    x = image()
    difference, count = data_residual(f, x, measure(f, x, 0.2, seed=0))
    assert difference.is_complex() and count == 3 * 32 * 32
    assert float(difference.abs().square().mean().sqrt()) == pytest.approx(0.2, rel=0.05)


def test_a_measurement_of_another_size_is_rejected():
    f = make_operator("sr4", size=32)
    with pytest.raises(ValueError, match=r"measurement is \[3, 16, 16\], but .* makes \[3, 8, 8\]"):
        data_residual(f, image(), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_invalid_noise_levels_are_rejected(sigma):
    with pytest.raises(ValueError, match="sigma_v"):
        measure(make_operator("hdr", size=32), image(), sigma, seed=0)
