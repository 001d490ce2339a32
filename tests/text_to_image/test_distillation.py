"""Latents distilled from noise: on a prior known in closed form, and on tiny random pipelines."""

from __future__ import annotations

import pytest
import torch

from rsd.engine import distill
from rsd.features import Decoded, Pixels
from rsd.memory import Memory
from rsd.priors.latent import LatentPrior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.schedule import Schedule
from rsd.spread import Spread
from rsd.tasks.text_to_image.distillation import Latents, Run, Settings, draw_timesteps
from rsd.tasks.text_to_image.options import DISTILLATION

MODES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)

SCHEDULE = Schedule.scaled_linear()


def pixels(prior):
    return lambda z: prior.decode(z).flatten(1)


def run(prior, *, ids=None, prompt="red dog", **settings):
    settings = {"steps": 4, "particles": 3, "lora_rank": 2, "lr_phi": 1e-3, **settings}
    return Run(prior, prompt, Settings(**settings), embed=pixels(prior), ids=ids)


def finished(prior, **settings):
    one = run(prior, **settings)
    list(one.steps())
    return one.particles.render()


@pytest.fixture
def tiny(tiny_pipeline):
    """Return the same tiny prior, loaded anew at each call."""
    return lambda kind="epsilon", dtype=torch.float32: LatentPrior(tiny_pipeline(kind).to(dtype))


# --- on two Gaussians -------------------------------------------------------------------------------------------------


def two_modes(*, start=None, **settings) -> torch.Tensor:
    """Return where points in R^2 end under two Gaussians, [N, 2], started from N(0, I) or close to ``start``."""
    prior = GaussianMixture(MODES, 0.05)
    settings = {"method": "sds", "steps": 300, "lr": 0.05, "timesteps": "annealed", **settings}
    one = Run(prior, "", Settings(**settings), embed=lambda z: z)
    if start is not None:
        one.particles.z.put(0.05 * one.particles.z.values + start)
    list(one.steps())
    return one.particles.render()


def test_sds_contracts_the_particles_to_the_modes():
    after = two_modes(particles=32, t_range=(20, 300))
    distance, nearest = torch.cdist(after, MODES).min(1)
    assert distance.max() < 0.3 and 5 < nearest.sum() < 27
    spread = torch.cat([after[nearest == k] - after[nearest == k].mean(0) for k in (0, 1)]).var()
    assert spread < 0.3 * 0.05  # far less than the prior's own variance: SDS seeks the mode


@pytest.mark.parametrize("seed", [0, 1])
def test_repulsion_spreads_particles_that_start_at_one_mode_over_both(seed):
    crossed = {}
    for gamma in (0.0, 2.0):
        settings = dict(particles=8, seed=seed, t_range=(20, 200), steps=200, gamma=gamma)
        crossed[gamma] = int(torch.cdist(two_modes(start=MODES[0], **settings), MODES).argmin(1).sum())
    assert crossed[0.0] == 0 and 2 <= crossed[2.0] <= 6


# --- on tiny pipelines ------------------------------------------------------------------------------------------------


def test_the_first_step_is_the_paper_s(tiny):
    """Adam's first step is lr times the sign of w(t) (eps_guided - eps), with w = 1 - abar."""
    prior, seen, gradients = tiny(), [], []
    one = run(prior, method="sds", steps=1, negative_prompt="ugly", guidance=7.5, lr=0.03)
    z, step = one.particles.render(), one.particles.step
    one.particles.step = lambda r, t, average: (seen.append((r, t)), step(r, t, average))[1]
    descend = one.particles.z.descend
    one.particles.z.descend = lambda g: (gradients.append(g), descend(g))
    list(one.steps())
    r, t = seen[0]
    from rsd.randomness import noise

    eps = noise((4, 8, 8), seed=0, purpose="diffusion", step=0, particles=range(3))
    z_t = prior.schedule.alpha(t) * z + prior.schedule.sigma(t) * eps
    with torch.no_grad():
        text, negative = (prior.epsilon(z_t, t, prior.condition(p)) for p in ("red dog", "ugly"))
    torch.testing.assert_close(r, negative + 7.5 * (text - negative) - eps, rtol=0, atol=2e-5)
    torch.testing.assert_close(gradients[0], (1 - prior.schedule.alpha(t) ** 2) * r)
    sure = r.abs() > 1e-3
    torch.testing.assert_close((one.particles.render() - z)[sure], -0.03 * r.sign()[sure], rtol=0, atol=1e-5)


@pytest.mark.parametrize("t_per_particle", [False, True])
@pytest.mark.parametrize("method", ["sds", "nfsd"])
def test_without_a_force_no_particle_depends_on_how_many_there_are(tiny, method, t_per_particle):
    prior = tiny(dtype=torch.float64)
    settings = dict(method=method, gamma=0.0, t_per_particle=t_per_particle, steps=3)
    together = finished(prior, **settings)
    for i in (0, 2):
        torch.testing.assert_close(finished(prior, ids=[i], **settings)[0], together[i], rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["vsd", "svgd"])
def test_particles_in_another_order_are_the_same_particles(tiny, method):
    order = [2, 0, 1]
    settings = dict(method=method, gamma=1.0, steps=2)
    one, other = (finished(tiny(dtype=torch.float64), ids=ids, **settings) for ids in (None, order))
    torch.testing.assert_close(other, one[order], rtol=0, atol=1e-7)


SCORES = [("vsd", "lora"), ("vsd", "lora-each"), ("vsd", "unet"), ("sds", "lora"), ("nfsd", "lora"), ("svgd", "lora")]


@pytest.mark.parametrize(
    ("method", "score", "noise", "below"),
    [
        *((*score, "fresh", 0.0) for score in SCORES), ("vsd", "lora", "reused", 0.0),
        ("svgd", "lora", "inverted", 0.0), ("vsd", "lora", "fresh", 0.8), ("sds", "lora", "reused", 0.5),
    ],
)  # fmt: skip
def test_resuming_gives_the_same_numbers(tiny, method, score, noise, below):
    """Also where the sampler has begun, or begins with the next step."""
    settings = dict(method=method, score=score, gamma=1.0, noise=noise, inversion_steps=2, sample_below=below)
    settings |= dict(timesteps="annealed") if below else {}
    whole = run(tiny(), **settings)
    records = list(whole.steps())
    half = run(tiny(), **settings)
    for record in half.steps():
        if record.step == 1:
            break
    rest = run(tiny(), **settings)
    rest.load_state(half.state())
    assert [record.row() for record in rest.steps()] == [record.row() for record in records[2:]]
    assert torch.equal(rest.finish(), whole.finish())
    assert ("reference" in records[0].losses) == (method == "vsd")


@pytest.mark.parametrize(("method", "score"), SCORES)
def test_chunks_change_nothing(tiny, method, score):
    settings = dict(method=method, score=score, gamma=1.0, t_per_particle=True, steps=2)  # the second uses the learned
    whole, parts = (finished(tiny(dtype=torch.float64), chunk=chunk, **settings) for chunk in (None, 2))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)


def test_memory_changes_nothing(tiny):
    found = []
    for mode, chunk in (("auto", None), ("fast", 2), ("flat", 2), ("lean", 2)):
        prior = tiny(dtype=torch.float64)
        settings = Settings(steps=2, particles=3, gamma=5.0, memory=mode, chunk=chunk)
        one = Run(prior, "red dog", settings, embed=Decoded(prior, Pixels()))
        assert (one.memory.lean, one.embed.lean) == (mode == "lean",) * 2
        list(one.steps())
        found.append(one.particles.render())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("method", "score", "through"), [("vsd", "lora", 1), ("vsd", "unet", 0), ("sds", "lora", 0)])
def test_adapters_graphs_are_planned_for(tiny, method, score, through):
    asked = {}
    plan = lambda mode, **how: asked.update(how, mode=mode) or Memory()  # noqa: E731
    Run(tiny(), "red dog", Settings(method=method, score=score, gamma=0.0), embed=len, plan=plan)
    assert asked["through"] == ("epsilon",) * through and asked["embed"] is None and asked["mode"] == "auto"
    assert asked["n"] == 4 and asked["state"] == 3 * 4 * 4 * 8 * 8


@pytest.mark.parametrize("score", ["lora", "lora-each", "unet"])
def test_the_prior_is_the_same_to_the_bit_after_a_run_of_vsd(tiny, score):
    prior, z = tiny("v_prediction"), torch.ones(1, 4, 8, 8)
    condition = prior.condition("red dog", guidance=7.5)
    with torch.no_grad():
        before = prior.epsilon(z, 300, condition)
    one = run(prior, score=score, steps=2)
    prior.release_text_encoder()  # the run has what it needs
    list(one.steps())
    with torch.no_grad():
        assert torch.equal(prior.epsilon(z, 300, condition), before)


def test_a_larger_gamma_leaves_the_particles_further_apart(tiny):
    apart = []
    for gamma in (0.0, 40.0):
        prior = tiny()
        apart.append(float(torch.pdist(pixels(prior)(finished(prior, gamma=gamma))).mean()))
    assert apart[1] > apart[0]


# --- timesteps and settings -------------------------------------------------------------------------------------------


def test_uniform_timesteps_fill_the_range_both_ends_included():
    settings = Settings(t_range=(20, 24), steps=200, t_per_particle=True)
    drawn = torch.stack(draw_timesteps(settings, SCHEDULE, ids=[0, 5], stream=Stream(0)))
    assert drawn.shape == (200, 2) and not torch.equal(drawn[:, 0], drawn[:, 1])
    assert drawn.unique().tolist() == [20, 21, 22, 23, 24]
    assert torch.equal(torch.stack(draw_timesteps(settings, SCHEDULE, ids=[5], stream=Stream(0)))[:, 0], drawn[:, 1])


def test_shared_timesteps_do_not_depend_on_the_particles_but_on_seed_and_image():
    settings = Settings(steps=20)
    one = draw_timesteps(settings, SCHEDULE, ids=range(4), stream=Stream(0))
    assert one == draw_timesteps(settings, SCHEDULE, ids=[7], stream=Stream(0)) and all(isinstance(t, int) for t in one)
    assert one != draw_timesteps(settings, SCHEDULE, ids=range(4), stream=Stream(0, "other"))
    assert one != draw_timesteps(settings, SCHEDULE, ids=range(4), stream=Stream(1))


def test_annealed_timesteps_go_straight_down():
    assert draw_timesteps(
        Settings(steps=4, timesteps="annealed", t_range=(20, 950)), SCHEDULE, ids=[0], stream=Stream(0)
    ) == [
        950,
        640,
        330,
        20,
    ]
    assert draw_timesteps(Settings(steps=1, timesteps="annealed"), SCHEDULE, ids=[0], stream=Stream(0)) == [979]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sdss"}, 'Unknown method "sdss". Did you mean "sds".*There are: sds, vsd, nfsd, svgd'),
        ({"score": "big"}, 'Unknown score "big"'),
        ({"timesteps": "up"}, 'Unknown timesteps "up"'),
        ({"particles": 0}, "particles is 0"),
        ({"timesteps": "annealed", "t_per_particle": True}, "Annealed timesteps are shared"),
    ],
)
def test_settings_that_cannot_run_are_reported(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_a_range_outside_the_schedule_is_reported():
    with pytest.raises(ValueError, match="t_range is 20 to 1000; it must lie in 0 to 999"):
        draw_timesteps(Settings(t_range=(20, 1000)), SCHEDULE, ids=[0], stream=Stream(0))


def test_each_method_has_its_own_gamma_by_default():
    assert {method: Settings(method=method).interaction.gamma for method in DISTILLATION} == DISTILLATION
    assert Settings(gamma=0.0).interaction.gamma == 0 and Settings(method="svgd").interaction.kind == "svgd"


def test_the_particles_work_by_themselves_in_the_loop():
    prior = GaussianMixture(MODES, 0.05)
    latents = Latents(prior, Spread([3, 4]), Stream(0), lr=0.01)
    list(distill(latents, prior, timesteps=[500], stream=Stream(0)))
    assert latents.finish().shape == (2, 2)


def test_with_ddim_s_step_and_reused_noise_sds_is_ddim(tiny):
    """Guidance included, the sampler of rsd.sampling without new noise."""
    prior = tiny(dtype=torch.float64)
    settings = dict(method="sds", optimiser="ddim", noise="reused", timesteps="annealed", t_range=(40, 900), steps=8)
    one = run(prior, **settings)
    assert one.timesteps[0] == 900 and one.timesteps[-1] == 40
    eps = one.stream.noise("diffusion", prior.latent_shape, range(3)).double()
    z_t = prior.schedule.alpha(900) * one.particles.render() + prior.schedule.sigma(900) * eps
    list(one.steps())
    for now, then in zip(one.timesteps, [*one.timesteps[1:], None], strict=True):
        with torch.no_grad():
            eps = prior.epsilon(z_t, now, one.condition)
        clean = (z_t - prior.schedule.sigma(now) * eps) / prior.schedule.alpha(now)
        z_t = clean if then is None else prior.schedule.alpha(then) * clean + prior.schedule.sigma(then) * eps
    torch.testing.assert_close(one.particles.render(), z_t, rtol=0, atol=1e-8)


def test_below_a_timestep_the_picture_is_left_to_the_sampler(tiny):
    """From the distilled particle and drawn noise, DDIM's steps with guidance, whatever the method and its force."""
    prior = tiny(dtype=torch.float64)
    settings = dict(method="vsd", gamma=1.0, timesteps="annealed", t_range=(100, 900), steps=9, sample_below=0.45)
    one = run(prior, **settings)
    steps = one.steps()
    records = [next(steps) for _ in range(5)]
    assert [record.t for record in records] == [900, 800, 700, 600, 500] and records[-1].repulsion > 0
    z_t, timesteps = None, one.timesteps[5:]
    z = one.particles.render()
    eps = one.stream.noise("diffusion", prior.latent_shape, range(3), 5).double()
    for t in timesteps:
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        z_t = alpha * z + sigma * eps
        with torch.no_grad():
            eps = prior.epsilon(z_t, t, one.condition)
        z = (z_t - sigma * eps) / alpha
    rest = list(steps)
    assert [record.t for record in rest] == [400, 300, 200, 100] and all(record.repulsion == 0 for record in rest)
    assert "reference" in records[0].losses and "reference" not in rest[0].losses
    torch.testing.assert_close(one.particles.render(), z, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="a sampler goes down, so take --timesteps annealed"):
        Settings(sample_below=0.4)
