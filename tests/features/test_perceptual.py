"""Features whose squared distances are LPIPS."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rsd.features import load_features
from rsd.features.perceptual import Perceptual, lpips_features


def images(n=2, size=64, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_two_layers_by_hand():
    first = torch.tensor([[[3.0, 0.0], [4.0, 2.0]], [[1.0, 0.0], [0.0, 5.0]]])  # [B=2, C=2, P=2]
    second = torch.tensor([[[7.0]], [[-2.0]]])  # [2, 1, 1]
    features = Perceptual(lambda x: [first, second], [torch.tensor([4.0, 1.0]), torch.tensor([0.25])])
    phi = features(torch.zeros(2, 3, 4, 4))
    # place 0: (0.6, 0.8) against (1, 0); place 1: (0, 1) twice; second layer: 1 against -1
    expected = (4 * 0.4**2 + 0.8**2) / 2 + 0.25 * 4
    assert phi.shape == (2, 5) and float((phi[0] - phi[1]).square().sum()) == pytest.approx(expected)


class Standin(nn.Module):
    """The parts of lpips.LPIPS that are used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.lins = [types.SimpleNamespace(model=[None, nn.Conv2d(c, 1, 1, bias=False)]) for c in (4, 6)]
        for lin in self.lins:
            lin.model[-1].weight.data.abs_()

    def scaling_layer(self, x):
        return 2 * x - 0.1

    def net(self, x):
        first = F.relu(self.a(x))
        return first, F.relu(self.b(first))

    def distance(self, x, y):
        total = torch.zeros(len(x))
        for a, b, lin in zip(self.net(self.scaling_layer(x)), self.net(self.scaling_layer(y)), self.lins, strict=True):
            unit = lambda v: v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10)  # noqa: E731
            total = total + lin.model[-1]((unit(a) - unit(b)) ** 2).mean((1, 2, 3))
        return total


def test_rows_are_as_far_apart_as_lpips_says():
    network = Standin()
    features = lpips_features(network)
    x, y = images(seed=1), images(seed=2)
    found = (features(x) - features(y)).square().sum(1)
    torch.testing.assert_close(found, network.distance(x, y).detach())


def test_the_package_s_own_distance():
    lpips = pytest.importorskip("lpips", reason="pip install lpips, and the torchvision that matches torch")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    x, y = images(seed=1), images(seed=2)
    found = (lpips_features(network)(x) - lpips_features(network)(y)).square().sum(1)
    torch.testing.assert_close(found, network(x, y).flatten().detach())


def test_the_built_in_layers_have_finite_gradients_and_see_places():
    features, vit = load_features("heads-layers"), load_features("heads")
    x = images(1).requires_grad_()
    phi = features(x)
    layers, width, places = vit.model.config.num_hidden_layers, vit.model.config.hidden_size, 64
    assert phi.shape == (1, layers * width * places)
    assert phi.square().sum().item() == pytest.approx(layers, rel=1e-5)  # unit length at each place of each layer
    (gradient,) = torch.autograd.grad(phi[:, :1000].sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_a_dead_place_gives_no_nan():
    features = Perceptual(lambda x: [F.relu(x)])
    x = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(features(x).sum(), x)
    assert gradient.isfinite().all()
