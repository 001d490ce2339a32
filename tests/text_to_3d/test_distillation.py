"""Whole runs with a tiny latent prior: the conditions of each step, and resuming."""

from __future__ import annotations

import pytest
import torch

from rsd.priors.latent import LatentPrior
from rsd.randomness import Stream
from rsd.runs.session import flat, nested
from rsd.schedule import Schedule
from rsd.tasks.text_to_3d.distillation import Run, draw_timesteps
from rsd.tasks.text_to_3d.options import Settings
from rsd.tasks.text_to_3d.prompts import views_of
from tests.scenes import sized

Small = sized(Settings, grid_features=2, width=8)
SCENES = dict(grid=(3, 6), samples=6, views=2, ambient_until=0.3, guidance=20, guidance_convention="dreamfusion")

SCHEDULE = Schedule.scaled_linear()


@pytest.fixture
def tiny(tiny_pipeline):
    return lambda: LatentPrior(tiny_pipeline())


def run(prior, *, numbers=None, **settings):
    settings = {"steps": 4, "particles": 3, "gamma": 1.0, "lora_rank": 2, "lr_phi": 1e-3, **SCENES, **settings}
    return Run(prior, "red", Small(**{"chunk": None, **settings}), embed=lambda z: z.flatten(1), numbers=numbers)


def test_timesteps_are_the_dreamfusion_ones():
    t = draw_timesteps(Settings(steps=3000), SCHEDULE, Stream(0))
    assert min(t) == 20 and max(t) == 980 and sum(t) / 3000 == pytest.approx(500, abs=20)
    assert t[:5] == draw_timesteps(Settings(steps=5), SCHEDULE, Stream(0))
    flow = Schedule.flow(torch.arange(1, 1001) / 1000, torch.arange(1000))  # its last timestep has no signal
    assert max(draw_timesteps(Settings(steps=999, t_range=(0.5, 1.0)), flow, Stream(0))) == 998


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_each_picture_is_compared_with_its_own_view_s_prompt(tiny, method):
    """The prior predicts for the step's cameras; VSD's score learns on the next pictures, for their cameras."""
    prior, asked = tiny(), []
    one = run(prior, method=method, steps=2)
    words = {view: one.prompts.conditions[text].embeddings for view, text in one.prompts.texts[0].items()}
    epsilon = prior.epsilon

    def spy(z_t, t, condition):
        asked.append(condition)
        return epsilon(z_t, t, condition)

    prior.epsilon = spy
    cameras = []
    for _ in one.steps():
        cameras.append(one.particles.shot.cameras)
    expected = [run(prior, steps=2).particles.shot.cameras, cameras[0]]
    per_step = {"sds": 1, "vsd": 3}[method]  # prior; prior, score, score learning
    assert len(asked) == 2 * per_step
    for step in range(2):
        views = views_of(one.settings, expected[step])
        rows = torch.cat([words[view].expand(3, -1, -1) for view in views])  # a group of scenes a view
        first = asked[step * per_step]
        assert torch.equal(first.embeddings, rows) and first.guidance == 21
        if method == "vsd":
            own, learning = asked[step * per_step + 1 : step * per_step + 3]
            assert torch.equal(own.embeddings, rows) and own.negative is None
            after = views_of(one.settings, cameras[step])
            assert torch.equal(learning.embeddings, torch.cat([words[v].expand(3, -1, -1) for v in after]))
            for told, at in ((own, expected[step]), (learning, cameras[step])):
                poses = at.pose(unit=8).flatten(1).float()
                assert torch.equal(told.pose, poses.repeat_interleave(3, 0)) and told.pose.abs().max() <= 1.001


def test_a_learned_score_begins_as_the_prior_and_ends_knowing_the_camera(tiny):
    prior = tiny()
    one = run(prior, method="vsd", steps=3, lr_phi=0.01)
    z = one.particles.render()
    bare = one.prompts.condition(one.particles.shot.cameras, one.particles.rows, guided=False)
    with torch.no_grad():
        assert torch.equal(one.reference(z, 300, z, z), prior.epsilon(z, 300, bare))
    start = [p.detach().clone() for p in one.reference.camera.parameters()]
    list(one.steps())
    assert all(not torch.equal(a, b) for a, b in zip(start, one.reference.camera.parameters(), strict=True))
    same = z[:1].expand(6, -1, -1, -1)
    apart = []
    for _ in range(2):  # the first rows of two views, as it learned it and without what it learned of cameras
        own = one.reference(same, 300, same, same)
        apart.append(float((own[3] - own[0]).abs().max()))
        for parameter in one.reference.camera.layers[2].parameters():
            parameter.data.zero_()
    assert apart[0] > 1e-3 and abs(apart[0] - apart[1]) > 1e-4


@pytest.mark.parametrize(
    ("method", "interaction", "noise"),
    [
        ("sds", "scenes", "reused"),
        pytest.param("sds", "views", "inverted", marks=pytest.mark.slow),
        ("vsd", "scenes", "fresh"),
    ],
)
def test_resuming_gives_the_same_numbers(tiny, method, interaction, noise):
    settings = dict(method=method, interaction=interaction, noise=noise, timesteps="annealed")
    whole = run(tiny(), **settings)
    records = [record.row() for record in whole.steps()]
    half = run(tiny(), **settings)
    for record in half.steps():
        if record.step == 1:
            break
    saved = nested({key: value.clone() for key, value in flat(half.state()).items()})
    again = run(tiny(), **settings)
    again.load_state(saved)
    assert again.step == again.particles.done == 2
    assert [record.row() for record in again.steps()] == records[2:]
    assert whole.timesteps == sorted(whole.timesteps, reverse=True)
    assert torch.equal(again.finish(), whole.finish()) and whole.finish().shape == (3, 3, 16, 16)
    assert whole.finish().isfinite().all() and all(record["repulsion"] > 0 for record in records)


@pytest.mark.parametrize("clean", [False, True])
def test_features_are_of_the_noisy_picture_or_of_the_clean_one(tiny, clean):
    one, seen = run(tiny(), steps=1, clean=clean), []
    z = one.particles.render()
    one.embed = lambda z: (seen.append(z.detach().clone()), z.flatten(1))[1]
    (record,) = one.steps()
    assert torch.equal(seen[0], z) == clean
    pairs = [torch.cdist(seen[0][g].flatten(1), seen[0][g].flatten(1))[0, 1:] for g in ([0, 1, 2], [3, 4, 5])]
    other = [torch.dist(seen[0][g[1]], seen[0][g[2]]) for g in ([0, 1, 2], [3, 4, 5])]
    assert record.distance == pytest.approx(float(torch.cat([*pairs, torch.stack(other)]).mean()), rel=1e-4)


def test_chunks_change_nothing(tiny):
    one, other = (run(tiny(), chunk=chunk) for chunk in (None, 2))
    for particles in (one, other):
        list(particles.steps())
    torch.testing.assert_close(other.finish(), one.finish(), rtol=0, atol=2e-3)


def test_mistakes():
    with pytest.raises(ValueError, match='no method "svgd": it is of rsd text-to-image'):
        Settings(method="svgd")
    with pytest.raises(ValueError, match="t_range is"):
        Settings(t_range=(0.9, 0.2))
    with pytest.raises(ValueError, match="particles is 0"):
        Settings(particles=0)
