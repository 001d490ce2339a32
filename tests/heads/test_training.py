"""The training scripts learn, stop, resume and save ordinary models, in a few steps on a few heads."""

import functools
import itertools

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, IFPipeline

from rsd.heads.attributes import ATTRIBUTES, VIEWS, Head, caption, visible
from rsd.heads.data import head_at, head_from_row, make_shard
from rsd.priors import load_prior
from scripts.heads import errors, evaluate, features, latent, pixel
from scripts.heads.fit import averaged, cosine, fit, hold, kept, native_precision


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which keeps one precision per process: another test may have set another."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


class Power(Exception):
    """The machine is switched off."""


def run(out, off_at=None):
    """Fit a layer to the weight 3 for 100 steps, checkpointing every 20."""
    taken = 0

    def loss(model, rng, device):
        nonlocal taken
        taken += 1
        if taken == off_at:
            raise Power
        return {"error": ((model.weight - 3 + 0.1 * torch.randn(4, 2) * rng.normal()) ** 2).mean()}

    torch.manual_seed(0)
    schedule = functools.partial(cosine, warmup=10)
    return fit("toy", torch.nn.Linear(2, 4), loss, out=out, steps=100, lr=0.2, every=20, schedule=schedule)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that was not stopped, and its weights."""
    out = tmp_path_factory.mktemp("whole")
    AcceleratorState._reset_state(True)
    return out, run(out).weight.detach()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, whole):
    with pytest.raises(Power):
        run(tmp_path, off_at=50)
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["step"] == 40
    assert torch.equal(whole[1], run(tmp_path).weight)
    torch.testing.assert_close(whole[1], torch.full((4, 2), 3.0), atol=0.2, rtol=0)


def test_the_learning_rate_warms_up_and_falls():
    assert cosine(0, 1000) == 0.01
    assert cosine(99, 1000) == 1.0
    assert cosine(550, 1000) == pytest.approx(0.505, abs=1e-3)
    assert cosine(1000, 1000) == pytest.approx(0.01)


def test_a_run_without_a_set_end_holds_its_learning_rate_until_it_cools_down():
    assert [hold(step, 1000, cooldown=200) for step in (0, 49, 99, 500, 800)] == [0.01, 0.5, 1, 1, 1]
    assert hold(900, 1000, cooldown=200) == 0.5 and hold(999, 1000, cooldown=200) == 0.005
    assert hold(999, 1000) == 1


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"avx2": True}, "no"), ({"avx512_f": True, "avx512_bf16": False}, "no"), ({"amx_bf16": True}, "bf16")],
)
def test_bfloat16_only_where_the_processor_multiplies_in_it(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert native_precision() == expected


def test_a_run_hands_over_its_average_while_it_goes_on(whole):
    out, once = whole
    layer, step = averaged("toy", torch.nn.Linear(2, 4), out)
    assert step == 100 and not layer.training
    assert torch.equal(layer.weight, once)
    raw = torch.load(out / "toy.pt", weights_only=True)["model"]["weight"]
    assert not torch.equal(layer.weight, raw)


def test_the_loss_of_a_caption_counts_its_attributes_alone():
    head, rng = head_at("train", 3), np.random.default_rng(0)
    drawn = [latent.sample_caption(head, rng, empty=0.2) for _ in range(300)]
    assert 0.13 < np.mean([text == "" for text, _ in drawn]) < 0.27
    for text, answers in drawn:
        assert text or not answers.any()
        for attribute, options, answer in zip(ATTRIBUTES, ATTRIBUTES.values(), answers, strict=True):
            assert answer == 0 or options[answer - 1] == head[attribute]
        if answers[list(ATTRIBUTES).index("shirt")]:
            assert f"{head['shirt']} shirt" in text


def test_the_latent_pipeline_trains_and_is_an_ordinary_one(tmp_path):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4), norm_num_groups=2, latent_channels=4,
    )  # fmt: skip
    pipe = latent.train(vae.eval(), make_shard("train", 0, count=6), tmp_path, steps=2, batch=4)
    assert pipe.vae.config.scaling_factor > 0
    assert not hasattr(pipe.text_encoder, "reader")
    image = pipe("a bald man", num_inference_steps=2, height=64, width=64, output_type="np").images
    assert image.shape == (1, 64, 64, 3) and np.isfinite(image).all()


def test_pixels_are_means_of_four_and_views_come_from_everywhere():
    data = pixel.make_pixel_shard("train", 0, count=8)
    assert data["images"].shape == (8, 32, 32, 3) and data["images"].dtype == np.uint8
    large = make_shard("train", 0, count=8, view="all")["images"].astype(float)
    assert abs(data["images"][3, 5, 7] - large[3, 10:12, 14:16].mean((0, 1))).max() <= 0.5
    azimuths = data["heads"][:, len(ATTRIBUTES)]
    assert azimuths.min() < -90 and azimuths.max() > 90


def test_every_caption_fits_into_the_pixel_models_words_and_length():
    tokenizer, rng = pixel.build_tokenizer(), np.random.default_rng(0)
    lengths, views = [], []
    for k in range(200):
        head = head_at("train", k, "all")
        text, answers = pixel.sample_caption(head, rng)
        tokens = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in tokens and tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert answers[-1] == (VIEWS.index(head.camera.view) + 1 if "view" in text else 0)
        lengths.append(len(tokenizer(caption(head.values, None, head.camera.view)).input_ids))
        views.append(answers[-1])
    assert max(lengths) < pixel.LENGTH and set(views) == {0, 1, 2, 3}
    assert tokenizer.tokenize("zebra") == ["▁", "z", "e", "b", "r", "a"]


def test_pixels_of_the_face_weigh_more_where_details_are_decided_and_nothing_else_counts():
    weights = pixel.pixel_weights(torch.tensor([5, 330, 995]))
    assert weights.shape == (3, 32, 32) and weights.min() > 0
    torch.testing.assert_close(weights.mean((1, 2)), torch.ones(3))
    ratio = weights[:, 23, 15] / weights[:, 2, 2]
    assert ratio[1] > 6 and ratio[0] < 2.5 and ratio[2] < 1.5
    density = pixel.timestep_density(1000)
    assert density.sum() == pytest.approx(1, abs=1e-5) and density.min() >= 0.0004
    assert density[330] > 4 * density[950]


@pytest.mark.parametrize("step", [100, 330, 900])
def test_weights_by_pixel_and_timestep_leave_the_minimiser_where_it_was(step):
    """The estimate that fits the noises best is their mean, as without weights."""
    noises = torch.randn(400, 32, 32, generator=torch.Generator().manual_seed(0))
    guess = noises.mean(0).requires_grad_()
    (slope,) = torch.autograd.grad((pixel.pixel_weights(torch.tensor([step])) * (guess - noises) ** 2).mean(), guess)
    assert slope.abs().max() < 1e-8


def test_twins_differ_in_one_small_attribute_that_is_seen():
    first = 0
    for k in range(60):
        head = head_at("train", k, "all")
        seen, found = visible(head.values, head.camera), pixel.twins(head, np.random.default_rng(k))
        changed = [[a for a in ATTRIBUTES if twin[a] != head[a]] for twin in found]
        assert all(len(names) == 1 and names[0] in pixel.SMALL and seen[names[0]] for names in changed)
        assert len({name for names in changed for name in names}) == len(found) <= pixel.TWINS
        assert all(twin.camera == head.camera and twin.light == head.light for twin in found)
        assert head["beard"] == "none" or ["person"] not in changed
        first += len(found) == pixel.TWINS
    assert first > 20
    data = pixel.make_twin_shard("train", 0, count=6)
    heads = [head_from_row(row) for row in data["heads"]]
    groups = pixel.Draw(heads).groups
    assert [heads[rows[0]].values for rows in groups] == [head_at("train", k, "all").values for k in range(6)]
    assert len(data["images"]) == len(heads) > 6
    rows = next(rows for rows in groups if len(rows) > 1)
    pictures = data["images"][rows.start : rows.stop].astype(int)
    assert 0 < (abs(pictures[1] - pictures[0]).max(-1) > 8).mean() < 0.2  # a small part of the picture


def test_captions_of_twins_tell_what_differs_and_views_are_preferred_only_where_they_are_told():
    heads: list[Head] = []
    for k in range(400):
        head = head_at("train", k, "all")
        heads += [head, *pixel.twins(head, np.random.default_rng(k))]
    draw, rng = pixel.Draw(heads), np.random.default_rng(1)
    views = {"empty": [], "told": [], "untold": []}
    pictures = empty = 0
    for _ in range(4000):
        drawn = draw(rng)
        rows, texts, answers = zip(*drawn, strict=True)
        view = VIEWS.index(heads[rows[0]].camera.view)
        told = texts[0].endswith(VIEWS[view])
        views["told" if told else "untold" if texts[0] else "empty"].append(view)
        assert all(asked[-1] == (view + 1 if told else 0) for asked in answers)
        assert texts[0] or (len(rows) == 1 and not answers[0].any())
        if texts[0]:
            assert len(set(texts)) == len(texts)
        pictures, empty = pictures + len(rows), empty + (not texts[0])
    assert len(views["empty"]) == pytest.approx(4000 * pixel.EMPTY, rel=0.1)
    assert 0.08 < empty / pictures < 0.14
    only_backs = pixel.Draw([head for head in heads if head.camera.view == "back view"])
    assert {asked[-1] for _ in range(50) for _, _, asked in only_backs(rng)} == {0, 3}
    alike = np.bincount([VIEWS.index(heads[rows[0]].camera.view) for rows in draw.groups]) / 400
    for name, shares in (("empty", alike), ("untold", alike), ("told", pixel.VIEW_SHARES)):
        assert np.bincount(views[name]) / len(views[name]) == pytest.approx(shares, abs=0.05)
    drawn, owner = draw.batch(rng, 32)
    assert len(drawn) == len(owner) == 32 and owner == sorted(owner) and set(np.diff(owner)) == {0, 1}
    for a, b in itertools.pairwise(range(32)):
        assert (owner[a] == owner[b]) == pixel.akin(heads[drawn[a][0]], heads[drawn[b][0]])


def test_captions_do_not_tell_eyes_behind_sunglasses():
    values = {**head_at("train", 0).values, "left_eye": "patch", "right_eye": "open"}
    told = {"left_eye", "right_eye", "glasses", "shirt"}
    for glasses in ("round", "sun"):
        text, answers = pixel.tell(Head({**values, "glasses": glasses}), told, None)
        hidden = glasses == "sun"
        assert ("eye" in text) != hidden and "glasses" in text
        assert [answers[list(ATTRIBUTES).index(eye)] for eye in ("left_eye", "right_eye")] == (
            [0, 0] if hidden else [2, 1]
        )


@pytest.fixture
def small_pixel_model(monkeypatch):
    monkeypatch.setattr(pixel, "build_unet", functools.partial(pixel.build_unet, (16, 16, 32)))


def test_the_pixel_pipeline_trains_resumes_and_is_an_ordinary_one(tmp_path, small_pixel_model, monkeypatch):
    data = {"images": np.full((6, 32, 32, 3), 99, np.uint8), "heads": make_shard("train", 0, count=6, size=8)["heads"]}
    monkeypatch.setattr(pixel, "fit", lambda *a, **k: fit(*a, **{**k, "every": 1}))
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    torch.manual_seed(0)
    once = pixel.train(data, whole, steps=2, batch=2)

    def off(*a, **k):
        raise Power

    real, asked = pixel.tell, []
    monkeypatch.setattr(pixel, "tell", lambda *a: asked.append(1) or (off if len(asked) > 2 else real)(*a))
    torch.manual_seed(0)
    with pytest.raises(Power):
        pixel.train(data, pieces, steps=2, batch=2)
    monkeypatch.setattr(pixel, "tell", real)
    again = pixel.train(data, pieces, steps=2, batch=2)
    for ours, theirs in ((once.unet, again.unet), (once.text_encoder, again.text_encoder)):
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    once.to(dtype=torch.float16).save_pretrained(tmp_path / "model")
    image = evaluate.sample(
        IFPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32),
        ["a bald man"],
        steps=2,
        clean_caption=False,
    )
    assert image.shape == (1, 32, 32, 3)
    prior = load_prior(str(tmp_path / "model"))
    assert prior.latent_shape == (3, 32, 32)
    assert prior.epsilon(torch.zeros(1, 3, 32, 32), 500, prior.condition("a bald man", guidance=2.0)).isfinite().all()


def test_a_pixel_model_begins_with_a_pipelines_weights_and_says_what_it_has_learnt(
    tmp_path, small_pixel_model, monkeypatch
):
    tokenizer = pixel.build_tokenizer()
    torch.manual_seed(0)
    shipped = pixel.assemble(pixel.Denoiser(tokenizer), tokenizer).to(dtype=torch.float16)
    shipped.save_pretrained(tmp_path / "shipped")
    model, fitted, real = pixel.Denoiser(tokenizer), [], pixel.learn_reader
    monkeypatch.setattr(pixel, "learn_reader", lambda *parts: fitted.append(real(*parts, count=40, steps=100)))
    pixel.warm_start(model, tokenizer, tmp_path / "shipped")
    assert fitted[0] > 0.9
    for ours, theirs in ((model.unet, shipped.unet), (model.text_encoder, shipped.text_encoder)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value.float()), name

    data = {"images": np.full((6, 32, 32, 3), 99, np.uint8), "heads": make_shard("train", 0, count=6, size=8)["heads"]}
    monkeypatch.setattr(pixel, "learn_reader", lambda *parts: fitted.append(real(*parts, count=2, steps=1)))
    pipe = pixel.train(data, tmp_path, steps=1, batch=2, lr=1e-9, init=tmp_path / "shipped")
    assert len(fitted) == 2
    torch.testing.assert_close(pipe.unet.conv_in.weight.detach(), model.unet.conv_in.weight.detach())
    again = pixel.train(data, tmp_path, steps=1, batch=2, init=tmp_path / "nowhere")  # it has a checkpoint
    assert torch.equal(again.unet.conv_in.weight, pipe.unet.conv_in.weight)
    exported, step = pixel.export(tmp_path)
    assert step == 1 and torch.equal(exported.unet.conv_in.weight, pipe.unet.conv_in.weight)

    found = errors.held_out_errors(pipe, count=2, timesteps=(300, 500), heads=8)
    assert all(len(values) == 2 and np.isfinite(values).all() for values in found.values())
    assert found["face"][0] > 0 and found["wrong mouth"] != [0, 0]

    vocabulary = tokenizer.get_vocab()
    tokenizer.get_vocab = lambda: {**vocabulary, "zebra": len(vocabulary)}
    with pytest.raises(ValueError, match="another vocabulary than the captions"):
        pixel.warm_start(model, tokenizer, tmp_path / "shipped")


def test_a_wrong_caption_differs_in_one_attribute():
    head = head_at("validation", 1, "frontal")
    assert errors.text_of(head) != errors.text_of(head, "mouth")
    assert errors.text_of(head).split(" mouth")[-1][:1] in ("", ",", " ")


def test_dino_trains_views_of_one_size_and_its_teacher_is_an_ordinary_vit(tmp_path):
    images = torch.full((8, 3, 64, 64), 0.2)
    views = features.crops(images, np.random.default_rng(0), 32, (0.2, 0.5))
    assert views.shape == (8, 3, 32, 32)
    assert views.mean((2, 3)).std(0).min() > 0.01  # every image's own brightness
    vit = features.train(make_shard("train", 0, count=6)["images"], tmp_path, steps=2, batch=4)
    assert vit(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape == (2, 65, 128)
    assert not any(p.requires_grad for p in vit.parameters())


def test_initial_weights_that_the_package_lacks_are_left_out_and_other_missing_ones_are_reported(tmp_path, monkeypatch):
    from scripts.heads import __main__ as stages

    monkeypatch.setattr(stages, "WEIGHTS", tmp_path)
    assert stages._initial(None) is None and stages._initial(tmp_path / "flow") is None
    with pytest.raises(ValueError, match="/flow does not exist; check the path"):
        stages._initial(tmp_path / "mine" / "flow")
    (tmp_path / "flow").mkdir()
    assert stages._initial(tmp_path / "flow") == tmp_path / "flow"


def test_a_file_is_made_once_and_whole(tmp_path):
    made = []

    def make():
        made.append(1)
        return torch.ones(2), torch.zeros(3)

    for _ in range(2):
        ones, zeros = kept(tmp_path / "latents.pt", make)
        assert ones.tolist() == [1, 1] and zeros.shape == (3,)
    assert len(made) == 1 and [file.name for file in tmp_path.iterdir()] == ["latents.pt"]
