"""The samplers: their posterior if it is known, and the properties that all share."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch

import rsd
from rsd.priors import load_prior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.sampling import CLEAN, Method, level
from rsd.tasks.inverse.arguments import settle
from rsd.tasks.inverse.methods import METHODS, check_fits, load_method, run_class
from rsd.tasks.inverse.operators import Denoise, data_residual, make_operator, measure
from rsd.tasks.inverse.operators.linear import gram, solve, solve_gram
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.inverse.run import Settings
from rsd.tasks.inverse.samplers.daps import DAPS
from rsd.tasks.inverse.samplers.diffpir import DiffPIR
from rsd.tasks.inverse.samplers.exact import Matrix, gaussian
from rsd.tasks.inverse.samplers.guidance import Measurement, Transition
from rsd.tasks.inverse.samplers.latino import LATINO
from rsd.tasks.inverse.samplers.psld import glued

SMALL = {"resample": ("fits=2", "every=2"), "daps": ("ode=2", "langevin=3"), "latent-daps": ("ode=2", "langevin=3")}
SMALL["fps-smc"] = ("M=3",)
ONE_BY_ONE = [name for name in METHODS if METHODS[name].sampler or name in ("red-diff", "svgd")]
ONE_BY_ONE.remove("score-prior")  # see test_score_prior.py


def draw(method, prior, operator, y, **settings):
    run = run_class(method)(prior, operator, y, Settings(method=method, **settings), embed=lambda z: z.flatten(1))
    records = list(run.steps())
    return run.finish(), records


def moments(method, sigma_v=0.3, particles=400, **settings):
    """Return the errors of the mean (in posterior standard deviations) and the ratio of variances of the samples."""
    known = gaussian(sigma_v=sigma_v)
    x, _ = draw(method, known.prior, known.operator, known.y, particles=particles, sigma_v=sigma_v, **settings)
    deviation = known.covariance.diagonal().sqrt()
    return ((x.mean(0) - known.mean) / deviation).abs().max(), x.var(0) / deviation**2


def test_pseudoinverse_guidance_samples_the_posterior_of_a_unit_gaussian():
    error, ratio = moments("pigdm", particles=300, steps=60, hyper=("adaptive=false",))
    assert error < 0.2 and torch.allclose(ratio, torch.ones(4, dtype=ratio.dtype), atol=0.2)


def test_filtering_samples_the_posterior_of_an_exact_measurement():
    error, ratio = moments("fps-smc", sigma_v=0.02, particles=200, steps=60, hyper=("M=4",))
    assert error < 0.2 and torch.allclose(ratio, torch.ones(4, dtype=ratio.dtype), atol=0.3)


def test_the_noise_of_particles_is_that_of_their_generators():
    """Their seeds are numpy's SeedSequence of the key."""
    for seed, step in ((0, 0), (7, 3), (2**32, 1), (2**70 + 5, 2**33)):
        stream = Stream(seed, "a")
        own = [torch.randn(2, 3, generator=stream.generator("p", step=step, particle=k)) for k in (4, 0, 9)]
        assert torch.equal(stream.noise("p", (2, 3), [4, 0, 9], step), torch.stack(own))
        key = np.random.SeedSequence([seed, crc32(b"p"), crc32(b"a"), step, 9]).generate_state(1, np.uint64)
        assert stream.generator("p", step=step, particle=9).initial_seed() == int(key[0])


def test_daps_without_data_samples_the_prior():
    """Without observed pixels Langevin keeps N(estimate, r^2), and the marginals are those of the prior, widened."""
    prior = GaussianMixture(torch.tensor([[3.0, -1.0]]), 1e-4)
    x, _ = draw(
        "daps", prior, Matrix(torch.zeros(1, 2)), torch.zeros(1, 1), particles=100, steps=20,
        hyper=("lr=1e-4", "langevin=10"),
    )  # fmt: skip
    assert torch.allclose(x.mean(0), prior.means[0], atol=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_langevin_s_draws_are_of_the_product(momentum):
    """N(z; estimate, r^2) N(y; z, tau^2), from the estimate; with momentum in a tenth of the step size."""
    prior, n = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 1.0), 4000
    guess, y = torch.full((n, 1), 0.5, dtype=torch.float64), torch.tensor([[-0.5]], dtype=torch.float64)
    given = Measurement(prior, prior.condition(), Stream(0), Matrix(torch.eye(1, dtype=torch.float64)), y, 0.1)
    now = level(prior.schedule, 100)
    r, tau = now.sigma / now.alpha, 0.2
    transition = Transition(given, 0, 10, now, CLEAN, range(n), guess)
    sampler = DAPS(langevin=100, lr=0.1 * tau**2 * (1 - momentum), tau=tau, momentum=momentum)
    z = sampler._langevin(transition, guess)
    variance = 1 / (1 / r**2 + 1 / tau**2)
    assert float(z.mean()) == pytest.approx(variance * (0.5 / r**2 - 0.5 / tau**2), abs=0.02)
    assert float(z.var()) == pytest.approx(variance, rel=0.15)


def move_of(z, y, *, sigma_v, t):
    """Return the last transition of particles z under a prior N(0, I), all of them measured."""
    prior = GaussianMixture(torch.zeros(1, z.shape[1], dtype=torch.float64), 1.0)
    given = Measurement(
        prior, prior.condition(), Stream(0), Matrix(torch.eye(z.shape[1], dtype=torch.float64)), y, sigma_v
    )
    return Transition(given, 7, 8, level(prior.schedule, t), CLEAN, range(len(z)), z)


@pytest.mark.parametrize("delta", [1e-3, 0.5])
def test_latino_weighs_the_estimate_against_the_measurement(delta):
    """Under N(0, I) the estimate of z_0 is alpha z; given it and y, the nearest point is their weighted mean."""
    z, y = torch.tensor([[0.3], [-2.0]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    transition = move_of(z, y, sigma_v=0.1, t=400)
    of_y, of_guess = 1 / 0.1**2, 1 / (delta * transition.now.sigma**2)
    result = LATINO(delta=delta).step(transition)
    torch.testing.assert_close(result.clean, transition.now.alpha * z)
    torch.testing.assert_close(result.z, (of_y * y + of_guess * result.clean) / (of_y + of_guess))


def test_the_flow_of_a_unit_gaussian_is_stationary():
    z = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    transition = move_of(z, z[:1], sigma_v=0.1, t=999)
    torch.testing.assert_close(transition.flow(z, 500), z, atol=0.02, rtol=0.02)
    torch.testing.assert_close(transition.flow(z, 1), transition.now.alpha * z)  # one step is the guess


def test_red_diff_finds_the_posterior_s_mode():
    """lambda sigma/alpha weights the prior, so its mode is that of a weighted posterior; without noise it is y's."""
    prior = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    f, y = Matrix(torch.tensor([[1.0, 0.0]], dtype=torch.float64)), torch.tensor([[0.7]], dtype=torch.float64)
    x, _ = draw("red-diff", prior, f, y, particles=8, steps=150, lambda_=0.05, lr_z=0.05)
    assert float((x[:, 0] - 0.7).abs().max()) < 0.1
    assert float(x[:, 0].var()) < 0.01  # mode-seeking: far less than the posterior's spread would be


@pytest.mark.parametrize("method", ONE_BY_ONE)
def test_a_measurement_of_everything_is_matched(method):
    prior = GaussianMixture(torch.zeros(1, 3), 1.0)
    f, y = Matrix(torch.eye(3)), torch.tensor([[0.5, -1.0, 1.0]])
    hyper = {"daps": ("lr=1e-4",), "latent-daps": ("lr=1e-4",), "fps-smc": ("M=2",)}.get(method, ())
    if method in ("dps", "latent-dps", "psld", "particle-guidance"):
        hyper = ("omega=0.1",) if method == "psld" else ("zeta=0.1",)
    # Each of DAPS has 100 steps of Langevin dynamics; filtering needs more than the others.
    steps = 8 if "daps" in method else 200 if method == "fps-smc" else 110
    x, records = draw(
        method, prior, f, y, particles=4, steps=steps, sigma_v=0.01, hyper=hyper, gamma=0.01, lambda_=0.01, lr_z=0.05
    )
    assert float((x - y).abs().max()) < 0.2
    data = [record.losses.get("misfit", record.losses.get("data")) for record in records]
    assert data[-1] < 0.3 and len(data) == steps


@pytest.fixture
def pixels(heads_pixels):
    return load_prior("heads-pixels")


@pytest.fixture
def latents(tiny_folder):
    return load_prior(str(tiny_folder("epsilon")))


def problem(prior, task="sr2"):
    f = make_operator(task, size=prior.image_size, seed=0)
    x = torch.rand(1, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return f, measure(f, x, 0.001, seed=0)


def prior_for(method, request):
    return request.getfixturevalue("pixels" if METHODS[method].space == "pixels" else "latents")


@pytest.mark.parametrize("method", ONE_BY_ONE)
def test_chunks_and_interruptions_change_nothing(method, request):
    prior = prior_for(method, request)
    f, y = problem(prior)
    settings = dict(particles=3, steps=4, hyper=SMALL.get(method, ()), gamma=0.1, lr_z=0.01)
    embed = lambda z: z.flatten(1)  # noqa: E731
    whole, _ = draw(method, prior, f, y, **settings)
    first = run_class(method)(prior, f, y, Settings(method=method, chunk=2, **settings), embed=embed)
    for _ in zip(range(2), first.steps(), strict=False):
        pass
    again = run_class(method)(prior, f, y, Settings(method=method, chunk=1, **settings), embed=embed)
    again.load_state(first.state())
    assert again.step == 2
    list(again.steps())
    assert whole.isfinite().all()
    torch.testing.assert_close(again.finish(), whole, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("method", [m for m in ONE_BY_ONE if m not in ("svgd", "particle-guidance")])
def test_a_particle_does_not_depend_on_the_others(method, request):
    prior = prior_for(method, request)
    f, y = problem(prior)
    settings = dict(steps=3, hyper=SMALL.get(method, ()), lr_z=0.01)
    three, _ = draw(method, prior, f, y, particles=3, **settings)
    one, _ = draw(method, prior, f, y, particles=1, **settings)
    torch.testing.assert_close(one, three[:1], atol=1e-3, rtol=1e-3)
    assert float((three[0] - three[1]).abs().max()) > 1e-3


CALLS = {
    "dps": {"unet_forward": 8, "unet_backward": 8},
    "pigdm": {"unet_forward": 8, "unet_backward": 8},
    "fps-smc": {"unet_forward": 24},
    "daps": {"unet_forward": 16},
    "diffpir": {"unet_forward": 8},
    "red-diff": {"unet_forward": 8},
    # latent: with the decode that makes the answer
    "latent-dps": {"unet_forward": 8, "unet_backward": 8, "decoder_forward": 10, "decoder_backward": 8},
    "psld": {
        "unet_forward": 8, "unet_backward": 8, "decoder_forward": 10, "decoder_backward": 8, "encoder_forward": 8,
        "encoder_backward": 8,
    },
    "latino": {"unet_forward": 8, "decoder_forward": 10, "encoder_forward": 8},
}  # fmt: skip


@pytest.mark.parametrize("method", CALLS)
def test_network_calls_are_counted_by_kind(method, request):
    prior = prior_for(method, request)
    f, y = problem(prior)
    prior.calls.clear()
    settings = Settings(method=method, particles=2, steps=4, hyper=SMALL.get(method, ()), lr_z=0.01)
    run = run_class(method)(prior, f, y, settings, embed=None)
    for _ in run.steps():
        run.images()  # a frame of the film: it shows what was decoded anyway
    run.finish()
    assert {name: count for name, count in prior.calls.items() if count} == CALLS[method]


@pytest.mark.parametrize(("task", "left"), [("inpaint_half_face", 0.0), ("sr4", 0.0), ("deblur_motion", 0.6)])
def test_a_glued_picture_has_the_measurement(task, left):
    """The share of the misfit that remains. A^T alone leaves 15/16 of super-resolution's. Blurs are as in the paper."""
    f, random = make_operator(task, size=64, seed=0), torch.Generator().manual_seed(0)
    x, truth = (torch.randn(2, 3, 64, 64, generator=random) for _ in range(2))
    y = f(truth)
    misfit = data_residual(f, x, y)[0]
    after = data_residual(f, glued(f, x, misfit), y)[0]
    assert float(after.norm() / misfit.norm()) == pytest.approx(left, abs=0.05 if left else 1e-6)


def test_particle_guidance_without_a_weight_is_dps(pixels):
    f, y = problem(pixels)
    plain, _ = draw("dps", pixels, f, y, particles=2, steps=4)
    zero, _ = draw("particle-guidance", pixels, f, y, particles=2, steps=4, gamma=0.0)
    apart, records = draw("particle-guidance", pixels, f, y, particles=2, steps=4, gamma=50.0)
    assert torch.equal(plain, zero)
    assert (apart[0] - apart[1]).norm() > 1.01 * (plain[0] - plain[1]).norm()
    assert records[0].repulsion > 0 and records[0].bandwidth > 0


def test_svgd_of_one_particle_is_nonaug_without_repulsion(latents):
    f, y = problem(latents)
    settings = dict(particles=1, steps=5, lr_z=0.1, lambda_=0.1, gamma=3.0)
    stein, _ = draw("svgd", latents, f, y, **settings)
    plain, _ = draw("latent-red-diff", latents, f, y, **settings)
    torch.testing.assert_close(stein, plain, atol=1e-4, rtol=1e-4)


def test_red_diff_is_latent_red_diff_without_a_decoder(pixels):
    f, y = problem(pixels)
    settings = dict(prior=pixels, features="pixels", particles=2, steps=2, lambda_=0.25, lr_z=0.1)
    assert torch.equal(
        rsd.restore(y, f, method="red-diff", **settings).images,
        rsd.restore(y, f, method="latent-red-diff", **settings).images,
    )


@pytest.mark.parametrize("task", ["inpaint_half_face", "sr4", "deblur_motion"])
def test_conjugate_gradients_solve_the_system(task):
    f = make_operator(task, size=16, seed=0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    apply = gram(f, x, times=0.7, plus=0.1)
    b = f(x)
    found = solve(apply, b, tolerance=1e-10, iterations=500)
    torch.testing.assert_close(apply(found), b, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(solve_gram(f, b, x, times=0.7, plus=0.1, tolerance=1e-10), found, atol=1e-7, rtol=1e-7)


def test_a_known_gram_matrix_needs_no_conjugate_gradients(monkeypatch):
    monkeypatch.setattr("rsd.tasks.inverse.operators.linear.solve", None)
    prior = GaussianMixture(torch.zeros(1, 3), 1.0)
    f = Matrix(torch.eye(3))
    with pytest.raises(TypeError):
        draw("pigdm", prior, f, torch.ones(1, 3), particles=1, steps=1)
    f.gram_scale = 1.0
    for method in ("pigdm", "fps-smc"):
        assert draw(method, prior, f, torch.ones(1, 3), particles=1, steps=2)[0].isfinite().all()


@pytest.mark.parametrize(
    ("method", "hyper", "expected"),
    [
        ("dps", ("zeat=1",), 'Method dps has no hyper-parameter "zeat". Did you mean "zeta"?'),
        ("dps", ("zeta",), '"zeta", which is not name=value'),
        ("dps", ("zeta=much",), 'zeta of method dps is "much"; give a finite number, 0 or more.'),
        ("fps-smc", ("M=0",), 'M of method fps-smc is "0"; give a whole number, 1 or more.'),
        ("pigdm", ("adaptive=1",), 'adaptive of method pigdm is "1"; give true or false.'),
        ("daps", ("momentum=1",), "momentum of DAPS is 1.0; give 0 or more, and less than 1."),
        ("latino", ("delta=0",), "delta of method latino is 0; give a number above 0."),
        ("rlsd", ("zeta=1",), "Method rlsd has no hyper-parameters of its own"),
    ],
)
def test_invalid_hyper_parameters_are_reported(method, hyper, expected):
    with pytest.raises(ValueError, match=expected.replace("?", r"\?")):
        Settings(method=method, hyper=hyper)


def test_hyper_parameters_are_read():
    sampler = load_method("pigdm", ("eta=0.5", "adaptive=false"))
    assert (sampler.eta, sampler.adaptive) == (0.5, False)


@pytest.mark.parametrize(
    ("method", "latent", "linear", "expected"),
    [
        ("dps", True, True, "Method dps needs a prior in pixel space, but heads works in latent space"),
        ("psld", False, True, "Method psld needs a prior in latent space, but heads works in pixel space"),
        ("psld", True, False, "Method psld needs a linear operator, but f is not"),
        ("pigdm", False, False, "Method pigdm needs a linear operator"),
    ],
)
def test_a_method_that_does_not_fit_is_reported(method, latent, linear, expected):
    with pytest.raises(ValueError, match=expected):
        check_fits(method, prior="heads", latent=latent, operator="f", linear=linear)


def test_pixel_priors_keep_working_with_rlsd():
    for name in ("rlsd", "svgd", "particle-guidance"):
        check_fits(name, prior="p", latent=False, operator="f", linear=False)


OWN_NOISE = [
    *(one for name, entry in METHODS.items() if entry.sampler and isinstance(one := load_method(name), Method)),
    DiffPIR(zeta=0.3, boost=1.2), DiffPIR(start=0.5, boost=1.2),
]  # fmt: skip


@pytest.mark.parametrize("method", OWN_NOISE, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("kind", ["matrix", "denoising"])
def test_the_noise_of_the_importance_weights_is_the_noise_of_the_step(method, kind, monkeypatch):
    z, y = (torch.tensor(values, dtype=torch.float64) for values in ([[0.3, 1.0], [-2.0, 0.1]], [[0.7, -0.4]]))
    transition = move_of(z, y, sigma_v=0.1, t=600)
    operator = Denoise() if kind == "denoising" else transition.given.operator
    transition = replace(
        transition, then=level(transition.given.prior.schedule, 400), given=replace(transition.given, operator=operator)
    )
    purpose, width = method.added(transition)
    if purpose is None:
        return
    with_noise, drawn = method.step(transition).z, transition.noise(purpose)
    usual = Stream.noise
    monkeypatch.setattr(Stream, "noise", lambda self, p, *a, **k: usual(self, p, *a, **k) * (0 if p == purpose else 1))
    without = method.step(transition).z
    assert width > 0
    torch.testing.assert_close(with_noise - without, width * drawn, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "hyper", "expected"),
    [
        ("fps-smc", "eta=0", "eta of method fps-smc is 0; give a number above 0."),
        ("pigdm", "eta=3", "eta of method pigdm is 3; give 1 or less."),
        ("diffpir", "zeta=2", "zeta of method diffpir is 2; give 1 or less."),
        ("score-prior", "spread=0", "spread of method score-prior is 0; give a number above 0."),
        ("daps", "tau=0", "tau of method daps is 0; give a number above 0."),
        ("latino", "delta=0", "delta of method latino is 0; give a number above 0."),
    ],
)
def test_hyper_parameters_out_of_their_range_are_refused(method, hyper, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        Settings(method=method, hyper=(hyper,))
    assert load_method("dps", ("zeta=2",)).zeta == 2  # a step size


def test_hyper_parameters_that_are_not_given_stay_as_packaged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    task = ["--task", "sr4", "--method", "psld", "--prior", "heads", "a.png"]
    own, _ = parse(task)
    assert own.hyper == ("omega=1", "gamma=0.1")
    assert parse([*task, "--hyper", "gamma=0.3"])[0].hyper == ("omega=1", "gamma=0.3")
    found, _ = settle(None, {"method": "psld", "hyper": ("eta=0.5",)}, "sr4", "heads", None)
    assert found.hyper == (*own.hyper, "eta=0.5")
