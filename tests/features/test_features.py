from __future__ import annotations

import json
import shutil

import pytest
import torch

from rsd.features import IMAGENET, Pixels, ViT, check_features_name, load_features


def images(size: int = 16, n: int = 2, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1


def test_pixels_keep_the_euclidean_distance():
    x, features = images(), load_features("pixels")
    assert isinstance(features, Pixels) and features(x).shape == (2, 768)
    torch.testing.assert_close((features(x)[0] - features(x)[1]).norm(), (x[0] - x[1]).norm())


@torch.no_grad()
def test_vit_is_the_cls_token_of_the_normalised_image(tiny_vit):
    from transformers import ViTModel

    model = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    x = images()
    expected = model(((x + 1) / 2 - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(load_features(str(tiny_vit))(x), expected, rtol=0, atol=1e-5)
    raw = model(x).last_hidden_state[:, 0]
    torch.testing.assert_close(load_features(str(tiny_vit), normalise=False)(x), raw, rtol=0, atol=1e-5)
    assert (raw - expected).abs().max() > 0.05


@torch.no_grad()
def test_the_models_own_normalisation_wins_over_imagenets(tiny_vit, tmp_path):
    folder = shutil.copytree(tiny_vit, tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    x = images()
    torch.testing.assert_close(load_features(str(folder))(x), load_features(str(tiny_vit), normalise=False)(x))


@torch.no_grad()
def test_any_size_works_and_size_resizes(tiny_vit):
    native, small = load_features(str(tiny_vit)), load_features(str(tiny_vit), size=16)
    x = images(40)
    assert native(x).shape == small(x).shape == (2, 8)
    shrunk = torch.nn.functional.interpolate(x, size=(16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(small(x), native(shrunk), rtol=0, atol=1e-5)
    assert native(images(32)[..., :20]).shape == (2, 8)  # not square


@pytest.mark.parametrize("size", [16, 24])
def test_vit_is_frozen_and_differentiable_in_the_image(size, tiny_vit):
    features = load_features(str(tiny_vit)).double()
    assert not features.training and not any(p.requires_grad for p in features.parameters())
    x, weight = images(size, dtype=torch.float64).requires_grad_(), torch.randn(2, 8, dtype=torch.float64)
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((features(x) * weight).sum(), x)
    h = 1e-6
    slope = ((features(x + h * direction) - features(x - h * direction)) * weight).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_half_precision_images_are_seen_in_float32(tiny_vit):
    features, x = load_features(str(tiny_vit)), images(dtype=torch.bfloat16)
    assert features(x).dtype == torch.bfloat16 and features.model.dtype == torch.float32
    assert torch.equal(features(x), features(x.float()).bfloat16())


@torch.no_grad()
def test_dinov2_interpolates_by_itself(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(image_size=16, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    x = images(24)
    expected = model(x).last_hidden_state[:, 0]
    torch.testing.assert_close(load_features(str(tmp_path), normalise=False)(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ViT(model)(x), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_hub_model_loads_from_the_cache(hub_cache, tiny_vit):
    hub_cache("owner/tiny-vit", tiny_vit)
    x = images()
    assert torch.equal(load_features("owner/tiny-vit")(x), load_features(str(tiny_vit))(x))


def test_a_function_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_features_for_test.py").write_text(
        "def means(x):\n    return x.mean((2, 3))\n\ndef broken(x):\n    return x.mean()\n\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    x = images().requires_grad_()
    phi = load_features("my_features_for_test:means")(x)
    torch.testing.assert_close(phi, x.mean((2, 3)))
    phi.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / 256))
    with pytest.raises(ValueError, match=r"returned \[\] for 2 images; return a tensor \[2, d\]"):
        load_features("my_features_for_test:broken")(x)
    with pytest.raises(ValueError, match="is not a function"):
        load_features("my_features_for_test:number")
    with pytest.raises(ValueError, match='my_features_for_test has no "absent"'):
        load_features("my_features_for_test:absent")
    with pytest.raises(ImportError, match='"no_such_module_here:f" cannot be imported'):
        load_features("no_such_module_here:f")
    with pytest.raises(ValueError, match="not of the form module:name"):
        load_features("module:")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pixel", 'Unknown feature map "pixel". Did you mean "pixels"? Built in: pixels, heads, heads-layers, lpips;'),
        ("./nowhere", 'There is no folder "./nowhere"'),
        ("facebook/dino-vits16", 'The feature map "facebook/dino-vits16" is not in the local cache'),
    ],
)
def test_names_that_fail_say_what_to_do(name, says):
    with pytest.raises(ValueError) as caught:
        load_features(name)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_other_models_and_pickles_are_refused(tiny_vit, tmp_path):
    check_features_name("facebook/dino-vits16")
    folder = shutil.copytree(tiny_vit, tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Only safetensors are loaded"):
        load_features(str(folder))
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ValueError, match='is a "resnet"; give a ViT or a DINOv2'):
        load_features(str(folder))


@torch.no_grad()
def test_the_built_in_features():
    phi = load_features("heads")(images(64))
    assert phi.shape == (2, 128) and phi.dtype == torch.float32 and torch.isfinite(phi).all()
