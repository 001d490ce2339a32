"""Metrics with external networks: the arithmetic with small substitutes, and how to get the real ones."""

from __future__ import annotations

import sys
import types
import urllib.error

import numpy as np
import pytest
import torch
from torch import nn

from rsd import metrics
from rsd.metrics import dists


def pictures(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_frechet_is_the_closed_form_of_gaussians():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.normal(size=(50, 3)))
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(a, a + torch.tensor([1.0, 2.0, 2.0])) == pytest.approx(9)
    spread = (a - a.mean(0)) * 3 + a.mean(0)  # (3 s - s)^2 in every direction
    assert metrics.frechet(a, spread) == pytest.approx(4 * float(torch.cov(a.T).trace()))
    assert metrics.frechet(a[:, :1], a[:, :1] + 2) == pytest.approx(4)


def test_frechet_where_covariances_do_not_commute():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) for _ in range(2))
    of_a, of_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * sqrtm(of_a @ of_b).real)
    found = metrics.frechet(torch.from_numpy(a), torch.from_numpy(b))
    assert (
        found
        == pytest.approx(expected, rel=1e-8)
        == pytest.approx(metrics.frechet(torch.from_numpy(b), torch.from_numpy(a)), rel=1e-8)
    )


def test_frechet_of_fewer_rows_than_features_is_the_same_number():
    rng = np.random.default_rng(2)
    a, b = torch.from_numpy(rng.normal(size=(6, 3))), torch.from_numpy(rng.normal(size=(9, 3)))
    wide = lambda x: torch.cat([x, torch.zeros(len(x), 40)], dim=1)  # noqa: E731
    assert metrics.frechet(wide(a), wide(b)) == pytest.approx(metrics.frechet(a, b), rel=1e-9)
    assert metrics.frechet(wide(a), wide(a)) == pytest.approx(0, abs=1e-9)
    picture_sized = torch.zeros(2, 100_000)  # d x d would be 80 GB
    picture_sized[1] = 1
    assert metrics.frechet(picture_sized, picture_sized + 2) == pytest.approx(400_000)


class FakeLPIPS(nn.Module):
    """The parts of lpips.LPIPS that are used: a backbone in slices, whose layers keep torchvision's numbers."""

    def __init__(self, *, net, pnet_rand, verbose):
        super().__init__()
        assert net == "alex" and pnet_rand and not verbose
        self.net = nn.ModuleDict({"slice1": nn.Sequential(), "slice2": nn.Sequential()})
        self.net["slice1"].add_module("0", nn.Conv2d(3, 1, 1))
        self.net["slice1"].add_module("1", nn.ReLU())
        self.net["slice2"].add_module("3", nn.Conv2d(1, 1, 1))

    def forward(self, a, b):
        f = lambda x: self.net["slice2"](self.net["slice1"](x))  # noqa: E731
        return (f(a) - f(b)).square().mean((1, 2, 3), keepdim=True)


def test_lpips_takes_alexnet_s_layers_by_number(monkeypatch):
    weights = {
        "features.0.weight": torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), "features.0.bias": torch.tensor([2.0]),
        "features.3.weight": torch.tensor([3.0]).view(1, 1, 1, 1), "features.3.bias": torch.tensor([0.0]),
        "classifier.1.weight": torch.zeros(1),
    }  # fmt: skip
    asked = {}
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=FakeLPIPS))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **k: asked.update(k) or weights)
    distance = metrics.load_lpips()
    assert asked["weights_only"] and asked["check_hash"]
    x, truth = torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    x[1, 0] = 7  # clamped to 1: (3 (2 + 1) - 3 * 2)^2
    assert distance(x, truth).tolist() == pytest.approx([0, 9])


def test_lpips_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'rsd\[lpips\]'"):
        metrics.load_lpips()

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=FakeLPIPS))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match="alexnet-owt-7be5be79.pth into .*checkpoints"):
        metrics.load_lpips()


@pytest.fixture
def vgg(monkeypatch, tmp_path):
    """Write random weights of DISTS and of a narrow VGG16 to PyTorch's cache, where the loader looks for files."""
    narrow = tuple(tuple(width // 32 for width in widths) for widths in dists.STAGES)
    monkeypatch.setattr(dists, "STAGES", narrow)
    monkeypatch.setattr(dists, "VGG16", "https://nowhere.invalid/vgg.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = dists.Dists()
    state = {f"features.{k}": v for k, v in network.features.state_dict().items()}
    own = {name: torch.rand(1, 3 + sum(w[-1] for w in narrow), 1, 1) for name in ("alpha", "beta")}
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, folder / "vgg.pth")
    torch.save(own, folder / "dists_weights.pt")
    # its name has no hash to check
    real = torch.hub.load_state_dict_from_url
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **k: real(url, **{**k, "check_hash": False}))
    return folder


def test_dists_reads_its_weights_from_the_cache(vgg):
    distance = metrics.load_dists()
    x = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert distance(x[:1], x[:1]).tolist() == pytest.approx([0], abs=1e-5)
    found = distance(torch.cat([x[:1], x[1:]]), x[:1])
    assert float(found[0]) == pytest.approx(0, abs=1e-5) and 0.05 < float(found[1]) < 1
    brighter = distance((x[:1] + 3).clamp(max=5), x[:1])  # clamped to white
    assert float(brighter) > float(distance((x[:1] + 0.05), x[:1]))


def test_dists_is_its_formula_on_the_pixels(vgg):
    """With the weight on the pictures' own red alone."""
    own = {name: torch.zeros(1, 3 + sum(w[-1] for w in dists.STAGES), 1, 1) for name in ("alpha", "beta")}
    own["alpha"][0, 0], own["beta"][0, 0] = 0.25, 0.75
    torch.save(own, vgg / "dists_weights.pt")
    x, y = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = x[0, 0], y[0, 0]
    structure = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
    both = (a * b).mean() - a.mean() * b.mean()
    texture = (2 * both + 1e-6) / (a.var(correction=0) + b.var(correction=0) + 1e-6)
    assert metrics.load_dists()(2 * x - 1, 2 * y - 1).tolist() == pytest.approx(
        [float(1 - 0.25 * structure - 0.75 * texture)], abs=1e-5
    )


def test_dists_says_what_is_missing(vgg, monkeypatch):
    (vgg / "dists_weights.pt").unlink()

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match="dists_weights.pt into .*checkpoints"):
        metrics.load_dists()


@pytest.fixture
def clip(tmp_path, tiny_folder):
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder("epsilon") / "tokenizer")
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**layers, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**layers, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip"), model, tokenizer


def test_the_clip_score_is_clip_s_own_cosine(clip):
    from transformers import CLIPImageProcessor

    folder, model, tokenizer = clip
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    inputs = tokenizer("red", return_tensors="pt"), processor(list(pixels), return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs[0], **inputs[1]).logits_per_image[:, 0] / model.logit_scale.exp()
    match = metrics.load_clip_score(folder)
    found = match(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, "red")
    assert torch.allclose(found, expected, atol=1e-5) and abs(float(found[0] - found[1])) > 1e-4
    assert match(pictures(1, 40), "r e d " * 40).shape == (1,)  # other sizes; long prompts are cut


def test_the_clip_score_says_how_to_get_it():
    with pytest.raises(ValueError, match="go online once"):
        metrics.load_clip_score()
    with pytest.raises(ValueError, match="Unknown CLIP model"):
        metrics.load_clip_score("clip")
