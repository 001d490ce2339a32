"""RLSD compared with a plain transcription of the algorithm, and the invariances of its particles."""

import math
import traceback
from dataclasses import replace

import pytest
import torch

from rsd.priors.base import Prior
from rsd.randomness import noise
from rsd.repulsion import feature_force
from rsd.schedule import Schedule
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.rlsd import Images, Weights
from rsd.tasks.inverse.run import Run, Settings

SIZE = 8
BASE = Settings(particles=4, steps=20, gamma=0.0, lambda_=0.3, rho=0.2, lr_x=0.1, lr_z=0.1, seed=3, memory="fast")


class Toy(Prior):
    """A prior in float64 with a smooth nonlinear decoder from [4, 2, 2] to [3, 8, 8] and N(0, I) latents, all exact."""

    name, latent_shape, image_size = "toy", (4, 2, 2), SIZE
    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self):
        self.schedule = Schedule.scaled_linear()
        g = torch.Generator().manual_seed(0)
        self.weight = torch.randn(16, 3 * SIZE * SIZE, generator=g, dtype=torch.float64) / 4
        self.decodes = 0

    def condition(self, prompt="", negative_prompt="", guidance=1.0):
        return None

    def epsilon(self, z_t, t, condition):
        return self.schedule.sigma(t) * z_t + 0.1 * torch.sin(3 * z_t)

    def decode(self, z):
        self.decodes += len(z)
        return torch.tanh(z.flatten(1) @ self.weight).view(-1, 3, SIZE, SIZE)


def problem(task="inpaint_half_face"):
    operator = make_operator(task, size=SIZE, seed=0)
    x = torch.tanh(noise((3, SIZE, SIZE), seed=9, purpose="truth", particles=[0]).double())
    return operator, measure(operator, x, 0.001, seed=0)


def embed_of(prior):
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3 * SIZE * SIZE, 6, generator=g, dtype=torch.float64) / 10
    return lambda z: torch.tanh(prior.decode(z).flatten(1) @ weight)


def result(settings, task="inpaint_half_face", ids=None, state=None):
    prior = Toy()
    operator, y = problem(task)
    run = Run(prior, operator, y, settings, embed=embed_of(prior), ids=ids)
    if state:
        run.load_state(state)
    records = list(run.steps())
    return run.finish(), records, prior


def plain(settings, task="inpaint_half_face"):
    """Run Algorithm 1 in one batch with three decodes per step and losses summed over particles, without sharing."""
    prior, (operator, y) = Toy(), problem(task)
    embed, n, s = embed_of(prior), settings.particles, settings
    augmented = s.method in ("rlsd", "nonrepuls", "hybrid")
    draw = lambda shape, purpose, step=0: noise(  # noqa: E731
        shape, seed=s.seed, purpose=purpose, step=step, particles=range(n)
    ).double()
    z = draw(prior.latent_shape, "initial z").requires_grad_()
    x = draw((3, SIZE, SIZE), "initial x").requires_grad_()
    z_adam = torch.optim.Adam([z], lr=s.lr_z, betas=(0.9, 0.99), eps=4e-8)
    x_adam = torch.optim.Adam([x], lr=s.lr_x, betas=(0.9, 0.99), eps=4e-8 * 3 * 512 * 512 / (3 * SIZE * SIZE))
    seen = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool) if operator.observed is None else operator.observed
    seen = seen.expand(n, 3, SIZE, SIZE)
    fit = lambda x: 0.5 * ((y - operator(x)) ** 2 * seen).flatten(1).sum(1) / seen[0].sum()  # noqa: E731
    for step in range(s.steps):
        t = round(1000 * (1 - step / s.steps)) - 1
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        eps = draw(prior.latent_shape, "diffusion", step)
        z_t = (alpha * z.detach() + sigma * eps).requires_grad_()
        r = prior.epsilon(z_t, t, None).detach() - eps
        if s.gamma and s.method not in ("nonrepuls", "latent-red-diff"):
            phi = embed(z_t)
            h = feature_force(phi).bandwidth
            k = torch.exp(-((phi[:, None] - phi.detach()[None]) ** 2).sum(-1) / h)
            others = (k * (1 - torch.eye(n, dtype=torch.float64))).sum(1)
            (towards,) = torch.autograd.grad(others.log().sum(), z_t)
            r = r + s.gamma * sigma * towards
        weight = s.lambda_ * sigma / alpha
        z_adam.zero_grad()
        decoded = prior.decode(z)
        data = 0.5 * ((x.detach() - decoded) ** 2).flatten(1).mean(1) if augmented else fit(decoded)
        (data + weight * (r.detach() * z).flatten(1).mean(1)).sum().backward()
        z_adam.step()
        if augmented:
            x_adam.zero_grad()
            after = prior.decode(z).detach()
            (fit(x) + s.rho * 0.5 * ((x - after) ** 2).flatten(1).mean(1)).sum().backward()
            x_adam.step()
    return (x if augmented else prior.decode(z)).detach()


@pytest.mark.parametrize(
    ("method", "gamma"), [("rlsd", 2.0), ("nonrepuls", 2.0), ("nonaug", 2.0), ("latent-red-diff", 0.0)]
)
def test_decode_sharing_equals_the_plain_algorithm(method, gamma):
    settings = replace(BASE, method=method, gamma=gamma)
    images, _, prior = result(settings)
    torch.testing.assert_close(images, plain(settings), rtol=0, atol=1e-10)
    n, steps = settings.particles, settings.steps
    repelling = n * steps if method in ("rlsd", "nonaug") else 0
    assert prior.decodes == repelling + n * (steps + 1)


def test_a_particle_alone_equals_itself_among_four():
    together, _, _ = result(BASE)
    for i in range(4):
        alone, _, _ = result(replace(BASE, particles=1), ids=[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-8)


def test_permuting_the_particles_permutes_the_results():
    settings, order = replace(BASE, gamma=3.0), [2, 0, 3, 1]
    straight, _, _ = result(settings)
    permuted, _, _ = result(settings, ids=order)
    torch.testing.assert_close(permuted, straight[order], rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["rlsd", "nonaug", "hybrid"])
def test_chunk_sizes_agree(method):
    settings = replace(BASE, gamma=3.0, method=method)
    whole, _, _ = result(settings)
    for chunk in (1, 2, 3):
        torch.testing.assert_close(result(replace(settings, chunk=chunk))[0], whole, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["rlsd", "nonaug"])
@pytest.mark.parametrize(("memory", "chunk"), [("fast", None), ("fast", 3), ("flat", None), ("flat", 3), ("lean", 2)])
def test_memory_modes_are_the_plain_algorithm(method, memory, chunk):
    settings = replace(BASE, gamma=3.0, method=method, memory=memory, chunk=chunk)
    images, _, prior = result(settings)
    torch.testing.assert_close(images, plain(settings), rtol=0, atol=1e-8)
    again = memory != "fast"  # flat decodes for the features twice: without a graph, then with one
    n, steps = settings.particles, settings.steps
    assert prior.decodes == (1 + again) * n * steps + n * (steps + 1)


class Crowded(Toy):
    """A GPU without memory for more than one particle's decode, or for what is computed from its graph afterwards."""

    def __init__(self, backward: bool, room: int = 1):
        super().__init__()
        self.backward, self.room, self.raised = backward, room, 0

    def check(self, rows: int) -> None:
        if rows > self.room:
            self.raised += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def decode(self, z):
        if not self.backward:
            self.check(len(z))
        x = super().decode(z)
        if self.backward and x.requires_grad:
            x.register_hook(lambda _: self.check(len(z)))
        return x


@pytest.mark.parametrize("method", ["rlsd", "nonaug"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_if_memory_is_full_the_chunk_is_halved_and_nothing_is_lost(method, backward, gamma):
    settings = replace(BASE, gamma=gamma, method=method, memory="flat", chunk=4)
    whole, records, _ = result(settings)
    prior, (operator, y) = Crowded(backward), problem()
    run = Run(prior, operator, y, settings, embed=embed_of(prior))
    with pytest.warns(UserWarning, match=". instead of . particles go through a network at once") as output:
        found = list(run.steps())
    torch.testing.assert_close(run.finish(), whole, rtol=0, atol=1e-8)
    assert run.memory.chunk == 1 and len(output) == prior.raised == 2
    for a, b in zip(records, found, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-8) and a.repulsion == pytest.approx(b.repulsion, rel=1e-8)


def test_kept_graphs_that_do_not_fit_are_recomputed():
    settings = replace(BASE, gamma=3.0, memory="fast", chunk=1)
    whole, _, _ = result(settings)
    prior, (operator, y) = Toy(), problem()
    embed, calls = embed_of(prior), []

    def crowded(z):
        calls.append(z.requires_grad)
        if len(calls) == 3:  # two graphs are kept, a third does not fit
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return embed(z)

    run = Run(prior, operator, y, settings, embed=crowded)
    with pytest.warns(UserWarning, match="computed twice from now on"):
        list(run.steps())
    assert calls[:9] == [True, True, True, False, False, True, True, True, True] and run.memory.chunk == 1
    torch.testing.assert_close(run.finish(), whole, rtol=0, atol=1e-8)


@pytest.mark.parametrize("call", [1, 2, 7])
def test_if_adams_moments_do_not_fit_nothing_is_lost(monkeypatch, call):
    """Memory may run out at any of the moments; no update is lost."""
    settings = replace(BASE, gamma=3.0, memory="flat", chunk=4)
    whole, _, _ = result(settings)
    prior, (operator, y), zeros, calls = Toy(), problem(), torch.zeros_like, []

    def crowded(*args, **options):
        calls.append(1)
        if len(calls) == call and any("optim/adam" in frame.filename for frame in traceback.extract_stack()):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return zeros(*args, **options)

    run = Run(prior, operator, y, settings, embed=embed_of(prior))
    monkeypatch.setattr(torch, "zeros_like", crowded)
    list(run.steps())
    torch.testing.assert_close(run.finish(), whole, rtol=0, atol=1e-8)


def test_full_memory_with_one_particle_is_an_error():
    prior, (operator, y) = Crowded(False, room=0), problem()
    run = Run(prior, operator, y, BASE, embed=embed_of(prior))
    with pytest.warns(UserWarning, match="Memory is full"), pytest.raises(torch.cuda.OutOfMemoryError):
        list(run.steps())


@pytest.mark.parametrize("at", [1, 7, 19, 20])
@pytest.mark.parametrize(("method", "noise"), [("rlsd", "fresh"), ("nonaug", "reused"), ("rlsd", "inverted")])
def test_a_resumed_run_ends_with_the_same_pixels(method, noise, at):
    settings = replace(BASE, gamma=3.0, method=method, noise=noise, inversion_steps=2)
    whole, _, _ = result(settings)
    prior, (operator, y) = Toy(), problem()
    run = Run(prior, operator, y, settings, embed=embed_of(prior))
    steps = run.steps()
    for _ in range(at):
        next(steps)
    again = Run(prior, operator, y, settings, embed=embed_of(prior))
    again.load_state(run.state())
    assert len(list(again.steps())) == settings.steps - at
    assert torch.equal(again.finish(), whole)


def test_hybrid_leaves_the_last_particles_alone():
    independent, _, _ = result(replace(BASE, gamma=0.0))
    hybrid, _, _ = result(replace(BASE, gamma=5.0, method="hybrid", interacting=2))
    torch.testing.assert_close(hybrid[2:], independent[2:], rtol=0, atol=1e-10)
    assert (hybrid[:2] - independent[:2]).abs().max() > 1e-3


def test_records_report_the_losses():
    _, records, _ = result(replace(BASE, gamma=2.0, window=(0.5, 1.0)))
    assert [r.step for r in records] == list(range(20)) and records[0].t == 999
    inside = [r for r in records if (r.t + 1) / 1000 >= 0.5]
    assert all(r.repulsion > 0 and r.bandwidth > 0 and r.distance > 0 for r in inside)
    assert all(r.repulsion == 0 and r.bandwidth is None for r in records if r not in inside)
    for r in inside:
        assert math.isclose(r.ratio, r.repulsion / r.residual, rel_tol=1e-12)
    assert {"coupling", "prior"} <= set(records[0].losses) and "data" in records[1].losses
    assert {"step", "t", "residual", "prior"} <= set(records[1].row())


@pytest.mark.parametrize("n", [1, 2])
def test_few_particles_with_repulsion_stay_finite(n):
    images, _, _ = result(replace(BASE, particles=n, gamma=50.0))
    assert torch.isfinite(images).all()


def plain_svgd(settings, task="inpaint_half_face"):
    """Liu & Wang's update (Eq. 8) on the weighted posterior, sum by sum, with c = weight / entries: Adam on 1/n sum_j
    [k_ij g_j - c gamma sigma grad_{z_j} k_ij], g_j = grad data + c (eps_theta - eps)."""
    prior, (operator, y), s, n = Toy(), problem(task), settings, settings.particles
    embed = embed_of(prior)
    draw = lambda purpose, step=0: noise(  # noqa: E731
        prior.latent_shape, seed=s.seed, purpose=purpose, step=step, particles=range(n)
    ).double()
    z = draw("initial z").requires_grad_()
    adam = torch.optim.Adam([z], lr=s.lr_z, betas=(0.9, 0.99), eps=4e-8)
    seen = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool) if operator.observed is None else operator.observed
    seen = seen.expand(n, 3, SIZE, SIZE)
    for step in range(s.steps):
        t = round(1000 * (1 - step / s.steps)) - 1
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        eps, c = draw("diffusion", step), s.lambda_ * sigma / alpha / 16
        z_t = (alpha * z.detach() + sigma * eps).requires_grad_()
        data = 0.5 * ((y - operator(prior.decode(z))) ** 2 * seen).flatten(1).sum(1) / seen[0].sum()
        (of_data,) = torch.autograd.grad(data.sum(), z)
        g = of_data + c * (prior.epsilon(z_t, t, None).detach() - eps)
        phi = embed(z_t)
        h = feature_force(phi).bandwidth
        z.grad = torch.zeros_like(z)
        for i in range(n):
            k = torch.exp(-((phi - phi[i].detach()) ** 2).sum(-1) / h)  # of all j, at i
            (towards,) = torch.autograd.grad(k.sum(), z_t, retain_graph=True)
            shares = k.detach()[:, None, None, None] * g - c * s.gamma * sigma * towards
            z.grad[i] = shares.mean(0)
        adam.step()
    return prior.decode(z).detach()


@pytest.mark.parametrize("chunk", [None, 3])
def test_svgd_through_the_engine_is_liu_and_wang_s_double_sum(chunk):
    settings = replace(BASE, method="svgd", gamma=2.0, steps=8)
    images, records, _ = result(replace(settings, chunk=chunk))
    torch.testing.assert_close(images, plain_svgd(settings), rtol=0, atol=1e-8)
    assert all(record.repulsion > 0 and record.bandwidth > 0 for record in records)


def test_svgd_outside_of_its_window_averages_nothing():
    outside = replace(BASE, method="svgd", gamma=2.0, window=(0.0, 0.001))
    torch.testing.assert_close(result(outside)[0], result(replace(BASE, method="latent-red-diff"))[0], rtol=0, atol=0)


def test_an_x_step_is_done_once_even_if_its_chunk_is_done_again():
    """The chunk fails after the x-step: on the retry x stays, and only what failed is repeated."""
    images, (operator, y) = torch.zeros(3, 3, SIZE, SIZE, dtype=torch.float64), problem()
    x = Images(images, operator, y, Weights(lambda_=1.0, lr_z=0.1, rho=0.5, lr_x=0.1))
    decoded = torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.x_step(decoded, slice(0, 3))
    assert torch.equal(x.x.values, images)  # no z-step has been done, so nothing is owed
    x.mark_pending()
    x.x_step(decoded[:2], slice(0, 2))
    once = x.x.values
    assert (once[:2] != 0).any() and torch.equal(once[2], images[2]) and x.pending == {2}
    for rows in (slice(0, 1), slice(1, 2)):
        x.x_step(decoded[rows], rows)
    assert torch.equal(x.x.values, once)
    x.x_step(decoded[2:], slice(2, 3))
    assert not x.pending and (x.x.values[2] != 0).any()
