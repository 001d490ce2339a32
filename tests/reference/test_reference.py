"""Reference scores: NFSD's formula, and learned scores on tiny random networks."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from rsd.memory import Memory
from rsd.priors.latent import LatentPrior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream, noise
from rsd.reference import NFSD, PATIENCE, LoraScore, UNetScore, sds
from rsd.reference.adapters import TARGETS, Adapters, seeded
from rsd.runs.session import flat, nested
from rsd.spread import Spread

IDS = [0, 1, 2]
GUIDANCE = 7.5


def latents(seed: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["epsilon", "v_prediction"])
def prior(request, tiny_pipeline):
    return LatentPrior(tiny_pipeline(request.param))


def lora(prior, *, ids=IDS, memory=None, **settings):
    return LoraScore(prior, prior.condition("red"), Spread(ids, memory or Memory()), Stream(0), **settings)


def unet(prior, *, ids=IDS, memory=None, **settings):
    spread = Spread(ids, memory or Memory())
    return UNetScore(prior, prior.condition("red"), spread, Stream(0), **{"channels": (32, 64), **settings})


def test_adapters_are_on_the_text_of_unets_of_deepfloyd_if_s_class(tiny_heads_pixels):
    from rsd.priors import load_prior

    prior = load_prior(str(tiny_heads_pixels))
    score = lora(prior, lr=0.01)
    z = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for step in range(2):  # B is 0 at first, and only then A has a gradient
        score.learn(z, step)
    adapters = score.adapters[0]
    text = {path: pair for path, pair in zip(adapters.paths, adapters.pairs, strict=True) if "add_k" in path}
    assert text and text.keys() == {path for path, _ in prior.unet.named_modules() if path.endswith("add_k_proj")}
    assert all(bool(pair[1].weight.any()) for pair in text.values())


@torch.no_grad()
def base_score(prior):
    return prior.epsilon(latents(1), 400, prior.condition("red", "dog", GUIDANCE))


def mse(score, z, *, draws: int = 10) -> float:
    """Return the eps-MSE on z with noise that training never sees. ``score``: (z_t, t) -> eps."""
    schedule, total = score.prior.schedule if hasattr(score, "prior") else score.schedule, 0.0
    ask = (lambda z_t, t: score(z_t, t, z_t, z_t)) if hasattr(score, "prior") else lambda z_t, t: score.epsilon(z_t, t)
    for draw in range(draws):
        t = 100 * draw + 50
        eps = noise(z.shape[1:], seed=99, purpose="test", step=draw, particles=range(len(z)))
        with torch.no_grad():
            total += float((ask(schedule.alpha(t) * z + schedule.sigma(t) * eps, t) - eps).square().mean()) / draws
    return total


def test_sds_is_the_noise_and_learns_nothing():
    eps = latents(0)
    assert sds(latents(1), 10, eps, latents(2)) is eps
    assert sds.learn(latents(1), 0) == {} and sds.state() == {}


@pytest.mark.parametrize("t", [150, 199, 200, 700, torch.tensor([150, 200, 700])])
@torch.no_grad()
def test_nfsd_is_delta_d_plus_s_delta_c(prior, t):
    z = latents(1)
    text, empty, negative = (prior.epsilon(z, t, prior.condition(p)) for p in ("red", "", "ugly"))
    small = (torch.as_tensor(t) < 200).view(-1, 1, 1, 1)
    delta_d = torch.where(small, empty, empty - negative)
    guided = prior.epsilon(z, t, prior.condition("red", guidance=GUIDANCE))
    for chunk in (None, 2):
        direction = guided - NFSD(prior, prior.condition("ugly"), Spread(IDS, Memory(chunk)))(z, t, latents(2), guided)
        torch.testing.assert_close(direction, delta_d + GUIDANCE * (text - empty), rtol=0, atol=2e-5)


@pytest.mark.parametrize("per_particle", [False, True])
def test_the_prior_is_untouched_to_the_bit_before_and_after_training(prior, per_particle):
    before = base_score(prior)
    weights = {name: p.clone() for name, p in prior.unet.named_parameters()}
    score = lora(prior, lr=0.01, per_particle=per_particle)
    assert torch.equal(base_score(prior), before)
    for step in range(3):
        score.learn(latents(2), step)
        assert torch.equal(base_score(prior), before)
    assert not torch.equal(score(latents(1), 400, latents(0), before), base_score(prior))
    after = dict(prior.unet.named_parameters())
    assert after.keys() == weights.keys() and all(torch.equal(after[name], p) for name, p in weights.items())


def test_adapters_are_peft_s(tiny_pipeline):
    """Another implementation of LoRA gives the same from the same random numbers, and with the same values of B."""
    peft = pytest.importorskip("peft")
    ours, other = (tiny_pipeline().unet.eval().requires_grad_(False) for _ in range(2))
    random = torch.Generator().manual_seed(5)
    adapters = Adapters(ours, 3, random)
    with seeded(random):
        other.add_adapter(peft.LoraConfig(r=3, lora_alpha=3, target_modules=list(TARGETS)))
    theirs = [p for name, p in other.named_parameters() if ".lora_" in name]
    assert len(theirs) == len(list(adapters.parameters())) == 2 * len(adapters.paths) == 2 * 4 * 2 * 4
    for own, their in zip(adapters.parameters(), theirs, strict=True):
        assert torch.equal(own, their)
        if not own.any():
            with torch.no_grad():
                their.copy_(own.normal_(std=0.1))
    asked = {"sample": latents(1), "timestep": 400, "encoder_hidden_states": torch.randn(3, 16, 32)}
    with torch.no_grad(), adapters.on(ours):
        assert torch.equal(ours(**asked).sample, other(**asked).sample)


def saved(unet, folder):
    """The owner of a UNet sees unchanged tensors, also in a UNet that was saved and loaded again."""
    unet.save_pretrained(folder)
    return [dict(one.state_dict()) for one in (unet, type(unet).from_pretrained(folder))]


def same(found, tensors):
    return found.keys() == tensors.keys() and all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(
    ("make", "ends"),
    [
        *((lora, ends) for ends in ("well", "in an error", "by Ctrl-C", "not at all")),
        (lambda prior, **own: told(prior, per_particle=True, **own), "in an error"),
        (lambda prior, **own: told(prior, per_particle=True, **own), "not at all"),
    ],
)
def test_a_pipeline_is_its_owner_s_to_save(tiny_pipeline, tmp_path, make, ends):
    """At any time of a run and after it, however it ends and whether or not the score still exists; two scores share a
    UNet."""
    pipeline = tiny_pipeline()
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    prior = LatentPrior(pipeline)
    one, two = make(prior, lr=0.01), make(prior, lr=0.01)
    two.learn(latents(2), 0)
    one.learn(latents(2), 0)
    error = {"in an error": RuntimeError, "by Ctrl-C": KeyboardInterrupt}.get(ends)
    if error:

        def stops(_module, _inputs, _out):
            raise error

        hook = pipeline.unet.mid_block.register_forward_hook(stops)
        with pytest.raises(error):
            one.learn(latents(2), 1)
        hook.remove()
    if ends == "not at all":
        with one.active(0):
            assert all(same(found, before) for found in saved(pipeline.unet, tmp_path))
    assert all(same(found, before) for found in saved(pipeline.unet, tmp_path))
    assert not any(module._forward_hooks for module in pipeline.unet.modules())
    del one
    gc.collect()
    two.learn(latents(2), 1)  # the other goes on
    assert all(same(found, before) for found in saved(pipeline.unet, tmp_path))
    assert not hasattr(pipeline.unet, "peft_config") and type(pipeline.unet).__name__ == "UNet2DConditionModel"


def test_adapters_of_the_pipeline_s_owner_stay_on(tiny_pipeline):
    """The user's adapters are part of the prior: the score starts from it and does not change them."""
    peft = pytest.importorskip("peft")
    pipeline = tiny_pipeline()
    bare = pipeline.unet(latents(1), 400, torch.zeros(3, 16, 32)).sample.detach()
    torch.manual_seed(1)
    pipeline.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    prior = LatentPrior(pipeline)
    answer, z = base_score(prior), latents(1)
    assert not torch.allclose(pipeline.unet(z, 400, torch.zeros(3, 16, 32)).sample, bare, atol=1e-3)
    score = lora(prior, lr=0.01)
    with torch.no_grad():
        assert torch.equal(score(z, 400, z, z), prior.epsilon(z, 400, prior.condition("red")))
    for step in range(2):
        score.learn(latents(2), step)
    assert torch.equal(base_score(prior), answer) and same(pipeline.unet.state_dict(), before)


@torch.no_grad()
def test_untrained_adapters_are_the_prior_without_guidance(prior):
    t = torch.tensor([5, 500, 999])
    own = lora(prior)(latents(1), t, latents(0), latents(0))
    assert torch.equal(own, prior.epsilon(latents(1), t, prior.condition("red")))


def test_adapters_are_off_after_an_error(prior):
    before, score = base_score(prior), lora(prior, lr=0.01)
    score.learn(latents(2), 0)
    with pytest.raises(RuntimeError), score.active(0):
        raise RuntimeError
    assert torch.equal(base_score(prior), before)


@pytest.mark.parametrize(
    ("make", "kind", "lr", "fall"),
    [(lora, "v_prediction", 0.01, 0.95), pytest.param(unet, "epsilon", 0.003, 0.6, marks=pytest.mark.slow)],
)
def test_it_learns_the_particles(tiny_pipeline, make, kind, lr, fall):
    """The frozen network is random, so adapters can do little more than reduce its output; the UNet memorises z."""
    prior = LatentPrior(tiny_pipeline(kind))
    z = 0.1 * latents(3)
    score = make(prior, lr=lr)
    base, start = mse(prior, z), mse(score, z)
    losses = [score.learn(z, step)["reference"] for step in range(25)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert mse(score, z) < fall * start
    assert make is unet or mse(score, z) < fall * base


@pytest.mark.parametrize("make", [lora, unet])
def test_chunks_and_the_state_of_the_global_generator_change_nothing(tiny_pipeline, make):
    states = []
    for chunk in (None, 2):
        torch.manual_seed(chunk or 0)
        score = make(LatentPrior(tiny_pipeline().to(torch.float64)), memory=Memory(chunk), lr=1e-3)
        for step in range(3):
            score.learn(latents(2).double(), step)
        states.append(score(latents(1).double(), torch.tensor([1, 500, 900]), latents(0), latents(0)))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", [lora, unet])
@pytest.mark.parametrize("backward", [False, True])
def test_where_learning_does_not_fit_the_chunk_is_halved(tiny_pipeline, monkeypatch, make, backward):
    """Memory runs out before or during the gradients; no gradient is added twice."""
    z, found = latents(2).double(), []
    for room in (3, 1):
        score = make(LatentPrior(tiny_pipeline().to(torch.float64)), memory=Memory(), lr=1e-3)
        inner, calls = score.unet.forward, []

        def crowded(x, *rest, inner=inner, calls=calls, room=room, **options):
            def check(_=None):
                calls.append(len(x))
                if len(x) > room:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

            if not backward:
                check()
            out = inner(x, *rest, **options)
            if backward and out.sample.requires_grad:
                out.sample.register_hook(check)
            return out

        monkeypatch.setattr(score.unet, "forward", crowded)
        context = pytest.warns(UserWarning, match="Memory is full") if room == 1 else nullcontext()
        with context:
            losses = [score.learn(z, step)["reference"] for step in range(2)]
        monkeypatch.undo()
        found.append((losses, score(latents(1).double(), 300, z, z)))
    assert score.spread.memory.chunk == 1 and found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [lora, unet])
def test_particles_in_another_order_give_the_same_score(tiny_pipeline, make):
    order, z, z_t = [2, 0, 1], latents(2).double(), latents(1).double()
    scores = []
    for ids in ([0, 1, 2], order):
        score = make(LatentPrior(tiny_pipeline().to(torch.float64)), ids=ids, lr=1e-3)
        for step in range(3):
            score.learn(z[ids], step)
        scores.append(score(z_t, 300, z_t, z_t))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", [lora, unet, lambda *a, **k: told(*a, **k)])
def test_resumed_training_gives_the_same_numbers(tiny_pipeline, make):
    whole = make(LatentPrior(tiny_pipeline()), lr=1e-3)
    losses = [whole.learn(latents(2), step) for step in range(4)]
    first = make(LatentPrior(tiny_pipeline()), lr=1e-3)
    for step in range(2):
        first.learn(latents(2), step)
    rest = make(LatentPrior(tiny_pipeline()), lr=1e-3)
    rest.load_state(first.state())
    assert [rest.learn(latents(2), step) for step in (2, 3)] == losses[2:]


def test_one_set_of_adapters_a_particle_learns_each_alone(tiny_pipeline):
    score = lora(LatentPrior(tiny_pipeline()), per_particle=True, lr=0.01)
    alone = lora(LatentPrior(tiny_pipeline()), per_particle=True, lr=0.01, ids=[1])
    for step in range(2):
        score.learn(latents(2), step)
        alone.learn(latents(2)[1:2], step)
    z_t = latents(1)
    own = score(z_t, 400, z_t, z_t)
    torch.testing.assert_close(own[1:2], alone(z_t[1:2], 400, z_t[1:2], z_t[1:2]), rtol=0, atol=1e-5)


def told(prior, *, memory=None, **settings):
    """Adapters with two numbers per particle as input."""
    numbers = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    condition = replace(prior.condition("red"), pose=numbers)
    return LoraScore(prior, condition, Spread(IDS, memory or Memory()), Stream(0), **settings)


@torch.no_grad()
def test_what_it_is_reported_besides_text_adds_nothing_at_first(prior):
    z, t = latents(1), torch.tensor([5, 500, 999])
    assert torch.equal(told(prior)(z, t, z, z), prior.epsilon(z, t, prior.condition("red")))


def test_it_learns_from_what_it_is_reported_and_the_prior_hears_none_of_it(prior):
    before, z, t = base_score(prior), latents(1)[:1].expand(3, -1, -1, -1), 500
    score, bare = told(prior, lr=0.01), lora(prior, lr=0.01)
    start = [p.detach().clone() for p in score.camera.parameters()]
    for step in range(3):
        score.learn(latents(2), step)
        bare.learn(latents(2), step)
    assert all(not torch.equal(a, b) for a, b in zip(start, score.camera.parameters(), strict=True))
    own, untold = score(z, t, z, z), bare(z, t, z, z)
    for other in (1, 2):  # the same picture, told differently
        assert not torch.allclose(own[other], own[0], atol=1e-4)
        torch.testing.assert_close(untold[other], untold[0], rtol=0, atol=1e-5)
    assert torch.equal(base_score(prior), before)
    with pytest.raises(RuntimeError), score.camera.on(prior.unet, torch.ones(1, 2)):
        raise RuntimeError
    assert torch.equal(base_score(prior), before) and not prior.unet.time_embedding._forward_hooks


def test_chunks_are_reported_their_own_numbers(tiny_pipeline):
    scores = []
    for chunk in (None, 2):
        score = told(LatentPrior(tiny_pipeline().to(torch.float64)), memory=Memory(chunk), lr=1e-2)
        for step in range(3):
            score.learn(latents(2).double(), step)
        scores.append(score(latents(1).double(), 300, latents(0), latents(0)))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_reported_in_float32(tiny_pipeline, dtype):
    score = told(LatentPrior(tiny_pipeline().to(dtype)), lr=0.01)
    assert {p.dtype for p in score.parameters} == {torch.float32}
    for step in range(2):
        assert score.learn(latents(2), step)["reference_skipped"] == 0
    assert all(float(p.detach().abs().max()) > 0 for p in score.camera.parameters())


def test_scores_share_a_prior(prior):
    before = base_score(prior)
    one, two = lora(prior, lr=0.01), lora(prior, lr=0.01)
    z = latents(1)
    for step in range(2):
        two.learn(z, step)
    assert torch.equal(one(z, 400, z, z), prior.epsilon(z, 400, prior.condition("red")))
    del one, two
    assert torch.equal(base_score(prior), before)
    fresh = lora(prior)
    assert torch.equal(fresh(z, 400, z, z), prior.epsilon(z, 400, prior.condition("red")))


def test_a_prior_in_half_precision_has_adapters_in_float32(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline().to(torch.bfloat16))
    before, score = base_score(prior), lora(prior, lr=0.01)
    assert {p.dtype for p in score.parameters} == {torch.float32}
    assert score.learn(latents(2), 0)["reference"] > 0
    assert torch.equal(base_score(prior), before)


def in_float16(tiny_pipeline, **settings):
    return lora(LatentPrior(tiny_pipeline().to(torch.float16)), lr=0.01, **settings)


def test_float16_learns_from_the_first_step(tiny_pipeline):
    score = in_float16(tiny_pipeline)
    assert score.loss_scale == 2**14 and {p.dtype for p in score.parameters} == {torch.float32}
    before = [p.detach().clone() for p in score.parameters]
    losses = [score.learn(latents(2).half(), step) for step in range(3)]
    assert all(row["reference"] > 0 and row["reference_skipped"] == 0 for row in losses)
    assert all(not torch.equal(a, b) for a, b in zip(before, score.parameters, strict=True))


def test_a_scale_that_is_too_large_for_float16_is_halved_until_it_learns(tiny_pipeline):
    score = in_float16(tiny_pipeline)
    score.loss_scale = 2.0**18  # it overflows down to 2^16
    before = [p.detach().clone() for p in score.parameters]
    assert score.learn(latents(2).half(), 0)["reference_skipped"] == 1 and score.loss_scale == 2**17
    assert all(torch.equal(a, b) for a, b in zip(before, score.parameters, strict=True))
    again = in_float16(tiny_pipeline)
    again.load_state(nested(flat(score.state())))  # no step of AdamW was taken: its state is empty
    assert (again.loss_scale, again.skipped) == (2**17, 1)
    skipped = [again.learn(latents(2).half(), step)["reference_skipped"] for step in range(1, 5)]
    assert skipped == sorted(skipped, reverse=True) and skipped[0] == 1 and skipped[-1] == again.skipped == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, again.parameters, strict=True))


def test_a_score_that_never_learns_raises_an_error(tiny_pipeline):
    score = lora(LatentPrior(tiny_pipeline()))
    score.loss_scale = float("inf")
    for step in range(PATIENCE - 1):
        score.learn(latents(2), step)
    with pytest.raises(ValueError, match="cannot learn: .* in 20 consecutive steps; use --dtype float32"):
        score.learn(latents(2), PATIENCE)


def test_initial_weights_leave_every_global_generator_alone(tiny_pipeline, monkeypatch):
    prior = LatentPrior(tiny_pipeline())
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs' generators were seeded"))
    before = torch.get_rng_state()
    for make in (lora, unet):
        make(prior)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_is_reported(prior):
    points = GaussianMixture(torch.zeros(1, 2), 1.0)
    with pytest.raises(ValueError, match="gaussian mixture has no UNet"):
        LoraScore(points, points.condition(), Spread(IDS), Stream(0))
    with pytest.raises(ValueError, match="gaussian mixture has no latent images"):
        UNetScore(points, points.condition(), Spread(IDS), Stream(0))
    with pytest.raises(ValueError, match="lora_rank is 0"):
        lora(prior, rank=0)
