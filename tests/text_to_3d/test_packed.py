"""The packed renderer, compared on the CPU with the dense one and the parts of nerfacc that run there, on CUDA with
nerfacc."""

from __future__ import annotations

import pytest
import torch

from rsd.randomness import Stream
from rsd.tasks.text_to_3d.scene import occupancy as module
from rsd.tasks.text_to_3d.scene.cameras import orbit
from rsd.tasks.text_to_3d.scene.field import Field
from rsd.tasks.text_to_3d.scene.lights import Light, ambient_light
from rsd.tasks.text_to_3d.scene.occupancy import Occupancy, backend, torch_march
from rsd.tasks.text_to_3d.scene.render import jitter_width, render
from rsd.tasks.text_to_3d.scene.samples import DenseSamples, PackedSamples, span, stratified
from rsd.tasks.text_to_3d.scene.settings import CameraSettings, FieldSettings, RenderSettings
from tests.scenes import sized


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=random(seed), dtype=torch.float64)


def blob(*, seed=0):
    """Return a field with density in its middle and almost none outside."""
    field = Field(sized(FieldSettings, blob_height=40.0, blob_radius=0.4)(grid=(4, 8)), Stream(0))
    with torch.no_grad():
        for grid in field.encoding.levels:
            grid.normal_(generator=random(seed))
    return field


def occupied_by(field, settings, *, cells=64):
    bound = field.settings.bound
    found = Occupancy(bound, step=2 * bound / (settings.samples + settings.fine), cells=cells)
    found.to(next(field.parameters())).update(field, random(3))
    return found


def everywhere(field, settings):
    found = occupied_by(field, settings, cells=2)
    found.density.fill_(1e3)
    return found


def look(field, *, light=None, size=9, grid=occupied_by, jitter=False, device="cpu", **numbers):
    """Render with an occupancy ``grid``, or by the dense renderer."""
    settings = RenderSettings(**numbers)
    origins, directions = (r.float().to(device) for r in orbit(CameraSettings(), 2).rays(size))
    drawn = rand(2, size * size, jitter_width(settings), seed=5) if jitter else None
    return render(
        field, origins, directions, settings=settings, light=light or ambient_light(2), backdrop=torch.ones_like,
        jitter=drawn, occupancy=grid(field, settings).to(device) if grid else None,
    )  # fmt: skip


def lists(edges):
    """Return the dense samples between ``edges`` [V, R, S + 1] as packed ones."""
    V, R, S = *edges.shape[:2], edges.shape[2] - 1
    rays = torch.arange(V * R).repeat_interleave(S)
    return PackedSamples(rays, edges[..., :-1].flatten(), edges[..., 1:].flatten(), (V, R))


def test_the_same_samples_weigh_the_same_packed_or_dense():
    """Their gradients are equal too, and samples without density may be omitted."""
    edges = stratified(torch.full((2, 3), 2.0).double(), torch.full((2, 3), 5.0).double(), 8, rand(2, 3, 7))
    dense, packed = DenseSamples(edges), lists(edges)
    density = (40 * rand(48, seed=1) ** 4) * (rand(48, seed=2) > 0.3)
    values, per_ray = rand(48, 3, seed=3), rand(2, 3, 4, seed=4)
    assert torch.equal(dense.t, packed.t) and torch.equal(dense.expand(per_ray), packed.expand(per_ray))
    found = []
    for samples in (dense, packed):
        d = density.clone().requires_grad_()
        total = samples.total(samples.composite(d)[:, None] * values)
        found.append((total, *torch.autograd.grad(total.square().sum(), d)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    kept = density > 0
    assert 20 < kept.sum() < 40
    fewer = PackedSamples(packed.rays[kept], edges[..., :-1].flatten()[kept], edges[..., 1:].flatten()[kept], (2, 3))
    total = fewer.total(fewer.composite(density[kept])[:, None] * values[kept])
    torch.testing.assert_close(total, found[0][0].detach(), rtol=1e-10, atol=1e-12)


def test_sums_over_rays_are_nerfacc_s():
    nerfacc = pytest.importorskip("nerfacc")
    rays = torch.tensor([0, 0, 2, 3, 3, 3])  # none on ray 1
    samples = PackedSamples(rays, rand(6), rand(6, seed=1) + 1, (2, 2))
    weights, values = rand(6, seed=2), rand(6, 3, seed=3)
    theirs = nerfacc.accumulate_along_rays(weights.float(), values.float(), ray_indices=rays, n_rays=4)
    ours = samples.total(weights[:, None] * values)
    assert ours.shape == (2, 2, 3) and ours[0, 1].tolist() == [0, 0, 0]
    torch.testing.assert_close(ours.flatten(0, 1).float(), theirs)


def test_rays_are_marched_in_occupied_cells_alone():
    """One ray along x through a cube of 4 cells per side, of which those with x in [0, 1) are occupied."""
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupied[2] = True
    origin, direction = torch.tensor([[-5.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]])
    near, far = span(origin, direction, 2.0)
    rays, start, end = torch_march(occupied, 2.0, origin, direction, near, far, 0.25)
    assert rays.tolist() == [0] * 4 and start.tolist() == [5, 5.25, 5.5, 5.75] and end.tolist() == [5.25, 5.5, 5.75, 6]
    everywhere = torch_march(torch.ones_like(occupied), 2.0, origin, direction, near, far, 0.25)
    assert everywhere[1].tolist() == [3 + k / 4 for k in range(16)]
    missing = torch_march(torch.ones_like(occupied), 2.0, origin + 9, direction, near + 0.1, near, 0.25)
    assert [len(part) for part in missing] == [0, 0, 0]


def test_a_grid_knows_what_is_there_and_forgets_what_has_gone():
    def ball(x):
        return 50.0 * (x.norm(dim=-1) < 1).to(x), None

    def nothing(x):
        return torch.zeros(len(x)), None

    grid = Occupancy(2.0, step=0.1, cells=32)
    assert not grid.occupied.any()
    grid.update(ball, random())
    line = (torch.arange(32) + 0.5) / 8 - 2
    radius = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).norm(dim=-1)
    assert grid.occupied[radius < 0.85].all() and not grid.occupied[radius > 1.35].any()
    for _ in range(20):
        grid.update(nothing, random())
    assert grid.occupied[radius < 0.85].all()  # 50 * 0.95^20 = 18 is not yet nothing
    for _ in range(150):
        grid.update(nothing, random())
    assert 0 < float(grid.density.max()) < 0.1 and grid.occupied.float().mean() < 0.5


def test_its_cells_are_nerfacc_s():
    """Order and occupancy of the cells, without the neighbours."""
    pytest.importorskip("nerfacc")

    def slab(x):  # something in x > 0.5, more of it for larger y
        return torch.where(x[:, 0] > 0.5, (x[:, 1] + 2) * 5, torch.zeros(())), None

    ours, theirs = Occupancy(2.0, step=0.1, cells=16), module.nerfacc_grid(2.0, 16, torch.device("cpu"))
    ours.update(slab, random())
    torch.manual_seed(0)
    theirs.update_every_n_steps(0, lambda x: -torch.expm1(-slab(x)[0] * 0.1)[:, None], occ_thre=module.ENOUGH)
    grown = torch.nn.functional.max_pool3d(theirs.binaries.float(), 3, stride=1, padding=1)[0] > 0
    assert torch.equal(ours.occupied, grown)
    assert ours.occupied[10:].float().mean() > 0.95 and not ours.occupied[:9].any()


@pytest.mark.parametrize("kind", ["ambient", "lambertian"])
def test_pictures_and_gradients_are_the_dense_renderer_s(kind):
    light = ambient_light(2) if kind == "ambient" else Light(kind, orbit(CameraSettings(), 2).position, 0.1, 0.9)
    field = blob()
    dense, packed = (look(field, light=light, grid=grid, samples=300) for grid in (None, everywhere))
    solid = dense.opacity > 0.9
    assert solid.sum() > 5 and 0.05 < float(dense.opacity.detach().mean()) < 0.5
    torch.testing.assert_close(packed.colour, dense.colour, rtol=0, atol=0.02)
    torch.testing.assert_close(packed.opacity, dense.opacity, rtol=0, atol=0.02)
    torch.testing.assert_close(packed.depth[solid], dense.depth[solid], rtol=0, atol=0.02)
    torch.testing.assert_close(packed.z_variance[solid], dense.z_variance[solid], rtol=0, atol=0.01)
    grads = []
    for shown in (dense, packed):
        loss = shown.colour.square().mean() + shown.opacity.mean()
        grads.append(torch.autograd.grad(loss, field.encoding.levels[0], retain_graph=True)[0])
    assert float((grads[1] - grads[0]).norm() / grads[0].norm()) < 0.05
    if kind == "lambertian":
        torch.testing.assert_close(packed.orientation, dense.orientation, rtol=0, atol=0.05)


def test_a_grid_saves_most_samples_and_leaves_out_only_the_faint():
    field, shown, asked = blob(), [], []
    forward = field.forward
    field.forward = lambda x: (asked.append(len(x)), forward(x))[1]
    for grid in (everywhere, occupied_by):
        shown.append(look(field, grid=grid, samples=300).opacity.detach())
    change = shown[0] - shown[1]
    assert asked[-1] < 0.5 * asked[1] and asked[1] > 10_000  # each grid asks first, at its cells
    assert float(change.min()) > -1e-4 and float(change.max()) < 0.02 and float(change.mean()) < 0.002


def test_jitter_moves_the_samples_and_nothing_else_is_random():
    field = blob()
    even = look(field, samples=24).colour
    one, other = (look(field, samples=24, jitter=True).colour for _ in range(2))
    assert torch.equal(one, other) and 0 < float((one - even).detach().abs().max()) < 0.3


def test_an_empty_scene_has_gradients_of_zero():
    field = Field(sized(FieldSettings, blob_height=-60.0)(grid=(4,)), Stream(0))
    settings = RenderSettings(samples=8)
    nothing = Occupancy(1.8, step=0.1)
    assert not nothing.occupied.any()
    origins, directions = (r.float() for r in orbit(CameraSettings(), 1).rays(4))
    shown = render(
        field,
        origins,
        directions,
        settings=settings,
        light=ambient_light(1),
        backdrop=torch.ones_like,
        occupancy=nothing,
    )
    assert torch.equal(shown.colour, torch.ones(1, 16, 3)) and not shown.opacity.any()
    grads = torch.autograd.grad(shown.colour.sum(), list(field.parameters()))
    assert all(g.isfinite().all() and not g.any() for g in grads)


def test_on_a_cpu_torch_marches():
    assert backend(torch.device("cpu"), torch.float32) == "torch"


def test_a_nerfacc_that_does_not_work_is_logged_once(monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no nvcc\nand more")

    monkeypatch.setattr(module, "_nerfacc_march", fails)
    monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: torch.as_tensor(*a, **k))
    monkeypatch.setattr(torch, "ones", lambda *a, device=None, **k: torch.zeros(*a, **k))
    backend.cache_clear()
    for _ in range(2):
        assert backend(torch.device("cuda"), torch.float32) == "torch"
    backend.cache_clear()
    assert caplog.messages == ["packed renderer: torch marches the rays (nerfacc: no nvcc)"]


@pytest.mark.cuda
@pytest.mark.parametrize("jitter", [False, True])
def test_nerfacc_marches_the_same_samples(jitter):
    pytest.importorskip("nerfacc")
    device = torch.device("cuda")
    assert backend(device, torch.float32) == "nerfacc"
    origins, directions = (r.float().flatten(0, 1).to(device) for r in orbit(CameraSettings(), 3).rays(32))
    near, far = span(origins, directions, 1.8)
    near = near + 0.05 * rand(len(near)).float().to(device) if jitter else near
    occupied = occupied_by(blob(), RenderSettings(samples=72)).occupied.to(device)
    ours, theirs = (
        march(occupied, 1.8, origins, directions, near, far, 0.05) for march in (torch_march, module._nerfacc_march)
    )
    assert abs(len(ours[0]) - len(theirs[0])) < 0.01 * len(ours[0])
    counts = [part[0].bincount(minlength=len(origins)) for part in (ours, theirs)]
    assert float((counts[0] - counts[1]).abs().max()) <= 2  # at the edges of cells
    sums = [torch.zeros_like(near).index_add(0, part[0], part[1]) for part in (ours, theirs)]
    same = counts[0] == counts[1]
    torch.testing.assert_close(sums[0][same], sums[1][same], rtol=1e-3, atol=0.1)


@pytest.mark.cuda
def test_weights_are_nerfacc_s_packed_ones():
    nerfacc = pytest.importorskip("nerfacc")
    rays = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3]).cuda()
    start = rand(9).float().cuda()
    samples = PackedSamples(rays, start, start + 0.3, (2, 2))
    density = (10 * rand(9, seed=1)).float().cuda()
    theirs, _, _ = nerfacc.render_weight_from_density(start, start + 0.3, density, ray_indices=rays, n_rays=4)
    torch.testing.assert_close(samples.composite(density), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.cuda
def test_on_cuda_pictures_are_the_dense_renderer_s():
    field = blob().cuda()
    dense, packed = (look(field, grid=grid, samples=300, device="cuda") for grid in (None, everywhere))
    torch.testing.assert_close(packed.colour, dense.colour, rtol=0, atol=0.03)
    assert packed.depth.isfinite().all()
