"""The prior of photographs: any size, its limits of little and much noise, and its folder."""

import json

import pytest
import torch
from diffusers import DDPMScheduler

from rsd.priors import image_size, load_prior
from rsd.priors.photo import PhotoNet, PhotoPrior, check_sides, save_photo, turn, turn_back
from rsd.priors.windows import for_picture

SMALL = {"widths": (8, 12, 16), "blocks": (1, 1, 1), "embedded": 16, "sample_size": 32}


def build(prediction_type="epsilon"):
    """Return a small network with random last layers, and its schedule."""
    torch.manual_seed(0)
    net = PhotoNet(**SMALL)
    for name, value in net.named_parameters():
        if "film" in name or "second" in name or "shuffled" in name:
            torch.nn.init.normal_(value, std=0.1)
    return net, DDPMScheduler(beta_start=1e-4, beta_end=0.02, prediction_type=prediction_type)


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (56, 24), (64, 48), (1, 1), (3, 50), (27, 40)])
def test_pictures_of_any_size(shape):
    prior = PhotoPrior(*build(), size=shape)
    assert prior.latent_shape == (3, *shape) and prior.image_size == max(shape)
    z = torch.randn(2, 3, *shape)
    eps = prior.epsilon(z, torch.tensor([10, 900]))
    assert eps.shape == z.shape and eps.isfinite().all() and prior.calls["unet_forward"] == 2
    torch.testing.assert_close(eps[1:], prior.epsilon(z[1:], 900))


def test_one_pixel_changes_only_its_surroundings():
    """Without normalisation and attention a picture may be restored in windows."""
    net, _ = build()
    z, level = torch.randn(1, 3, 160, 16), torch.tensor(-1.0)
    other = z.clone()
    other[..., :8, :] += 1
    changed = (net(z, level) - net(other, level)).abs().amax((0, 1, 3))
    assert changed[:8].min() > 0 and changed[64:].max() == 0


def test_the_untrained_network_is_the_best_linear_guess_from_single_pixels():
    net = PhotoNet(**SMALL)
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64).float()
    for s in (0.02, 1.0, 100.0):
        alpha, sigma = (1 + s**2) ** -0.5, s * (1 + s**2) ** -0.5
        expected = z * sigma / (sigma**2 + alpha**2 * 0.25)
        torch.testing.assert_close(net(z, torch.tensor(s).log()), expected)


def test_backward_passes_are_counted():
    prior = PhotoPrior(*build())
    z = torch.randn(2, 3, 16, 16, requires_grad=True)
    prior.epsilon(z, 100).sum().backward()
    assert z.grad.abs().sum() > 0 and prior.calls["unet_backward"] == 2


def test_a_folder_loads_as_a_prior(tmp_path):
    net, scheduler = build()
    save_photo(net.to(torch.float16), scheduler, tmp_path / "photos")
    prior = load_prior(str(tmp_path / "photos"), size=(16, 24))
    assert isinstance(prior, PhotoPrior) and prior.latent_shape == (3, 16, 24) and not prior.latent
    assert prior.network.dtype == torch.float32 and image_size(str(tmp_path / "photos")) == 32
    z = torch.randn(1, 3, 16, 24)
    level = prior.schedule.log_noise[300].float()
    torch.testing.assert_close(prior.epsilon(z, 300), net.float()(z, level))
    assert load_prior(str(tmp_path / "photos")).latent_shape == (3, 32, 32)


def test_other_networks_and_sizes_are_refused(tmp_path):
    net, scheduler = build()
    with pytest.raises(ValueError, match="predicts v, but a PhotoNet predicts epsilon"):
        PhotoPrior(*build("v_prediction"))
    with pytest.raises(ValueError, match="is a Linear; it must be a PhotoNet"):
        PhotoPrior(torch.nn.Linear(1, 1), scheduler)
    for sides in (12, (16, 20), 0):
        with pytest.raises(ValueError, match="multiples of 8 px"):
            check_sides(sides)
    save_photo(net, scheduler, tmp_path)
    with pytest.raises(ValueError, match="1 px or more; got 0 x 30"):
        load_prior(str(tmp_path), size=(0, 30))
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace('"rsd"', '"somewhere"'))
    with pytest.raises(ValueError, match="somewhere.PhotoNet"):
        load_prior(str(tmp_path))
    assert json.loads(index.read_text())["_class_name"] == "PhotoPipeline"


def test_a_prompt_has_no_effect():
    with pytest.warns(UserWarning, match="has no text"):
        PhotoPrior(*build()).condition("a dog")


def test_a_turned_prior_sees_the_picture_turned():
    prior, x = PhotoPrior(*build()), torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    turned = prior.turned(1)
    expected = prior.epsilon(x.rot90(1, (-2, -1)), 300).rot90(-1, (-2, -1))
    torch.testing.assert_close(turned.epsilon(x, 300), expected)
    mirrored = prior.turned(12).epsilon(x, 300)  # 12 is 4 modulo 8
    torch.testing.assert_close(mirrored, prior.epsilon(x.flip(-1), 300).flip(-1))
    assert not torch.allclose(mirrored, prior.epsilon(x, 300), atol=1e-4)
    assert prior.turn == 0 and turned.calls is prior.calls
    for k in range(8):
        assert torch.equal(turn_back(turn(x, k), k), x)


def test_windows_turn_each_of_them():
    prior, x = PhotoPrior(*build()), torch.randn(1, 3, 16, 48, generator=torch.Generator().manual_seed(0))
    windows = for_picture(prior, (16, 48), [(0, 16, 0, 24), (0, 16, 24, 48)])
    found = windows.turned(2).epsilon(x, 300)
    parts = [prior.turned(2).epsilon(part, 300) for part in x.split(24, -1)]
    torch.testing.assert_close(found, torch.cat(parts, -1))
