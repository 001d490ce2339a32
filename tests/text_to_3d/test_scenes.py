"""Scenes as the engine's particles: layout, random numbers, gradients, memory, resuming."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

from rsd.distributed import Ensemble, Processes
from rsd.engine import distill
from rsd.memory import Memory
from rsd.priors.base import Prior
from rsd.randomness import Stream
from rsd.reference.noise import make_noise
from rsd.repulsion import Interaction
from rsd.runs.session import flat, nested
from rsd.schedule import Schedule
from rsd.spread import Spread
from rsd.tasks.text_to_3d import scenes as scenes_module
from rsd.tasks.text_to_3d.distillation import ViewStream, count_groups
from rsd.tasks.text_to_3d.scene.cameras import draw_cameras, orbit
from rsd.tasks.text_to_3d.scene.fitting import leading
from rsd.tasks.text_to_3d.scene.regularisers import regularisers
from rsd.tasks.text_to_3d.scene.settings import CameraSettings, SceneSettings
from rsd.tasks.text_to_3d.scenes import Scenes, draw_shot, enlarge, row_ensemble
from tests.graphs import most_kept
from tests.scenes import sized

SIZE, STEPS = 8, 6


class Wish(Prior):
    """A prior of pixels that knows only one picture: it predicts the noise (z_t - alpha wish) / sigma."""

    name, image_size, latent_shape = "wish", SIZE, (3, SIZE, SIZE)

    def __init__(self, colour=(0.8, -0.6, -0.6), *, dtype=torch.float64):
        self.schedule = Schedule.vp(torch.linspace(0.9999, 0.01, 1000, dtype=torch.float64))
        self.device, self.dtype, self.calls = torch.device("cpu"), dtype, Counter()
        self.colour = torch.tensor(colour, dtype=dtype)

    def epsilon(self, z_t, t, condition=None):
        alpha, sigma = self.schedule.coefficients(t, z_t)
        return (z_t - alpha * self.colour.view(3, 1, 1)) / sigma

    def encode(self, x):
        return x

    decode = encode


def settings(**changes) -> SceneSettings:
    changes = {"grid": (3, 6), "samples": 8, "fine": 4, "ambient_until": 0.3, "views": 2, **changes}
    return sized(SceneSettings, grid_features=2, width=8)(**changes)


STREAM = Stream(0, "a ball")


def scenes(numbers=(0, 1, 2), *, prior=None, steps=STEPS, memory=None, **changes) -> Scenes:
    spread = Spread(numbers, memory or Memory())
    return Scenes(prior or Wish(), settings(**changes), spread, STREAM, steps=steps)


def pixels(z):
    return z.flatten(1)


def mean_colour(z):
    return z.mean((2, 3))


def run(particles: Scenes, *, gamma=0.0, start=0, steps=STEPS, embed=pixels):
    groups = count_groups(Ensemble.of(len(particles.scenes)), particles.settings)
    interaction = Interaction(gamma, ensembles=groups, embed=embed)
    timesteps = [(200 + 131 * k) % 900 for k in range(steps)]
    return distill(
        particles, particles.prior, timesteps=timesteps, stream=STREAM, interaction=interaction, start=start,
    )  # fmt: skip


def parameters(particles: Scenes, s: int) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in particles.scenes[s].parameters()])


# --- layout -----------------------------------------------------------------------------------------------------------


def test_scenes_seen_by_one_camera_are_a_group():
    one, three = scenes((5, 7, 9)), Ensemble.of(3)
    groups = Interaction(1.0, ensembles=count_groups(three, one.settings)).groups(len(one.ids))
    assert groups.tolist() == [[0, 1, 2], [3, 4, 5]] == one.rows.T.tolist()
    assert one.ids == [10, 14, 18, 11, 15, 19]  # number * V + view


def test_views_of_one_scene_are_a_group():
    one, three = scenes((5, 7, 9), interaction="views"), Ensemble.of(3)
    groups = Interaction(1.0, ensembles=count_groups(three, one.settings)).groups(len(one.ids))
    assert groups.tolist() == [[0, 1], [2, 3], [4, 5]] == one.rows.tolist()
    assert one.ids == [10, 11, 14, 15, 18, 19]


@pytest.mark.parametrize("interaction", ["scenes", "views"])
def test_shared_scenes_bring_their_rows_of_the_whole(interaction):
    """Three scenes with two views, of which two processes have one and two: the random numbers of their noise."""
    whole, shared = scenes((5, 7, 9), interaction=interaction), Ensemble.of(3, Processes(0, 2))
    rows = row_ensemble(shared, whole.settings)
    assert count_groups(shared, whole.settings) == {"scenes": 2, "views": 3}[interaction] and rows.total == 6
    for numbers, part in zip(((5,), (7, 9)), rows.parts, strict=True):
        assert scenes(numbers, interaction=interaction).ids == [whole.ids[row] for row in part]


def test_both_layouts_hold_the_same_pictures():
    one, other = scenes(), scenes(interaction="views")
    assert torch.equal(one.render()[one.rows], other.render()[other.rows])
    assert one.render().shape == (6, 3, SIZE, SIZE)


def test_a_step_has_one_shot_which_no_scene_changes():
    chosen = settings()
    shot = scenes((3,)).shot
    assert torch.equal(shot.cameras.azimuth, draw_shot(chosen, STREAM, steps=STEPS).cameras.azimuth)
    later = draw_shot(chosen, STREAM, steps=STEPS, step=4)
    assert not torch.equal(shot.cameras.azimuth, later.cameras.azimuth)
    assert len(later[1:2].light.position) == 1 and torch.equal(later[1:2].colours[0], later.colours[1])


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views_at_once", [None, 1])
@pytest.mark.parametrize("step", [0, 3])  # ambient, and shaded
def test_the_gradient_is_that_of_one_graph_over_everything(step, views_at_once):
    """sum_rows w(t) r z, scaled to 64 px and one view, plus each scene's regularisers."""
    terms = dict(orientation=50, sparsity=3, opacity=2, z_variance=1)
    one = scenes(**terms, views_at_once=views_at_once)
    one.done = step
    assert one.shot.light.shaded == (step == 3)
    r = torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, progress = torch.zeros((), dtype=torch.float64), step / (STEPS - 1)
    sigma = one.prior.schedule.sigma(400)
    for s, rows in enumerate(one.rows):
        for views, shown, z in one._render_views(s, one.shot):
            weight = sigma**2 * (64 / SIZE) ** 2 / 2
            loss = loss + weight * (r[rows[views]] * z).sum()
            share = len(z) / 2
            loss = loss + share * sum(regularisers(shown, one.settings, progress=progress).values())
    wanted = [p for scene in one.scenes for p in scene.parameters()]
    expected, found = torch.autograd.grad(loss, wanted), []
    one.optimiser.step = lambda: found.extend(p.grad.clone() for p in wanted)
    losses = one.step(r, 400, lambda g: g)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert set(losses) == {"sparsity", "opacity", "z_variance"} | ({"orientation"} if step == 3 else set())
    assert one.done == step + 1


def test_the_rows_of_the_gradient_are_those_of_the_engine():
    one = scenes()
    z = one.render()
    again = torch.stack([torch.cat([z for _, _, z in one._render_views(s, one.shot)]) for s in range(3)])
    assert torch.equal(z[one.rows], again.detach())


@pytest.mark.parametrize("background", ["random", "learned", "plain"])
def test_no_scene_depends_on_the_others_without_a_force(background):
    together = scenes(background=background)
    list(run(together))
    for number in (0, 2):
        alone = scenes((number,), background=background)
        list(run(alone))
        torch.testing.assert_close(parameters(alone, 0), parameters(together, number), rtol=0, atol=1e-9)


def test_order_and_chunks_of_views_change_nothing():
    one, other = scenes(), scenes((2, 0, 1), views_at_once=1)
    for particles in (one, other):
        list(run(particles, gamma=3.0))
    for s, number in enumerate((2, 0, 1)):
        torch.testing.assert_close(parameters(other, s), parameters(one, number), rtol=0, atol=1e-7)


def test_scenes_differ_from_the_start_and_by_seed():
    one = scenes()
    z = one.render()[one.rows]
    assert (z[0] - z[1]).abs().max() > 1e-6
    other = Scenes(Wish(), settings(), Spread((0, 1, 2)), Stream(1, "a ball"), steps=STEPS)
    assert not torch.equal(one.render(), other.render())


# --- towards a wish ---------------------------------------------------------------------------------------------------


def towards_red(*, gamma, steps=80):
    calm = dict(orientation=0, sparsity=0, ambient_until=1, views=1, background="gray", azimuth=(-180, 180))
    particles = scenes((0, 1), prior=Wish(dtype=torch.float32), steps=steps, **calm)
    start = particles.photographs(orbit(CameraSettings(), 4))
    records = list(run(particles, gamma=gamma, steps=steps, embed=mean_colour))
    return start, particles.photographs(orbit(CameraSettings(), 4)), records


def test_distillation_paints_the_scene_and_repulsion_parts_two():
    start, calm, _ = towards_red(gamma=0.0)
    wish = torch.tensor([0.8, -0.6, -0.6]).view(3, 1, 1)
    middle = (..., slice(3, 5), slice(3, 5))
    before, after = ((x[middle] - wish).abs().mean() for x in (start, calm))
    assert after < 0.3 * before
    _, pushed, records = towards_red(gamma=10.0)
    near, far = ((x[0] - x[1]).square().mean().sqrt() for x in (calm, pushed))
    assert far > 2 * near
    assert all(record.repulsion > 0 and record.distance > 0 for record in records[1:])


def test_another_backend_than_the_checkpoint_s_is_reported():
    state = scenes().state()
    assert state["backends"] == {"encoding_backend": 0, "renderer_backend": 0}  # torch
    state["backends"]["encoding_backend"] = 1
    with pytest.warns(
        UserWarning, match="started with tinycudann and continues with torch: results differ by rounding"
    ):
        scenes().load_state(state)


# --- fitted to pictures -----------------------------------------------------------------------------------------------

FITTED = dict(optimiser="fit", fit_steps=8, fit_rays=64, cameras="fixed", orientation=0, sparsity=0)


def sampling(particles: Scenes, *, steps: int = STEPS, start: int = 0, gamma: float = 0.0, state=None):
    """DDIM's way down with noise that is carried along; yields the records and the noise."""
    timesteps = [round(900 * (1 - k / steps)) for k in range(steps)]
    noise = make_noise("carried", STREAM, particles.spread, particles.prior, None, timesteps, steps=0)
    noise.load_state(state or {})
    groups = count_groups(Ensemble.of(len(particles.scenes)), particles.settings)
    interaction = Interaction(gamma, (0.3, 0.9), ensembles=groups, embed=mean_colour, on_clean=True)
    for record in distill(
        particles, particles.prior, timesteps=timesteps, stream=STREAM, noise=noise, interaction=interaction,
        start=start,
    ):  # fmt: skip
        yield record, noise


def test_fitted_scenes_that_can_show_everything_are_the_ddim_sampler(monkeypatch):
    """A scene whose pictures are those it was fitted to: its views are DDIM samples."""

    class Shown(Scenes):
        pictures: torch.Tensor | None = None

        def render(self):
            return super().render() if self.pictures is None else self.pictures.clone()

    def exact(field, background, optimiser, targets, *rays, **settings):
        shown.append(targets)
        return {}

    shown: list[torch.Tensor] = []
    monkeypatch.setattr(scenes_module, "fit", exact)
    prior = Wish()
    prior.epsilon = lambda z_t, t, condition=None: torch.tanh(z_t + t / 1000)  # any network
    particles = Shown(prior, settings(**FITTED), Spread((0, 1)), STREAM, steps=STEPS)
    z, timesteps = particles.render(), [round(900 * (1 - k / STEPS)) for k in range(STEPS)]
    z_t = prior.schedule.alpha(900) * z
    z_t = z_t + prior.schedule.sigma(900) * STREAM.noise("diffusion", z.shape[1:], particles.ids, 0).double()
    for _ in sampling(particles):
        pictures = torch.empty_like(z)
        for rows, targets in zip(particles.rows, shown, strict=True):
            pictures[rows] = targets
        particles.pictures = pictures
        shown.clear()
    for now, then in zip(timesteps, [*timesteps[1:], None], strict=True):
        eps, alpha, sigma = prior.epsilon(z_t, now), prior.schedule.alpha(now), prior.schedule.sigma(now)
        clean = (z_t - sigma * eps) / alpha
        if then is not None:
            z_t = prior.schedule.alpha(then) * clean + prior.schedule.sigma(then) * eps
    torch.testing.assert_close(particles.pictures, clean, rtol=0, atol=1e-9)


def test_a_fitted_scene_shows_the_wish_and_is_the_same_alone():
    few = {**FITTED, "fit_steps": 4}
    together = scenes((0, 2), **few)
    wish = together.prior.colour.view(3, 1, 1)
    middle = (..., slice(3, 5), slice(3, 5))
    before = (together.photographs(orbit(CameraSettings(), 4))[middle] - wish).abs().mean()
    errors = [record.losses["fit"] for record, _ in sampling(together)]
    assert errors[-1] < errors[0]
    assert (together.photographs(orbit(CameraSettings(), 4))[middle] - wish).abs().mean() < 0.5 * before
    alone = scenes((2,), **few)
    list(sampling(alone))
    torch.testing.assert_close(parameters(alone, 0), parameters(together, 1), rtol=0, atol=1e-9)


def test_fitted_scenes_repel_and_resume():
    few = {**FITTED, "fit_steps": 3}
    whole, half, again = (scenes((0, 2), **few) for _ in range(3))
    records = [record for record, _ in sampling(whole, gamma=1.0)]
    assert [record.repulsion > 0 for record in records] == [False, True, True, True, True, False]
    for record, noise in sampling(half, gamma=1.0):
        if record.step == 2:
            saved = flat(copy.deepcopy({**half.state(), "noise": noise.state()}))
            break
    state = nested({k: v.clone() for k, v in saved.items()})
    again.load_state(state)
    later = [record for record, _ in sampling(again, gamma=1.0, start=3, state=state["noise"])]
    assert [r.row() for r in later] == [r.row() for r in records[3:]]
    assert all(torch.equal(parameters(again, s), parameters(whole, s)) for s in range(2))


def test_the_first_noise_of_views_can_be_alike():
    eps = ViewStream(0, "a ball", 3).noise("diffusion", (2, 64, 64), [0, 1, 2, 3], 0)
    assert torch.equal(eps[0], eps[2]) and torch.equal(eps, eps.flip(-1)) and (eps[0] - eps[3]).std() > 1.3
    torch.testing.assert_close(eps.std((1, 2, 3)), torch.ones(4), rtol=0, atol=0.03)


def test_straight_views_lead():
    cameras = draw_cameras(settings(cameras="fixed"), 8, STREAM)
    assert leading(cameras, settings(fit_lead=0.3), progress=0.2).tolist() == [0, 4]
    assert leading(cameras, settings(fit_lead=0.3), progress=0.3).tolist() == list(range(8))
    assert leading(cameras[1:2], settings(fit_lead=0.3), progress=0.0).tolist() == [0]


def test_fixed_cameras_stay_and_look_from_all_around():
    one = scenes(**{**FITTED, "views": 4}, elevation=(0, 30))
    first, later = (draw_shot(one.settings, STREAM, steps=STEPS, step=k) for k in (0, 5))
    assert first.cameras.azimuth.tolist() == later.cameras.azimuth.tolist() == [0, 90, -180, -90]
    assert first.cameras.elevation.tolist() == [10, 20, 10, 20] and not later.light.shaded


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interaction", "renderer"), [("scenes", "dense"), ("views", "dense"), ("scenes", "packed")])
def test_resuming_gives_the_same_numbers(interaction, renderer, monkeypatch, small_networks):
    monkeypatch.setattr(scenes_module, "EVERY", 2)
    whole = scenes(interaction=interaction, renderer=renderer)
    records = list(run(whole, gamma=1.0))
    half = scenes(interaction=interaction, renderer=renderer)
    for record in run(half, gamma=1.0):
        if record.step == 2:
            break
    saved = nested({k: v.clone() for k, v in flat(copy.deepcopy(half.state())).items()})
    again = scenes(interaction=interaction, renderer=renderer)
    again.load_state(saved)
    assert again.done == 3
    later = list(run(again, gamma=1.0, start=3))
    assert [r.row() for r in later] == [r.row() for r in records[3:]]
    for s in range(3):
        assert torch.equal(parameters(again, s), parameters(whole, s))
    assert torch.equal(again.finish(), whole.finish()) and whole.finish().shape == (3, 3, SIZE, SIZE)


def saved_bytes(numbers, *, keep=False) -> int:
    """Return the peak number of bytes that autograd keeps over two steps of scenes that repel by a small network's
    features."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 128, 3), torch.nn.SiLU(), torch.nn.Conv2d(128, 4, 3)).double()
    particles = scenes(numbers, memory=Memory(2, keep=keep))
    records = []

    def move():
        records.extend(run(particles, steps=2, gamma=1.0, embed=lambda z: network(z).flatten(1)))

    peak = most_kept(move)
    assert records[-1].repulsion > 0
    return peak


def test_graphs_do_not_grow_with_the_number_of_scenes():
    few, many = saved_bytes(range(2)), saved_bytes(range(7))
    assert 1e5 < few == many < saved_bytes(range(7), keep=True)  # with the features' graphs kept it would


def test_the_picture_is_kept_between_two_steps(monkeypatch):
    """The engine renders once before and once after a step (for a reference that learns), N scenes rather than 2 N."""
    one, looks = scenes(), []
    look = one._render_views
    monkeypatch.setattr(one, "_render_views", lambda s, shot: (looks.append(s), look(s, shot))[1])
    list(run(one, steps=3))
    assert len(looks) == 3 * (3 + 1 + 3)  # with gradient at each of 3 steps; without, before each and at the end


def test_mistakes():
    with pytest.raises(ValueError, match="views is 0"):
        settings(views=0)
    with pytest.raises(ValueError, match='Unknown interaction "all". There are: scenes, views'):
        settings(interaction="all")
    with pytest.raises(ValueError, match='Unknown background "sky"'):
        settings(background="sky")
    with pytest.raises(ValueError, match="views_at_once is 0"):
        settings(views_at_once=0)
    with pytest.raises(ValueError, match="resolution is -16"):
        settings(resolution=-16)
    points = Wish()
    points.image_size = 0
    with pytest.raises(ValueError, match="over points, not pictures"):
        scenes(prior=points)


def test_small_renderings_are_enlarged_to_what_the_prior_sees():
    small = scenes([0], resolution=SIZE // 2, views=1)
    z = small.render()[0]
    assert z.shape == (3, SIZE, SIZE)
    ramp = torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2)
    assert enlarge(ramp, 4)[0, 0].tolist() == [[0, 0.25, 0.75, 1]] * 4 and enlarge(ramp, 2) is ramp
    before = parameters(small, 0)
    list(run(small, steps=2))
    assert not torch.equal(parameters(small, 0), before) and small.images().shape == (1, 3, SIZE, SIZE)
