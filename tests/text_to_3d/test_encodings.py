"""Encodings against scalar transcriptions of their definitions, and their first and second derivatives."""

from __future__ import annotations

import itertools
import math
import sys
import types

import pytest
import torch

from rsd.randomness import Stream
from rsd.tasks.text_to_3d.scene import encodings
from rsd.tasks.text_to_3d.scene.encodings import (
    PRIMES,
    DenseGrid,
    Frequency,
    HashGrid,
    TinyCudaGrid,
    grid_rows,
    hash_grid,
)
from rsd.tasks.text_to_3d.scene.field import Field
from rsd.tasks.text_to_3d.scene.settings import FieldSettings
from tests.scenes import sized

SMALL = dict(levels=4, features=2, log2_hashmap_size=9, base_resolution=4, per_level_scale=1.6)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count, *, dtype=torch.float64):
    return torch.rand(count, 3, generator=random(1), dtype=dtype)


def fill(module):
    """Set values of order 1, unlike the initial ones."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=random(2))
    return module.double()


def scalar_hash(params, x, *, levels, features, log2_hashmap_size, base_resolution, per_level_scale):
    """Compute tinycudann's grid encoding, one point and one number at a time."""
    params, out, offset = params.tolist(), [], 0
    for level in range(levels):
        scale = base_resolution * per_level_scale**level - 1
        resolution = math.ceil(scale) + 1
        rows = min(-(-(resolution**3) // 8) * 8, 2**log2_hashmap_size)
        position = [float(v) * scale + 0.5 for v in x]
        corner = [math.floor(p) for p in position]
        values = [0.0] * features
        for offsets in itertools.product((0, 1), repeat=3):
            at = [c + o for c, o in zip(corner, offsets, strict=True)]
            weight = math.prod((p - c) if o else 1 - (p - c) for p, c, o in zip(position, corner, offsets, strict=True))
            index, stride, dim = 0, 1, 0
            while dim < 3 and stride <= rows:
                index, stride, dim = index + at[dim] * stride, stride * resolution, dim + 1
            if stride > rows:
                index = 0
                for a, prime in zip(at, PRIMES, strict=True):
                    index ^= (a * prime) % 2**32
            row = offset + index % rows
            for f in range(features):
                values[f] += weight * params[row * features + f]
        out += values
        offset += rows
    return out


def test_the_hash_grid_is_tinycudann_s():
    grid = fill(HashGrid(**SMALL, generator=random()))
    assert grid.resolutions == [4, 7, 11, 17] and grid.rows == [64, 344, 512, 512]
    assert grid.params.shape == (2 * (64 + 344 + 512 + 512),)
    x = torch.cat([points(20), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5]], dtype=torch.float64)])
    expected = [scalar_hash(grid.params, row, **SMALL) for row in x]
    torch.testing.assert_close(grid(x), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_sizes_of_the_usual_hash_grid():
    """16 levels of 2^19 rows from 16 to 2048: 12,196,240 values (instant-ngp's)."""
    settings = dict(levels=16, features=2, log2_hashmap_size=19, base_resolution=16, per_level_scale=1.3819)
    grid = HashGrid(**settings, generator=random())
    assert grid.resolutions[:4] == [16, 23, 31, 43] and grid.rows[:3] == [4096, 12168, 29792] and grid.rows[-1] == 2**19
    assert grid.params.numel() == 2 * sum(grid.rows) == 12_196_240
    assert grid.params.abs().max() <= 1e-4 and grid.params.std() > 5e-5


def test_resolutions_that_are_whole_numbers_stay_so():
    assert HashGrid(**{**SMALL, "per_level_scale": 2.0}, generator=random()).resolutions == [4, 8, 16, 32]
    growth = 2 ** (1 / 3)  # 4 * growth^3 is 8, but for the last digit
    assert HashGrid(**{**SMALL, "per_level_scale": growth}, generator=random()).resolutions[3] == 8


def test_large_corners_are_hashed_in_32_bits():
    corners = torch.tensor([[2047, 2046, 2045], [1, 2, 3]])
    for (x, y, z), row in zip(corners.tolist(), grid_rows(corners, 2048, 2**19).tolist(), strict=True):
        assert row == (x ^ (y * PRIMES[1] % 2**32) ^ (z * PRIMES[2] % 2**32)) % 2**19


def scalar_dense(grid, x):
    """Interpolate grid [F, r, r, r] (z, y, x) trilinearly at x, one corner at a time."""
    r = grid.shape[-1]
    position = [float(v) * (r - 1) for v in x]
    corner = [min(math.floor(p), r - 2) for p in position]
    total = torch.zeros(len(grid), dtype=torch.float64)
    for o in itertools.product((0, 1), repeat=3):
        weight = math.prod((p - c) if s else 1 - (p - c) for p, c, s in zip(position, corner, o, strict=True))
        i, j, k = (c + s for c, s in zip(corner, o, strict=True))
        total += weight * grid[:, k, j, i]
    return total


@pytest.mark.parametrize("differentiable", [False, True])
def test_the_dense_grid_interpolates(differentiable):
    """Use torch's sampler, or the corners if the point needs a gradient."""
    grid = fill(DenseGrid((3, 5), features=2, generator=random()))
    x = torch.cat([points(20), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5]], dtype=torch.float64)])
    expected = torch.stack([torch.cat([scalar_dense(level[0], row) for level in grid.levels]) for row in x])
    out = grid(x.requires_grad_(differentiable))
    assert out.shape == (23, grid.outputs)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_both_ways_through_the_dense_grid_have_the_same_gradient():
    grid, x = fill(DenseGrid((3, 5), features=2, generator=random())), points(9)
    found = [torch.autograd.grad(grid(at).square().sum(), list(grid.levels)) for at in (x, x.clone().requires_grad_())]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_frequencies():
    x = torch.tensor([[0.75, 0.5, 0.0]], dtype=torch.float64)
    out = Frequency(2)(x)
    u, s = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64), math.pi
    expected = torch.cat([u, (s * u).sin(), (2 * s * u).sin(), (s * u).cos(), (2 * s * u).cos()])
    torch.testing.assert_close(out[0], expected)


@pytest.mark.parametrize("kind", ["dense", "hash", "frequency"])
def test_first_and_second_derivatives(kind):
    """Derivatives in the point and, for grids, in the parameters."""
    if kind == "frequency":
        module, names = Frequency(2), []
    elif kind == "dense":
        module, names = DenseGrid((2, 3), features=2, generator=random()), ["levels.0", "levels.1"]
    else:
        sizes = {**SMALL, "levels": 2, "log2_hashmap_size": 5}
        module, names = HashGrid(**sizes, generator=random()), ["params"]
    fill(module)
    own = dict(module.named_parameters())
    values = [own[name].detach().clone().requires_grad_() for name in names]

    def call(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (points(3).requires_grad_(), *values)
    assert torch.autograd.gradcheck(call, inputs, eps=1e-7, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, eps=1e-7, atol=1e-5, fast_mode=True)


def test_without_cuda_the_hash_grid_is_torch_s():
    assert type(hash_grid(**SMALL, generator=random(), device="cpu")) is HashGrid


def test_the_parameters_of_both_hash_grids_have_one_name_and_layout():
    """A substitute for tinycudann, which needs CUDA: the test checks the exchange, not its kernels."""

    class Encoding(torch.nn.Module):
        def __init__(self, inputs, config, dtype):
            super().__init__()
            self.torch = HashGrid(
                levels=config["n_levels"], features=config["n_features_per_level"], generator=random(5),
                **{k: config[k] for k in ("log2_hashmap_size", "base_resolution", "per_level_scale")},
            )  # fmt: skip
            self.params = self.torch.params

        def forward(self, x):
            return self.torch(x)

    grid = HashGrid(**SMALL, generator=random())
    config = {"n_levels": 4, "n_features_per_level": 2, "log2_hashmap_size": 9, "base_resolution": 4}
    other = TinyCudaGrid(types.SimpleNamespace(Encoding=Encoding), grid, {**config, "per_level_scale": 1.6})
    assert list(other.state_dict()) == list(grid.state_dict()) == ["params"]
    torch.testing.assert_close(other(points(5, dtype=torch.float32)), grid(points(5, dtype=torch.float32)))


@pytest.mark.cuda
def test_tinycudann_gives_the_same_features():
    pytest.importorskip("tinycudann")
    grid = HashGrid(**SMALL, generator=random())
    with torch.no_grad():
        grid.params.normal_(generator=random(2))
    theirs = hash_grid(**SMALL, generator=random(), device="cuda")
    assert isinstance(theirs, TinyCudaGrid)
    theirs.load_state_dict(grid.state_dict())
    x = points(1000, dtype=torch.float32)
    torch.testing.assert_close(theirs(x.cuda()).float().cpu(), grid(x), rtol=0, atol=2e-3)


@pytest.mark.cuda
def test_a_field_on_tinycudann_has_the_same_normals_and_gradients():
    """Normals need the encoding's gradient in the point; shaded pictures, that gradient's in the parameters."""
    pytest.importorskip("tinycudann")
    settings = sized(FieldSettings, base_resolution=4)(
        encoding="hash", levels=4, log2_hashmap_size=9, per_level_scale=1.6
    )
    ours = Field(settings, Stream(0))
    with torch.no_grad():
        ours.encoding.params.normal_(generator=random(2))
    theirs = Field(settings, Stream(0), device="cuda")
    assert theirs.backend == "tinycudann" and ours.backend == "torch"
    theirs.load_state_dict(ours.state_dict())
    x = 3 * points(500, dtype=torch.float32) - 1.5
    found = []
    for field, at in ((ours, x), (theirs, x.cuda())):
        density, colour = field(at)
        loss = density.square().mean() + colour.square().mean() + field.normals(at)[:, 0].mean()
        found.append([density, field.normals(at), *torch.autograd.grad(loss, list(field.parameters()))])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(other.float().cpu(), mine, rtol=2e-2, atol=5e-3)


def test_tinycudann_that_does_not_import_is_logged(monkeypatch, caplog):
    """Without its CUDA library the import raises OSError, not ImportError."""
    encodings._tinycudann.cache_clear()
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    monkeypatch.setattr(HashGrid, "to", lambda self, device: self)
    for _ in range(2):  # a grid a scene
        assert type(hash_grid(**SMALL, generator=random(), device="cuda")) is HashGrid
    encodings._tinycudann.cache_clear()
    (told,) = caplog.messages
    assert told.startswith("hash grid: computed by torch (tinycudann: ")
