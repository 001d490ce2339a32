"""The particles' noise: reused, it makes SDS the DDIM sampler; inverted, it is DDIM's flow backwards."""

import math
from functools import partial

import pytest
import torch

from rsd.engine import Reference, distill
from rsd.memory import Memory
from rsd.priors.latent import LatentPrior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.reference import sds
from rsd.reference.noise import Carried, Inverted, Noise, make_noise, with_guidance
from rsd.repulsion import Interaction
from rsd.runs.session import flat, nested
from rsd.sampling import Chain, Denoiser, Method, StepResult, levels, sample
from rsd.spread import Spread

N, STREAM = 3, Stream(5, "image")


class Identity:
    """Particles that are their own rendering and take the steps of DDIM's reparametrisation, sigma/alpha r."""

    def __init__(self, prior, *, memory=None, ids=None):
        self.prior, self.spread = prior, Spread(range(N) if ids is None else ids, memory or Memory())
        self.z = STREAM.noise("initial z", prior.latent_shape, self.spread.ids).to(prior.dtype)

    def render(self):
        return self.z.clone()

    def step(self, r, t, average):
        alpha, sigma = self.prior.schedule.coefficients(t, r)
        self.z = self.z - sigma / alpha * average(r)
        return {}


class DDIM(Method):
    eta = 0.0

    def step(self, transition):
        eps = transition.epsilon(transition.z)
        clean = transition.clean(transition.z, eps)
        return StepResult(transition.ddim(clean, eps, eta=0.0), clean)


def two_modes():
    return GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64), 0.1)


def gaussian(variance=0.3):
    return GaussianMixture(torch.tensor([[1.0, -2.0]], dtype=torch.float64), variance)


def sampled(prior, timesteps, first):
    """DDIM's denoised estimates after these timesteps, from the noisy particles ``first``."""
    chain = Chain(prior, Spread(range(N)), STREAM)
    chain.z = first
    for _ in sample(chain, DDIM(), Denoiser(prior, None, STREAM), levels=levels(prior.schedule, timesteps)):
        pass
    return chain.z


def noised(prior, t, z):
    eps = STREAM.noise("diffusion", z.shape[1:], range(N), 0).double()
    return prior.schedule.alpha(t) * z + prior.schedule.sigma(t) * eps


@pytest.mark.parametrize("steps", [10, 40])
@pytest.mark.parametrize("kind", ["reused", "carried"])
def test_sds_with_noise_that_is_kept_is_ddim(kind, steps):
    prior = two_modes()
    particles, timesteps = Identity(prior), prior.schedule.descending(steps)
    first = noised(prior, timesteps[0], particles.z)
    noise = make_noise(kind, STREAM, particles.spread, prior, None, timesteps, steps=0)
    list(distill(particles, prior, timesteps=timesteps, stream=STREAM, noise=noise))
    torch.testing.assert_close(particles.z, sampled(prior, timesteps, first), rtol=0, atol=1e-10)


def test_carried_noise_keeps_the_noisy_state_where_a_particle_cannot_follow():
    """The next noisy state is DDIM's step of the last one towards the particle."""
    prior, noise_of = two_modes(), lambda: Carried(STREAM, Spread(range(N)), two_modes(), [600, 400])
    z = STREAM.noise("test", (2,), range(N)).double()
    stayed, moved, apart = noise_of(), noise_of(), noise_of()
    eps = stayed(z, 0)
    torch.testing.assert_close(stayed(z, 1), eps, rtol=0, atol=1e-12)
    moved(z, 0)
    now, then = ((prior.schedule.alpha(t), prior.schedule.sigma(t)) for t in (600, 400))
    z_s = then[0] * (z + 1) + then[1] * moved(z + 1, 1)
    z_t = now[0] * z + now[1] * eps
    torch.testing.assert_close(z_s, then[1] / now[1] * z_t + (then[0] - now[0] * then[1] / now[1]) * (z + 1))
    apart.load_state(noise_of().state())
    assert torch.equal(apart(z, 0), eps) and set(apart.state()) == {"last"}


def test_sds_with_inverted_noise_is_ddim_if_the_inversion_is_exact():
    """The noise is that of the level at which the particle was DDIM's estimate, the last step's. The inversion takes
    the estimate for the end of the flow, which is another noise; iterations of the equation find the right one."""
    prior = gaussian()
    timesteps = list(range(500, 0, -50))
    ends = {}
    for iterations in (0, 400):
        particles = Identity(prior)
        first = noised(prior, timesteps[0], particles.z)
        before = [timesteps[0], *timesteps[:-1]]
        noise = Inverted(STREAM, particles.spread, prior, None, before, steps=4, iterations=iterations)
        list(distill(particles, prior, timesteps=timesteps, stream=STREAM, noise=noise))
        ends[iterations] = (particles.z - sampled(prior, timesteps, first)).abs().max()
    assert ends[400] < 1e-9 and ends[0] > 0.1


def test_inversion_is_the_flow_backwards():
    """For N(mu, v) DDIM's flow keeps (z_t - alpha_t mu) / sqrt(alpha_t^2 v + sigma_t^2)."""
    prior, t = gaussian(), 600
    z = STREAM.noise("test", (2,), range(N)).double()
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    mu = prior.means[0]
    z_t = alpha * mu + math.sqrt(alpha**2 * 0.3 + sigma**2) * (z - mu) / math.sqrt(0.3)
    errors = []
    for steps in (4, 60, 600):
        noise = Inverted(STREAM, Spread(range(N)), prior, None, [t, t], steps=steps)
        errors.append(float((alpha * z + sigma * noise(z, 1) - z_t).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


def test_inversion_takes_its_number_of_predictions_without_guidance(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline("epsilon"))
    condition = prior.condition("red", "dog", 7.5)
    z = STREAM.noise("test", prior.latent_shape, range(N))
    make = partial(Inverted, STREAM, Spread(range(N), Memory(2)), prior, condition, [500] * 3, steps=3)
    first = make()(z, 0)
    assert torch.equal(first, STREAM.noise("diffusion", prior.latent_shape, range(N), 0)) and not prior.calls
    plain, repeated = make()(z, 1), make()(z, 1)
    assert prior.calls["unet_forward"] == 2 * 3 * N and torch.equal(plain, repeated)
    assert with_guidance(condition, 1.0).negative is None and with_guidance(condition, 7.5) is condition
    prior.calls.clear()
    guided = make(guidance=-1.0)(z, 1)
    assert prior.calls["unet_forward"] == 2 * 3 * N and not torch.equal(guided, plain)


class Attracted(Reference):
    """A learned reference's interface: the score of a Gaussian around 0."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, z_t, t, eps, eps_theta):
        alpha, sigma = self.schedule.coefficients(t, z_t)
        return sigma * z_t / (alpha**2 + sigma**2)


SETTINGS = [
    pytest.param(kind, interaction, vsd, id=f"{kind}-{name}")
    for kind in ("fresh", "reused", "carried", "inverted")
    for name, interaction, vsd in (
        ("repulsion", Interaction(0.5, embed=torch.sin), False),
        ("svgd", Interaction(1.0, kind="svgd", embed=torch.sin), False),
        ("vsd", Interaction(0.5, embed=torch.sin), True),
    )
]


def run(kind, interaction, vsd, *, memory=None, ids=None, stop=None, state=None, timesteps=None):
    """Return the particles and what a checkpoint holds after ``stop`` steps, and the records."""
    prior = two_modes()
    particles = Identity(prior, memory=memory, ids=ids)
    timesteps = prior.schedule.descending(12) if timesteps is None else timesteps
    noise = make_noise(kind, STREAM, particles.spread, prior, None, timesteps, steps=3)
    start = 0
    if state is not None:
        state = nested({name: value.clone() for name, value in flat(state).items()})
        start, particles.z = int(state["step"]), state["z"]
        noise.load_state(state["noise"])
    reference = Attracted(prior.schedule) if vsd else sds
    records = []
    for record in distill(
        particles, prior, timesteps=timesteps, stream=STREAM, noise=noise, reference=reference,
        interaction=interaction, start=start,
    ):  # fmt: skip
        records.append(record.row())
        if record.step + 1 == stop:
            break
    return particles.z, {"step": stop, "z": particles.z, "noise": noise.state()}, records


@pytest.mark.parametrize(("kind", "interaction", "vsd"), SETTINGS)
def test_chunks_and_interruptions_change_nothing_and_particles_repel(kind, interaction, vsd):
    whole, _, records = run(kind, interaction, vsd)
    assert whole.isfinite().all() and all(record["repulsion"] > 0 for record in records)
    torch.testing.assert_close(run(kind, interaction, vsd, memory=Memory(2))[0], whole, rtol=0, atol=1e-11)
    _, state, _ = run(kind, interaction, vsd, stop=5)
    rest, _, after = run(kind, interaction, vsd, state=state)
    assert torch.equal(rest, whole) and after == records[5:]


@pytest.mark.parametrize("kind", ["reused", "carried", "inverted"])
@pytest.mark.parametrize("own", [False, True])
def test_without_a_force_a_particle_is_the_same_alone(kind, own):
    """Also if each has its own timesteps."""
    timesteps = torch.tensor([[900, 800, 700], [500, 600, 400], [200, 300, 100]])
    timesteps = list(timesteps) if own else timesteps[:, 0].tolist()
    together = run(kind, Interaction(), False, timesteps=timesteps)[0]
    for i in range(N):
        alone = [t[i : i + 1] for t in timesteps] if own else timesteps
        torch.testing.assert_close(
            run(kind, Interaction(), False, ids=[i], timesteps=alone)[0][0], together[i], rtol=0, atol=1e-12
        )


def test_fresh_noise_is_the_engine_s_default():
    prior = two_modes()
    ends = []
    for noise in (None, Noise(STREAM, Spread(range(N)))):
        particles = Identity(prior)
        list(distill(particles, prior, timesteps=[900, 500, 100], stream=STREAM, noise=noise))
        ends.append(particles.z)
    assert torch.equal(*ends)
