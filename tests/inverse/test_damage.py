"""Operators of the damage that photographs have, and what is read from the pictures themselves."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rsd.memory.meta import Bytes
from rsd.tasks.inverse.operators import (
    BlindBlur,
    Blur,
    Colorize,
    Denoise,
    Inpaint,
    PoissonDenoise,
    grain,
    jpeg,
    linear,
    make_operator,
    measure,
)
from rsd.tasks.inverse.operators.base import data_residual, measurement_fit
from rsd.tasks.inverse.operators.blind import estimate_blur, fit_kernels
from rsd.tasks.inverse.operators.filling import filled
from rsd.tasks.inverse.operators.grain import estimate_peak, estimate_sigma
from rsd.tasks.inverse.operators.kernels import gaussian_of, motion_kernel, normalised
from rsd.tasks.inverse.operators.proximal import objective, proximal
from rsd.tasks.inverse.operators.scratches import find_scratches


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scene(height=64, width=64, dtype=torch.float64):
    """A picture with edges at all angles, shades and colours, [1, 3, H, W] in [-0.9, 0.9]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.to(dtype), x.to(dtype)
    shade = 0.3 * torch.sin(x / 9) * torch.cos(y / 7)
    disc = 0.5 * ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2).to(dtype)
    stripe = 0.4 * ((x + 2 * y) % 23 < 9).to(dtype)
    return torch.stack([shade + disc - 0.2, shade + stripe - 0.3, disc - stripe + 0.1 * shade])[None].clamp(-0.9, 0.9)


def bumpy(height=128, width=128, seed=0, a=1.3):
    """A Gaussian picture with the spectrum f^(-2 a), float64 [1, 3, H, W], standard deviation 0.3."""
    f = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt().double()
    f[0, 0] = 1
    one = torch.fft.irfft2(torch.fft.rfft2(noise(1, 1, height, width, seed=seed)) * f**-a, s=(height, width))
    return (0.3 * (one - one.mean()) / one.std()).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("tau", [0.01, 1.0, 30.0])
def test_the_proximal_map_of_photon_counts_is_the_minimiser(tau):
    f = PoissonDenoise(20.0)
    y = f.add_noise(scene(8, 8), noise(1, 3, 8, 8), 0)
    d = scene(8, 8) + 0.3 * noise(1, 3, 8, 8, seed=1)
    x = f.proximal(y, d, tau)
    u = torch.linspace(1e-6, 2.5, 200_001, dtype=torch.float64)  # by brute force, for a few pixels
    for k in (0, 17, 100, 191):
        c = (y.flatten()[k] + 1) / 2 * f.peak
        cost = f.sigma**2 * (f.peak * u - c * u.log()) + tau / 2 * (2 * u - 1 - d.flatten()[k]) ** 2
        assert float(x.flatten()[k]) == pytest.approx(float(2 * u[cost.argmin()] - 1), abs=3e-5)


@pytest.mark.parametrize("peak", [1e4, 1e6])
@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1.0])
def test_the_proximal_map_of_photon_counts_does_not_cancel(peak, tau):
    f = PoissonDenoise(peak)
    y, d = scene(8, 8), scene(8, 8) + 0.3 * noise(1, 3, 8, 8, seed=1)
    exact = f.proximal(y.double(), d.double(), tau)
    assert float((f.proximal(y, d, tau) - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("peak", [5.0, 60.0, 1000.0])
def test_photon_counts_have_their_mean_and_variance(peak):
    f = PoissonDenoise(peak)
    x = torch.linspace(-0.8, 0.9, 5, dtype=torch.float64).view(1, 1, 5, 1).expand(1, 3, 5, 4000)
    y = measure(f, x, 0.0, seed=0)
    counts = f.peak * (y + 1) / 2
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-6)
    wanted = f.peak * (x[0, 0, :, 0] + 1) / 2
    torch.testing.assert_close(counts.mean((0, 1, 3)), wanted, rtol=0.03, atol=0.03)
    torch.testing.assert_close(counts.var((0, 1, 3)), wanted, rtol=0.06, atol=0.05)
    assert f.noise_level(0.001) == pytest.approx(2 * math.sqrt(0.5 / peak))
    with pytest.raises(ValueError, match="peak of the photon counts is 0.5; give 1 to"):
        PoissonDenoise(0.5)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.2])
def test_gaussian_noise_is_estimated_from_one_picture(sigma):
    x = scene(96, 128)
    y = measure(Denoise(), x, sigma, seed=1)
    assert float((y - x).std()) == pytest.approx(sigma, rel=0.02)
    assert estimate_sigma(y) == pytest.approx(sigma, rel=0.08)
    assert Denoise(0.07).noise_level(0.001) == 0.07 and Denoise().noise_level(0.3) == 0.3


def test_photon_counts_in_the_dark_do_not_depend_on_the_brightest_pixel():
    f, normal = PoissonDenoise(5000.0), noise(1, 3, 40, 40)
    dark = torch.full((1, 3, 40, 40), 2 * 3 / 5000 - 1, dtype=torch.float64)  # 3 photons
    lit = dark.clone()
    lit[..., 0, 0] = 1
    seen = f.add_noise(lit, normal, 0.0)
    assert torch.equal(seen[..., 1:, :], f.add_noise(dark, normal, 0.0)[..., 1:, :])
    counts = f.peak * (seen[..., 1:, :] + 1) / 2
    assert float((counts == 0).double().mean()) == pytest.approx(math.exp(-3), abs=0.01)


def test_the_noise_of_a_large_picture_is_estimated_from_few_patches(monkeypatch):
    y = measure(Denoise(), scene(96, 128).float(), 0.1, seed=1)
    whole = F.unfold(y.double(), 5)[0].T  # all patches, as the paper has it
    inside = whole[(whole.abs() < 1 - 1e-6).all(1)]
    values, count = torch.linalg.eigvalsh(torch.cov(inside.T)), 75
    while float(values[:count].mean()) > float(values[:count].quantile(0.5)):
        count -= 1
    assert estimate_sigma(y) == pytest.approx(float(values[:count].mean()) ** 0.5, rel=1e-9)
    monkeypatch.setattr(grain, "PATCHES", 1000)
    with Bytes() as bytes_:
        few = estimate_sigma(y.repeat(1, 1, 8, 8))
    assert few == pytest.approx(0.1, rel=0.15) and bytes_.peak < 16 * 64 * y.numel()  # all patches: 200 * 64


def test_the_peak_of_photon_counts_is_estimated():
    y = measure(PoissonDenoise(50.0), scene(96, 128), 0.0, seed=2)
    assert estimate_peak(y) == pytest.approx(50, rel=0.15)


def test_colours_that_fit_a_brightness():
    f, d = Colorize(), noise(2, 3, 5, 6)
    y = f(scene(5, 6))
    x = proximal(f, y, d, 0.5)
    w = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    torch.testing.assert_close(f.gram_scale, float(w @ w))
    system = torch.outer(w, w) + 0.5 * torch.eye(3, dtype=torch.float64)
    right = w.view(3, 1, 1) * y + 0.5 * d
    torch.testing.assert_close(x, torch.einsum("ij,bjhw->bihw", system.inverse(), right))
    assert f.first(y).shape == (1, 3, 5, 6) and f.picture(y).shape == (1, 3, 5, 6)


def saved(tmp_path, x, **options):
    file = tmp_path / "a.jpg"
    Image.fromarray(((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)).save(file, **options)
    return file


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [20, 75])
def test_a_jpeg_file_says_its_intervals_and_the_picture_lies_in_them(tmp_path, sampling, quality):
    x = ((scene(64, 80) + 1) * 127.5).round() / 127.5 - 1
    file = saved(tmp_path, x, quality=quality, subsampling=sampling)
    f = jpeg.of_file(file)
    assert f.shared == ((1, 1), (1, 2), (2, 2))[sampling] and f.name == f"JPEG compression, quality {quality}"
    y = jpeg.read_jpeg(file, f)
    torch.testing.assert_close(f(y), y, rtol=0, atol=1e-4)  # compressing again changes nothing
    theirs = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 127.5 - 1
    if sampling == 0:
        assert float((theirs - y.clamp(-1, 1)).abs().max()) < 2.6 / 127.5  # but for rounding
    for part, kept in zip(f._encode(x), f._encode(y), strict=True):
        wrong = (part - kept.round()).abs() > 0.5 + 0.02  # decoders in whole numbers differ by a little
        assert float(wrong.double().mean()) < 0.01


def test_sides_that_are_no_multiple_of_the_blocks_and_upright_pictures(tmp_path):
    x = ((scene(61, 45) + 1) * 127.5).round() / 127.5 - 1
    f = jpeg.of_file(saved(tmp_path, x, quality=30))
    y = jpeg.read_jpeg(tmp_path / "a.jpg", f)
    assert y.shape == x.shape
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = saved(tmp_path, x, quality=30, exif=exif)
    g = jpeg.of_file(turned)
    z = jpeg.read_jpeg(turned, g)
    torch.testing.assert_close(z, y.transpose(-2, -1).flip(-1))
    inner = (slice(None), slice(None), slice(32), slice(48))  # blocks that end inside the picture
    torch.testing.assert_close(f(y)[inner][..., :32], y[inner][..., :32], rtol=0, atol=1e-4)
    torch.testing.assert_close(g.proximal(z, z, 1.0), z, rtol=0, atol=1e-4)


def test_the_nearest_picture_in_the_intervals_of_a_jpeg(tmp_path):
    f = jpeg.standard(30)
    x, d = scene(32, 32), scene(32, 32) + 0.2 * noise(1, 3, 32, 32)
    y = f(x)
    p = f.proximal(y, d, 1.0)
    steps = [part - kept.round() for part, kept in zip(f._encode(p), f._encode(y), strict=True)]
    assert all(float(step.abs().max()) < 0.5 + 1e-5 for step in steps)
    # It is the nearest: the change is 0 inside the intervals and ends at their border.
    for step, mine, kept in zip(steps, f._encode(d), f._encode(y), strict=True):
        inside = (mine - kept.round()).abs() < 0.5
        torch.testing.assert_close(step[inside], (mine - kept.round())[inside], rtol=0, atol=1e-5)
        torch.testing.assert_close(step[~inside].abs(), torch.full_like(step[~inside], 0.5), rtol=0, atol=1e-5)
    # By brute force, in one interval: of pictures that differ in one coefficient, none in the intervals is nearer.
    again = f.proximal(y, p, 1.0)
    torch.testing.assert_close(again, p, rtol=0, atol=1e-6)
    inside = x + 0  # the true picture is in the intervals, and stays
    torch.testing.assert_close(f.proximal(y, inside, 1.0), inside, rtol=0, atol=1e-6)


def test_files_that_are_no_jpeg_and_qualities(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a PNG file, which does not say how it was compressed.*--quality 75"):
        jpeg.of_file(tmp_path / "a.png")
    Image.new("CMYK", (16, 16)).save(tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="a JPEG of CMYK colours"):
        jpeg.of_file(tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="quality is 0; give 1 to 95"):
        make_operator("jpeg", size=32, quality=0)
    assert "quality 40" in make_operator("jpeg", size=32, quality=40).name


def test_the_preconditioner_saves_iterations_and_changes_nothing():
    f, like = Blur(gaussian_of(1.6).double()), scene(48, 40)
    calls = []

    def apply(u):
        calls.append(1)
        return linear.gram(f, like, times=1.0, plus=0.01)(u)

    b = noise(1, 3, 48, 40)
    plain = linear.solve(apply, b, tolerance=1e-8, iterations=500)
    before = len(calls)
    fast = linear.solve(apply, b, tolerance=1e-8, iterations=500, precondition=f.preconditioner(like, 0.01))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    assert len(calls) - before < before / 2
    assert Blur(motion_kernel(64, seed=0)).preconditioner(like, 0.01) is None


def test_a_blur_may_have_a_kernel_for_each_picture():
    kernels = torch.stack([motion_kernel(64, seed=k) for k in (0, 1)]).double()
    x = noise(2, 3, 20, 24)
    both = Blur(kernels)(x)
    for k in (0, 1):
        torch.testing.assert_close(both[k : k + 1], Blur(kernels[k])(x[k : k + 1]))
    y = noise(2, 3, 20, 24, seed=3)
    torch.testing.assert_close((both * y).sum(), (x * Blur(kernels).adjoint(y, x)).sum())


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_the_width_of_a_blur_is_estimated(width):
    y = Blur(gaussian_of(width).double())(bumpy()) + 0.01 * noise(1, 3, 128, 128, seed=4)
    assert estimate_blur(y, 0.01) == pytest.approx(width, rel=0.25)
    with pytest.raises(ValueError, match="standard deviation of the blur is 0.1 px; give 0.2 to 20"):
        gaussian_of(0.1)
    with pytest.raises(ValueError, match="blur and kernel both describe"):
        make_operator("deblur_gaussian", size=64, blur=1.0, kernel=gaussian_of(1.0))


def test_the_kernel_between_two_pictures_is_found():
    kernel = torch.zeros(15, 15, dtype=torch.float64)
    for k in range(-4, 5):
        kernel[7 + k // 2, 7 + k] = 1
    kernel = normalised(kernel, "kernel").double()
    x = scene(96, 96)
    found = fit_kernels(Blur(kernel)(x).float(), x.float(), 15, 0.001)
    assert found.shape == (1, 15, 15) and float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1)
    cosine = float((found[0].double() * kernel).sum() / (found.norm() * kernel.norm()))
    assert cosine > 0.9
    f = BlindBlur(9)
    torch.testing.assert_close(f(x), x)  # nothing is known yet
    assert f.refit(x, x.expand(2, -1, -1, -1)).kernel.shape == (2, 9, 9)
    with pytest.raises(ValueError, match="side of the unknown kernel is 8 px; give an odd number"):
        BlindBlur(8)


def test_holes_are_filled_smoothly():
    ramp = torch.linspace(-1, 1, 33, dtype=torch.float64).view(1, 1, 1, 33).expand(1, 3, 20, 33)
    known = torch.ones(1, 1, 20, 33, dtype=torch.bool)
    known[..., 5:12, 10:20] = False
    y = ramp.masked_fill(~known, 0)
    x = Inpaint(known).first(y)
    torch.testing.assert_close(x, ramp, rtol=0, atol=0.05)
    assert bool((x == ramp)[known.expand_as(x)].all())
    alone = torch.zeros(1, 1, 20, 33, dtype=torch.bool)
    alone[..., 3, 3] = True
    torch.testing.assert_close(filled(y, alone), torch.full_like(y, float(y[0, 0, 3, 3])))


def test_scratches_are_found_and_shades_are_not():
    x = 0.5 * bumpy(160, 200, a=2.0).float()
    assert bool(find_scratches(x).all())
    y = x.clone()
    rows = torch.arange(30, 130)
    columns = (60 + rows // 2).long()
    for k in (0, 1):
        y[..., rows, columns + k] = 0.95
    hidden = ~find_scratches(y)
    line = torch.zeros(160, 200, dtype=torch.bool)
    line[rows, columns] = True
    assert float(hidden[0, 0][line].float().mean()) > 0.95
    assert int(hidden.sum()) < 8 * int(line.sum())


def test_a_step_worsens_no_objective():
    f = PoissonDenoise(30.0)
    y, d = f.add_noise(scene(8, 8), noise(1, 3, 8, 8), 0), scene(8, 8)
    x = proximal(f, y, d, 0.5)
    assert x.shape == d.shape and bool(x.isfinite().all())
    blur = Blur(gaussian_of(1.0).double())
    z = proximal(blur, blur(scene()), scene() * 0.5, 0.1)
    assert bool((objective(blur, blur(scene()), z, scene() * 0.5, 0.1) < 1e3).all())


def test_the_residual_of_an_unknown_blur_is_that_of_the_fitted_kernel():
    f, x = make_operator("deblur_blind", size=64), torch.cat([scene(), bumpy(64, 64)]).float()
    y = Blur(gaussian_of(1.5))(x[:1])
    gap, count = data_residual(f, x, y)
    torch.testing.assert_close(gap, y - Blur(fit_kernels(y, x, f.side, f.penalty))(x))
    sharp = (y - x).square().flatten(1).mean(1).sqrt()
    fit = measurement_fit(f, x, y, 0.01)
    assert count == y.numel() and float(fit.values[0]) < 0.25 * float(sharp[0]) / 0.01  # the true picture
    assert float(fit.values[1]) > 5 * float(fit.values[0])  # another


@pytest.mark.slow
def test_kernels_are_fitted_to_pictures_of_any_size():
    y = torch.zeros(1, 3, 4100, 4100)  # more than the 2^24 numbers that torch.quantile takes
    assert fit_kernels(y, y, 15, 0.02).shape == (1, 15, 15)
