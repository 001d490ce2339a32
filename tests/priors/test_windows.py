"""Priors in overlapping windows: weights, seams, gradients, tiles, and latents."""

import pytest
import torch

from rsd.priors.latent import LatentPrior
from rsd.priors.photo import PhotoPrior
from rsd.priors.windows import Layout, Windows, for_picture, mirrored, ramps, starts
from tests.priors.test_photo import build


@pytest.fixture
def photo():
    return PhotoPrior(*build())


def whole(prior, sides):
    return for_picture(prior, sides)


@pytest.mark.parametrize(("length", "side", "overlap", "step"), [(100, 32, 8, 1), (33, 32, 8, 8), (203, 64, 24, 8)])
def test_windows_cover_a_side_and_their_weights_sum_to_1(length, side, overlap, step):
    layout = Layout(side, overlap, 4, step=step)
    total = torch.zeros(length, dtype=torch.float64)
    for start, stop, own in ramps(length, layout):
        assert start % step == 0 and 0 < stop - start <= side and own.min() >= 0
        total[start:stop] += own
    torch.testing.assert_close(total, torch.ones_like(total))
    assert starts(side, layout) == [0] == starts(1, layout)


def test_a_convolutional_network_in_windows_predicts_the_same_as_on_the_whole_picture(photo):
    """Its answer depends on less than 64 px around (test_photo), so windows that overlap by twice as much agree."""
    sides = (376, 203)
    torch.manual_seed(1)
    z = torch.randn(2, 3, *sides)
    expected = whole(photo, sides).epsilon(z, 300)
    enough = Windows(photo, sides, Layout(192, 144, 64, step=8))
    assert len(enough.parts) > 4
    torch.testing.assert_close(enough.epsilon(z, 300), expected, atol=2e-6, rtol=0)
    # Measured seams: with little overlap they are a small part of the prediction, and there alone.
    little = Windows(photo, sides, Layout(192, 48, 16, step=8)).epsilon(z, 300) - expected
    assert 1e-6 < float(little.abs().max()) < 0.2 and float(little.square().mean().sqrt()) < 0.01


def test_gradients_of_windows_are_those_of_the_whole_picture(photo):
    sides = (200, 72)
    z = torch.randn(1, 3, *sides, requires_grad=True)
    v = torch.randn(1, 3, *sides)
    pulled = [
        torch.autograd.grad(prior.epsilon(z, 300), z, v)[0]
        for prior in (whole(photo, sides), Windows(photo, sides, Layout(168, 136, 64, step=8)))
    ]
    torch.testing.assert_close(pulled[1], pulled[0], atol=1e-5, rtol=1e-4)


def test_tiles_do_not_know_of_one_another(photo):
    tiles = [(0, 16, 0, 24), (16, 40, 0, 24)]
    prior = for_picture(photo, (40, 24), tiles)
    z = torch.randn(1, 3, 40, 24)
    expected = [for_picture(photo, (b - a, 24)).epsilon(z[..., a:b, :], 300) for a, b, _, _ in tiles]
    torch.testing.assert_close(prior.epsilon(z, 300), torch.cat(expected, 2))
    assert prior.image_shape == (3, 40, 24) and prior.calls is photo.calls


def test_a_picture_of_the_priors_own_size_changes_nothing(photo):
    assert for_picture(photo, (32, 32)) is photo
    other = for_picture(photo, (48, 33))
    assert other.latent_shape == other.image_shape == (3, 48, 33) and other.network is photo.network
    assert photo.latent_shape == (3, 32, 32)


@pytest.mark.parametrize("sides", [(16, 16), (37, 21), (9, 40), (1, 1)])
def test_latents_of_a_fixed_size_in_windows(tiny_pipeline, sides):
    inner = LatentPrior(tiny_pipeline())
    prior = for_picture(inner, sides)
    assert (prior is inner) == (sides == (16, 16))
    assert prior.latent_shape[1:] == (-(-sides[0] // 2), -(-sides[1] // 2))
    x = torch.rand(2, 3, *sides) * 2 - 1
    z = prior.encode(x)
    assert z.shape == (2, *prior.latent_shape) and prior.decode(z).shape == x.shape
    z = torch.randn(1, *prior.latent_shape, requires_grad=True)
    eps = prior.epsilon(z, 500)
    (gradient,) = torch.autograd.grad(eps.square().sum(), z)
    assert eps.shape == z.shape and gradient.isfinite().all() and gradient.abs().sum() > 0


def test_mirrors_repeat_beyond_a_second_edge():
    assert mirrored(torch.tensor([[1, 2]]), 3, 7).tolist() == [[1, 2, 2, 1, 1, 2, 2]] * 3
