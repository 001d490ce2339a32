"""The renderer compared with closed forms, scalar references and nerfacc's dense functions; and the regularisers."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch

from rsd.randomness import Stream
from rsd.tasks.text_to_3d.scene.cameras import orbit
from rsd.tasks.text_to_3d.scene.field import Field
from rsd.tasks.text_to_3d.scene.lights import Light, ambient_light
from rsd.tasks.text_to_3d.scene.regularisers import entropy, regularisers, sparsity, thickness
from rsd.tasks.text_to_3d.scene.render import Rendering, as_images, jitter_width, render
from rsd.tasks.text_to_3d.scene.samples import DenseSamples, composite, refine, span, stratified
from rsd.tasks.text_to_3d.scene.settings import CameraSettings, FieldSettings, RegulariserSettings, RenderSettings


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Ball:
    """A ball of density ``sigma`` and one colour, with ``radius`` around the origin."""

    def __init__(self, sigma, radius=1.0, bound=1.5, turned=1):
        self.sigma, self.radius, self.turned = sigma, radius, turned
        self.settings = types.SimpleNamespace(bound=bound)

    def __call__(self, x):
        inside = (x.norm(dim=-1) < self.radius).to(x)
        return self.sigma * inside, torch.tensor([0.9, 0.2, 0.4], dtype=x.dtype).expand(*x.shape)

    def normals(self, x):
        return self.turned * torch.nn.functional.normalize(x, dim=-1)


def white(directions):
    return torch.ones_like(directions)


def look(field, *, size=9, views=2, light=None, jitter=False, shade_above=1e-3, **settings):
    origins, directions = orbit(CameraSettings(), views).rays(size)
    settings = type("Shading", (RenderSettings,), {"shade_above": shade_above})(**settings)
    drawn = rand(views, size * size, jitter_width(settings), seed=5) if jitter else None
    light = light or ambient_light(views)
    return render(field, origins, directions, settings=settings, light=light, backdrop=white, jitter=drawn), directions


def test_where_rays_cross_the_cube():
    origins = torch.tensor([[0.0, 0, 5], [0, 0, 5], [3, 0, 5], [0, 0, 0], [0, 0, 5]], dtype=torch.float64)
    slope = 2**-0.5
    directions = torch.tensor([[0, 0, -1.0], [0, slope, -slope], [0, 0, -1], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    near, far = span(origins, directions, 2.0)
    assert near.tolist()[0] == 3 and far.tolist()[0] == 7
    assert near[3] == 0 and far[3] == 2  # from inside
    assert all(near[k] == far[k] for k in (1, 2, 4))  # past it, beside it, behind the camera


def test_a_ball_of_constant_density():
    """The opacity through the middle is 1 - exp(-2 sigma), along a chord of length l it is 1 - exp(-sigma l)."""
    shown, directions = look(Ball(0.7), samples=2000, views=1)
    assert float(shown.opacity[0, 40]) == pytest.approx(1 - math.exp(-1.4), abs=2e-3)
    offset = 8 * (1 - (directions[0] @ directions[0, 40]) ** 2).clamp(min=0).sqrt()  # of a ray from the centre
    chord = 2 * (1 - offset**2).clamp(min=0).sqrt()
    expected = 1 - (-0.7 * chord).exp()
    torch.testing.assert_close(shown.opacity[0], expected, rtol=0, atol=2e-3)
    colour = torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64)
    torch.testing.assert_close(shown.colour[0], expected[:, None] * colour + (1 - expected[:, None]), rtol=0, atol=2e-3)


def test_depth_of_a_solid_ball_and_importance():
    """The nearest point is at distance 7; 24 even samples are too coarse for it, 24 more near it are fine enough."""
    coarse, fine = (float(look(Ball(200.0), samples=24, fine=f, views=1)[0].depth[0, 40]) for f in (0, 96))
    assert abs(fine - 7) < 0.02 < abs(coarse - 7)
    shown, _ = look(Ball(200.0), samples=24, fine=96)
    assert float(shown.z_variance[0, 40]) < 1e-3 and float(shown.opacity[0, 40]) == pytest.approx(1, abs=1e-6)


def test_stratified_edges():
    near, far = torch.tensor([2.0, 3.0]), torch.tensor([4.0, 3.0])
    assert stratified(near, far, 4, None).tolist() == [[2, 2.5, 3, 3.5, 4], [3] * 5]
    jitter = torch.rand(2, 999, generator=torch.Generator().manual_seed(0))
    edges = stratified(near, far, 1000, jitter)
    assert (edges.diff(dim=-1) >= 0).all() and edges[0, 0] == 2 and edges[0, -1] == 4
    moved = (edges[0] - stratified(near, far, 1000, None)[0])[1:-1] / 2e-3
    assert -0.51 < moved.min() < -0.48 and 0.48 < moved.max() < 0.51


def test_refined_edges_are_the_quantiles():
    edges = torch.tensor([[0.0, 1, 2, 4]], dtype=torch.float64)
    weights = torch.tensor([[0.1, 0.0, 0.6]], dtype=torch.float64)
    for jitter in (None, rand(1, 10)):
        new = refine(edges, weights, 10, jitter)[0].tolist()
        mass = np.array([0.1, 0, 0.6]) + 1e-3 / 3
        cdf = np.concatenate([[0], np.cumsum(mass)]) / mass.sum()
        u = (np.arange(10) + (0.5 if jitter is None else jitter[0].numpy())) / 10
        expected = np.sort(np.concatenate([np.interp(u, cdf, [0, 1, 2, 4]), [0, 1, 2, 4]]))
        np.testing.assert_allclose(new, expected, atol=1e-12)


def test_refining_nothing_is_even_and_a_missed_cube_stays_empty():
    edges = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert refine(edges[None], torch.zeros(1, 4, dtype=torch.float64), 4, None)[0, 1:-1:2].diff().std() < 1e-9
    shown, _ = look(Ball(5.0, bound=0.5), samples=8, fine=8)  # the corner rays miss this cube
    assert shown.opacity[0, 0] == 0 and shown.colour[0, 0].tolist() == [1, 1, 1] and shown.colour.isfinite().all()


@pytest.mark.parametrize("fine", [0, 5])
def test_jitter_moves_samples_and_nothing_else_is_random(fine):
    field = Field(FieldSettings(grid=(4,)), Stream(0)).double()
    even = look(field, samples=12, fine=fine)[0].colour
    one, other = (look(field, samples=12, fine=fine, jitter=True)[0].colour for _ in range(2))
    assert torch.equal(one, other) and 0 < float((one - even).detach().abs().max()) < 0.2


def nerfacc_module():
    return pytest.importorskip("nerfacc", reason="nerfacc is not installed: pip install --no-deps nerfacc==0.5.3 rich")


def test_weights_are_nerfacc_s():
    """Their gradients are equal, too."""
    nerfacc = nerfacc_module()
    edges = stratified(torch.full((6,), 2.0), torch.full((6,), 5.0), 16, rand(6, 15).float())
    density = (40 * rand(6, 16, seed=1) ** 4).float().requires_grad_()
    ours = composite(density, edges)
    theirs, _, _ = nerfacc.render_weight_from_density(edges[:, :-1], edges[:, 1:], density)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    direction = rand(6, 16, seed=2).float()
    grads = [torch.autograd.grad((weights * direction).sum(), density)[0] for weights in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_renderings_are_nerfacc_s():
    nerfacc = nerfacc_module()
    field = Field(FieldSettings(grid=(4, 8)), Stream(0))
    with torch.no_grad():
        for grid in field.encoding.levels:
            grid.normal_(generator=torch.Generator().manual_seed(1))
    origins, directions = (r.float() for r in orbit(CameraSettings(), 1).rays(8))
    settings = RenderSettings(samples=24)
    jitter = rand(1, 64, 23).float()
    shown = render(
        field, origins, directions, settings=settings, light=ambient_light(1), backdrop=torch.zeros_like, jitter=jitter
    )
    edges = stratified(*span(origins, directions, field.settings.bound), 24, jitter)[0]

    def look_up(starts, ends, rays):
        assert rays is None
        samples = DenseSamples(edges[None])
        x = samples.expand(origins) + samples.t[:, None] * samples.expand(directions)
        density, colour = field(x)
        return colour.view(64, 24, 3), density.view(64, 24)

    colours, opacities, depths, _ = nerfacc.rendering(edges[:, :-1], edges[:, 1:], rgb_sigma_fn=look_up)
    torch.testing.assert_close(shown.colour[0], colours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shown.opacity[0], opacities[:, 0], rtol=1e-5, atol=1e-5)
    solid = shown.opacity[0] > 1e-3
    torch.testing.assert_close(shown.depth[0][solid], depths[solid, 0], rtol=1e-4, atol=1e-4)


def test_shading_and_normals_of_a_ball():
    """Lit from the camera, the middle is bright and the rim is at the ambient light; the ball faces the camera."""
    cameras = orbit(CameraSettings(), 1, elevation=0)
    light = Light("textureless", cameras.position, 0.1, 0.9)
    origins, directions = cameras.rays(21)
    settings = RenderSettings(samples=600)
    shown = render(Ball(300.0), origins, directions, settings=settings, light=light, backdrop=torch.zeros_like)
    middle = 220
    assert shown.colour[0, middle].tolist() == pytest.approx([1.0] * 3, abs=0.01)
    far = 100 * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)  # the middle's normal is z, whoever lights it
    aside = render(
        Ball(300.0), origins, directions, settings=settings, light=Light("textureless", far, 0.1, 0.9),
        backdrop=torch.zeros_like,
    )  # fmt: skip
    assert aside.colour[0, middle].tolist() == pytest.approx([0.1 + 0.9 * 0.8] * 3, abs=0.02)
    rim = torch.nonzero(shown.opacity[0] > 0.99)[0]
    assert float(shown.colour[0, rim].mean()) < 0.65
    assert float(shown.orientation.max()) < 0.02
    away = render(
        Ball(300.0, turned=-1), origins, directions, settings=settings, light=light, backdrop=torch.zeros_like
    )
    assert float(away.orientation[0, middle]) == pytest.approx(1, abs=0.02)


def test_samples_too_faint_to_shade_are_left_out():
    """The picture hardly changes, and its gradient reaches every parameter."""
    field = Field(FieldSettings(grid=(4, 8)), Stream(0)).double()
    light = Light("lambertian", orbit(CameraSettings(), 2).position, 0.1, 0.9)
    every, most = (look(field, samples=24, light=light, shade_above=least)[0] for least in (0.0, 1e-3))
    torch.testing.assert_close(most.colour, every.colour, rtol=0, atol=5e-3)
    torch.testing.assert_close(most.orientation, every.orientation, rtol=0, atol=5e-3)
    assert not torch.equal(most.colour, every.colour)
    loss = most.colour.square().sum() + most.orientation.sum()
    assert all(float(g.abs().max()) > 0 for g in torch.autograd.grad(loss, list(field.parameters())))


def test_images_have_their_first_row_on_top():
    colour = torch.zeros(1, 4, 3)
    colour[0, 1] = torch.tensor([1.0, 0.5, 0.25])  # top right
    image = as_images(colour)
    assert image.shape == (1, 3, 2, 2) and image[0, :, 0, 1].tolist() == [1, 0, -0.5]
    assert image[0, :, 1].unique().tolist() == [-1]


def test_regularisers():
    opacity = torch.tensor([[0.0, 1.0], [0.5, 0.8]], dtype=torch.float64)
    assert float(sparsity(opacity)) == pytest.approx(np.mean([0.1, 1.01**0.5, 0.26**0.5, 0.65**0.5]))
    assert float(entropy(torch.tensor([0.5, 0.5]))) == pytest.approx(math.log(2))
    assert float(entropy(torch.tensor([0.0, 1.0]))) == pytest.approx(0.00791, abs=1e-5)
    z = torch.tensor([[9.0, 0.4], [9.0, 0.2]], dtype=torch.float64)
    assert float(thickness(z, opacity)) == pytest.approx(0.3) and float(thickness(z, 0 * opacity)) == 0
    shown = Rendering(torch.zeros(2, 2, 3), opacity, opacity, z, orientation=torch.full((2, 2), 0.5))
    weights = RegulariserSettings(orientation=10, sparsity=2, opacity=0, z_variance=4)
    terms = regularisers(shown, weights, progress=0.5)
    assert set(terms) == {"orientation", "sparsity", "z_variance"}
    assert float(terms["orientation"]) == pytest.approx(10 * 0.1 * 0.5)
    assert float(terms["z_variance"]) == pytest.approx(1.2)
    parts = [regularisers(part(shown, k), weights, progress=0.5) for k in (0, 1)]
    for name, value in terms.items():  # views one at a time give the same mean
        assert float(value) == pytest.approx(np.mean([float(p[name]) for p in parts]))


def part(shown, view):
    rows = slice(view, view + 1)
    fields = {name: value[rows] for name, value in vars(shown).items() if value is not None}
    return Rendering(**fields)
