"""The scene: its blob at the start, its normals, its random numbers."""

from __future__ import annotations

import math

import pytest
import torch

from rsd.randomness import Stream
from rsd.tasks.text_to_3d.scene.field import Field
from rsd.tasks.text_to_3d.scene.settings import ENCODINGS, FieldSettings
from tests.scenes import sized

SMALL = dict(grid=(3, 5), levels=3, log2_hashmap_size=8, per_level_scale=1.5, octaves=2)
Small = sized(FieldSettings, grid_features=2, base_resolution=4, width=8, frequency_width=8, frequency_depth=2)


def small(encoding="grid", *, double=True, **settings) -> Field:
    field = Field(Small(encoding=encoding, **{**SMALL, **settings}), Stream(0))
    with torch.no_grad():  # features of order 1: the initial ones are all but zero
        for name, parameter in field.named_parameters():
            if name.startswith("encoding"):
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    return field.double() if double else field


def inside(count, *, bound=1.8):
    random = torch.Generator().manual_seed(1)
    return (2 * torch.rand(count, 3, generator=random, dtype=torch.float64) - 1) * bound


@pytest.mark.parametrize("encoding", ["grid", "hash"])
def test_the_start_is_a_blob(encoding):
    field = Field(sized(FieldSettings, blob_height=10, blob_radius=0.5)(encoding=encoding, bound=2.0), Stream(0))
    x = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 0, 2]])
    density, colour = field(x)
    expected = [math.log1p(math.exp(raw)) for raw in (10.0, 5.0, 0.0, -10.0)]
    torch.testing.assert_close(density, torch.tensor(expected), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(colour, torch.full((4, 3), 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_normals_are_the_density_s_gradient(encoding):
    """Compared with central differences."""
    field, x, h = small(encoding), inside(20), 1e-6
    normals = field.normals(x)
    shifts = h * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack([(field(x + s)[0] - field(x - s)[0]) / (2 * h) for s in shifts], 1)
    torch.testing.assert_close(normals, -gradient / gradient.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)


def test_normals_of_the_blob_point_outwards():
    x = inside(50)
    x = x[x.norm(dim=1) < 0.9]
    field = Field(FieldSettings(), Stream(0)).double()
    torch.testing.assert_close(field.normals(x), x / x.norm(dim=1, keepdim=True), rtol=0, atol=5e-3)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_losses_on_normals_reach_every_parameter(encoding):
    """The gradient of a loss on normals in one direction of parameter space, compared with a central difference."""
    field, x, h = small(encoding), inside(6), 1e-6

    def loss():
        return (field.normals(x)[:, 0] ** 2).sum()

    parameters = list(field.parameters())
    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    random = torch.Generator().manual_seed(4)
    directions = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += sign * h * d
        values.append(float(loss().detach()))
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= sign * h * d
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


def test_without_gradients_normals_are_the_same_and_free():
    field, x = small(), inside(7)
    with torch.no_grad():
        free = field.normals(x)
    assert not free.requires_grad
    torch.testing.assert_close(free, field.normals(x).detach())


def test_initial_parameters_come_from_seed_image_and_particle():
    settings = Small(**SMALL)

    def flat(*key):
        return torch.cat([p.detach().flatten() for p in Field(settings, *key).parameters()])

    torch.manual_seed(7)
    one, after = flat(Stream(0), 1), torch.rand(1)
    torch.manual_seed(8)
    assert torch.equal(one, flat(Stream(0), 1))
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))  # torch's own generator is left alone
    for other in ((Stream(1), 1), (Stream(0), 0), (Stream(0, "a man"), 1)):
        assert not torch.equal(one, flat(*other))


def test_the_backend_is_reported():
    assert [small(encoding).backend for encoding in ENCODINGS] == ["torch"] * 3


def test_unknown_encoding_and_other_mistakes():
    with pytest.raises(ValueError, match='Unknown encoding "voxels". There are: grid, hash, frequency'):
        FieldSettings(encoding="voxels")
    with pytest.raises(ValueError, match="bound is 0; give a finite number above 0"):
        FieldSettings(bound=0)
    with pytest.raises(ValueError, match="grid is"):
        FieldSettings(grid=(1,))
