"""Metrics against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from rsd import metrics
from rsd.heads.attributes import ATTRIBUTES
from rsd.heads.data import head_at
from rsd.heads.render import render


def test_kernel_distance_is_the_double_sum():
    a, b = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2, 2)
    k = lambda x, y: (float(x @ y) / 2 + 1) ** 3  # noqa: E731
    within_a = sum(k(a[i], a[j]) for i in range(3) for j in range(3) if i != j) / 6
    within_b, between = k(b[0], b[1]), sum(k(x, y) for x in a for y in b) / 6
    assert metrics.kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-5)


def test_psnr_of_a_constant_error():
    truth = torch.zeros(1, 3, 8, 8)
    x = torch.stack([truth[0] + 0.2, truth[0] - 0.02, truth[0]])  # 0.1, 0.01 and 0 in units of [0, 1]
    found = metrics.psnr(x, truth)
    assert found[:2].tolist() == pytest.approx([20, 40], abs=1e-3)
    assert found[2] == math.inf


def test_psnr_clamps_and_takes_each_image_alone():
    truth = torch.ones(2, 3, 4, 4)
    x = torch.stack([torch.full((3, 4, 4), 5.0), -torch.ones(3, 4, 4)])
    assert metrics.psnr(x, truth).tolist() == pytest.approx([math.inf, 0], abs=1e-5)
    truth = torch.zeros(1, 3, 4, 4)
    x = truth.clone()
    x[0, 0, 0, 0] = 1  # one of 48 values is half the range off
    assert metrics.psnr(x, truth).item() == pytest.approx(-10 * math.log10(0.25 / 48), abs=1e-4)


def test_ssim_of_equal_and_of_constant_images():
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert metrics.ssim(x, x).tolist() == pytest.approx([1, 1])
    a, b = 0.75, 0.25  # intensities; without variance only the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1)
    c1 = 0.01**2
    images = [torch.full((1, 3, 16, 16), 2 * v - 1) for v in (a, b)]
    assert metrics.ssim(*images).item() == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)


def test_ssim_of_pictures_smaller_than_its_window():
    x = torch.rand(2, 3, 5, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same, other = metrics.ssim(x, x), metrics.ssim(x, x.flip(0))
    assert same.tolist() == pytest.approx([1, 1]) and float(other.max()) < 0.9


def test_ssim_is_negative_for_a_negative_and_clamps():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert metrics.ssim(-x, x).item() < -0.5  # on [-1, 1] it would be positive: the means change sign as well
    bright = torch.ones(1, 3, 16, 16)
    assert metrics.ssim(bright * 9, bright).item() == pytest.approx(1)
    assert metrics.ssim(torch.cat([x, -x]), x).shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_residual_of_noise_is_one(dtype):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 3, 64, 64, generator=generator, dtype=dtype)  # a complex number has unit variance in all
    found = metrics.residual(0.05 * noise, 3 * 64 * 64, 0.05)
    assert found.tolist() == pytest.approx([1, 1, 1], abs=0.03)


def test_residual_counts_observed_entries_only():
    difference = torch.zeros(2, 1, 2, 4)
    difference[0, 0, 0, :] = 0.3
    difference[1, 0, 0, 0] = -0.6
    assert metrics.residual(difference, 4, 0.1).tolist() == pytest.approx([3, 3])


def test_diversity_closed_forms():
    assert metrics.diversity(torch.ones(4, 7)) == pytest.approx(0, abs=1e-12)
    assert metrics.diversity(torch.eye(5)) == pytest.approx(1)
    assert metrics.diversity(torch.tensor([[1.0, 0], [-1.0, 0]])) == pytest.approx(2)
    assert metrics.diversity(torch.tensor([[1.0, 0], [100.0, 100.0]])) == pytest.approx(1 - math.sqrt(0.5))
    # two equal, one orthogonal: the pairs' cosines are 1, 0, 0
    assert metrics.diversity(torch.tensor([[1.0, 0], [2.0, 0], [0, 1.0]])) == pytest.approx(2 / 3)


def test_vendi_counts_different_samples():
    assert metrics.vendi(torch.ones(4, 7)) == pytest.approx(1, abs=1e-9)
    assert metrics.vendi(3 * torch.eye(5)) == pytest.approx(5)
    two_of_each = torch.eye(3).repeat(2, 1)
    assert metrics.vendi(two_of_each) == pytest.approx(3)
    # K / 2 of a cosine of 0.6 has the eigenvalues 0.8 and 0.2
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert metrics.vendi(torch.tensor([[1.0, 0], [0.6, 0.8]])) == pytest.approx(math.exp(entropy))


def test_the_spread_is_of_the_same_features():
    phi = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert metrics.spread(phi) == {"div": metrics.diversity(phi), "vendi": metrics.vendi(phi)}


def test_diversity_needs_two():
    with pytest.raises(AssertionError, match="one particle"):
        metrics.diversity(torch.ones(1, 3))


def test_difference_closed_forms():
    steps = torch.linspace(-1, 1, 4).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    assert metrics.difference(steps.repeat(3, 1, 1, 1)) == 0
    # two pictures that are apart by 0.1 everywhere: their values' own deviation is sqrt(5/9), and 0.05 more of the pair
    pair = 0.8 * torch.cat([steps + 0.0625, steps - 0.0625])
    assert metrics.difference(pair) == pytest.approx(0.1 / math.sqrt(0.64 * 5 / 9 + 0.05**2), rel=1e-6)
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 10
    assert metrics.difference(noise) == pytest.approx(math.sqrt(2), rel=0.01)
    three = torch.stack([torch.full((3, 2, 2), v) for v in (0.0, 0.3, 0.6)])  # distances 0.3, 0.3, 0.6
    assert metrics.difference(three) == pytest.approx(math.sqrt(0.18) / math.sqrt(0.06), rel=1e-6)
    flat = torch.stack([torch.full((3, 2, 2), v) for v in (0.0, 1 / 255)])  # half a grey level is no difference
    assert metrics.difference(flat) == pytest.approx(0.5, rel=1e-6)
    where = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    where[..., :2] = True
    other = pair.clone()
    other[1, ..., 2:] = 5
    assert metrics.difference(other, where) == metrics.difference(pair, where) != metrics.difference(other)
    assert metrics.difference(pair, torch.zeros_like(where)) == metrics.difference(pair)  # a mask that hides nothing


def test_summary():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert metrics.summary(values, best="max") == pytest.approx({"mean": 3, "best": 6, "std": math.sqrt(14 / 3)})
    assert metrics.summary(values, best="min")["best"] == 1
    assert metrics.summary(values[:1], best="max") == {"mean": 1, "best": 1, "std": 0}
    assert metrics.summary(torch.tensor([20.0, math.inf]), best="max") == {"mean": None, "best": None, "std": None}
    assert metrics.summary(torch.tensor([20.0, math.inf]), best="min")["best"] == 20


def probabilities(attribute: str, *rows: tuple[str, float]) -> torch.Tensor:
    """Return probabilities [N, K] from each particle's value and its probability; the rest is spread evenly."""
    options = ATTRIBUTES[attribute]
    out = torch.stack([torch.full((len(options),), (1 - p) / (len(options) - 1)) for _, p in rows])
    for k, (value, p) in enumerate(rows):
        out[k, options.index(value)] = p
    return out


def test_coverage():
    first, second, third = list(ATTRIBUTES)[:3]
    a, b = ATTRIBUTES[first][:2]
    c, d = ATTRIBUTES[second][:2]
    e, f = ATTRIBUTES[third][:2]
    given = {
        first: probabilities(first, (a, 0.9), (b, 0.99), (a, 0.81), (b, 0.9)),  # two values
        second: probabilities(second, (c, 0.9), (d, 0.79), (c, 0.9), (c, 0.95)),  # the other one is not confident
        third: probabilities(third, (e, 0.6), (e, 0.9), (f, 0.9), (e, 0.9)),  # visible: 3 of 4 right, unsure or not
    }
    found = metrics.coverage(given, [first, second], {third: e})
    assert found == {"mean": 1.5, "distinct": {first: 2, second: 1}, "agreement": 0.75}


def test_particles_that_are_not_finite_cover_nothing_and_agree_with_nothing():
    given = {a: torch.full((2, len(options)), math.nan) for a, options in ATTRIBUTES.items()}
    first, second = list(ATTRIBUTES)[:2]
    found = metrics.coverage(given, [first], {second: ATTRIBUTES[second][0]})  # NaN's argmax is the first value
    assert found == {"mean": 0.0, "distinct": {first: 0}, "agreement": 0.0}


def test_coverage_of_nothing():
    first, second = list(ATTRIBUTES)[:2]
    value = ATTRIBUTES[first][0]
    given = {first: probabilities(first, (value, 0.5), (value, 0.5))}
    assert metrics.coverage(given, [first], {}) == {"mean": 0.0, "distinct": {first: 0}, "agreement": None}
    assert metrics.coverage(given, [], {first: value}) == {"mean": None, "distinct": {}, "agreement": 1.0}


def test_background_energy_sees_specks_and_no_head():
    """A shaded background and whatever is below the corners count nothing; a speck counts as much as it differs."""
    flat = torch.linspace(-0.1, 0.1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64).clone()
    flat[..., 20:, 16:48] = torch.randn(3, 44, 32, generator=torch.Generator().manual_seed(0))
    assert metrics.background_energy(flat) < 0.1  # a ramp differs from its mean at the mirrored edges alone
    specks = flat.repeat(2, 1, 1, 1)
    specks[1, :, 8, 8] += 40 / 127.5
    before, after = metrics.background_energy(specks).tolist()
    expected = (40**2 * (1 - 1 / 25) ** 2 + 24 * (40 / 25) ** 2) / 16**2 / 2  # one of two corners
    assert after - before == pytest.approx(expected, rel=0.02) and 2.8 < expected < 3.2


def test_renders_of_heads_have_no_background_energy():
    heads = [torch.from_numpy(render(head_at("test", k, "frontal"), 64, 1)) for k in range(4)]
    images = torch.stack(heads).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert metrics.background_energy(images).max() < 0.01
