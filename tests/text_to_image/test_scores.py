"""The scores of a set of pictures."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rsd import metrics
from rsd.heads.attributes import ATTRIBUTES, Camera, Head, caption
from rsd.heads.reading import read
from rsd.heads.render import render
from rsd.media import write_png
from rsd.metrics import scoring
from rsd.metrics.aesthetic import load_aesthetic
from rsd.metrics.scoring import ScoreRequest, Scorers, Subject
from rsd.tasks.text_to_image.options import TextToImage
from rsd.tasks.text_to_image.scores import SCORES, fid, heads_figures

PLAIN = {
    "person": "woman", "skin": "pale", "hair": "long", "hair_color": "red", "glasses": "round", "mouth": "smile",
    "beard": "none", "left_eye": "open", "right_eye": "open", "left_ear": "plain", "right_ear": "plain",
    "left_cheek": "plain", "right_cheek": "plain", "shirt": "blue", "background": "white",
}  # fmt: skip
PROMPT = "a woman with long red hair, front view"


def load_scorers(prior, *, repulsion=(), size=64, wanted=(), **asked):
    """Return the networks that score a prior's pictures."""
    return scoring.load_scorers(SCORES, ScoreRequest(prior, wanted, **asked), repulsion=repulsion, size=size)


def score(images, prompt, scorers):
    """Return the figures of pictures."""
    return scoring.measure(SCORES, images, Subject(prompt), scorers)


def missing_figures(held, prior, *, wanted=(), **asked):
    """Return the figures that a finished run misses."""
    return scoring.missing_figures(SCORES, held, ScoreRequest(prior, wanted, **asked))


def measure_missing(images, prompt, held, names, scorers):
    """Return a finished run's metrics, and what was measured."""
    return scoring.measure_missing(SCORES, images, Subject(prompt), held, names, scorers)


NONE = Scorers(reasons={"clip": "no", "aesthetic": "no", "fid": "no"})


def tell(*changes, confidence=0.9):
    """Return a classifier's readings of heads that differ from the plain one by ``changes``."""
    found = {}
    for attribute, options in ATTRIBUTES.items():
        rows = torch.full((len(changes), len(options)), (1 - confidence) / (len(options) - 1))
        for k, change in enumerate(changes):
            rows[k, options.index({**PLAIN, **change}[attribute])] = confidence
        found[attribute] = rows
    return found


def pictures(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_agreement_is_the_share_of_named_attributes_that_are_right():
    reasons = {}
    found = heads_figures(tell({}, {"hair": "bun"}, {"hair": "afro", "hair_color": "pink"}), read(PROMPT), reasons)
    assert found["agreement"] == pytest.approx(6 / 9) and reasons == {}
    expected = {"mean": 6 / 9, "best": 1, "std": float(np.std([1, 2 / 3, 1 / 3]))}
    assert found["agreement_particles"] == pytest.approx(expected)
    assert found["agreement_attributes"] == pytest.approx({"person": 1, "hair": 1 / 3, "hair_color": 2 / 3})


def test_what_the_view_hides_is_not_asked_for():
    named = read("a man with sunglasses and a left eye patch, front view")
    found = heads_figures(tell({"person": "man", "glasses": "sun"}), named, {})
    assert found["agreement"] == 1 and set(found["agreement_attributes"]) == {"person", "glasses"}
    back = heads_figures(tell({"mouth": "open"}), read("a person with a smile, back view"), reasons := {})
    assert back["agreement"] is None and "names no attribute" in reasons["agreement"]
    assert set(back["coverage"]["distinct"]) == {"skin", "hair", "hair_color", "shirt", "background"}


def test_what_a_particle_s_missing_face_would_show_counts_for_nothing():
    """One of three samples has a face: mouth and person are read only for that one, hair for all."""
    named = read("a man with long red hair and a smile, front view")
    particles = tell({"person": "man"}, {"mouth": "open", "shirt": "red"}, {"mouth": "open", "left_cheek": "red"})
    found = heads_figures(particles, named, reasons := {}, torch.tensor([True, False, False]))
    assert found["agreement"] == 1 and found["agreement_read"]["mouth"] == pytest.approx(1 / 3)
    assert found["agreement_attributes"] == {"person": None, "hair": 1, "hair_color": 1, "mouth": None}
    assert reasons["agreement_attributes"] == "not averaged; person: no face is seen; mouth: no face is seen"
    assert (found["coverage"]["distinct"]["left_cheek"], found["coverage"]["distinct"]["shirt"]) == (1, 2)
    none = heads_figures(particles, read("a smile"), reasons := {}, torch.tensor([False] * 3))
    assert none["agreement"] is none["agreement_particles"] is None
    assert reasons["agreement"] == "the pictures do not show the attributes of the prompt; mouth: no face is seen"
    unsure = heads_figures(tell({}, confidence=0.7), read("a smile"), reasons := {})
    assert unsure["agreement"] is None and "the classifier is not sure" in reasons["agreement"]


def test_coverage_counts_the_values_of_what_is_left_open():
    three = tell({}, {"shirt": "red", "mouth": "open"}, {"shirt": "green", "hair": "bun"})
    found = heads_figures(three, read(PROMPT), {})["coverage"]
    assert (found["distinct"]["shirt"], found["distinct"]["mouth"], found["distinct"]["skin"]) == (3, 2, 1)
    assert "hair" not in found["distinct"] and set(found["distinct"]) == set(ATTRIBUTES) - {
        "person", "hair", "hair_color", "beard"
    }  # fmt: skip
    assert found["of"]["shirt"] == 5 and found["mean"] == pytest.approx((3 + 2 + 9) / 11)
    unsure = tell({}, {"shirt": "red"}, confidence=0.7)
    assert heads_figures(unsure, read(PROMPT), {})["coverage"]["mean"] == 0


def test_eyes_behind_sunglasses_count_for_nothing():
    particles = tell({}, {"glasses": "sun", "left_eye": "patch"})
    assert heads_figures(particles, read(PROMPT), {})["coverage"]["distinct"]["left_eye"] == 1
    bare = tell({}, {"left_eye": "patch"})
    assert heads_figures(bare, read(PROMPT), {})["coverage"]["distinct"]["left_eye"] == 2
    bald = tell({"hair": "bald", "hair_color": "pink"}, {"hair_color": "black"})
    assert heads_figures(bald, read("a woman"), {})["coverage"]["distinct"]["hair_color"] == 1


def test_nothing_left_open_and_nothing_named():
    whole = caption(PLAIN, view="front view")
    found = heads_figures(tell({}), read(whole), reasons := {})
    assert found["coverage"] is None and found["agreement"] == 1 and "no attribute open" in reasons["coverage"]
    found = heads_figures(tell({}, {"skin": "green"}), read(""), reasons := {})
    assert found["agreement"] is found["agreement_particles"] is None and set(reasons) == {"agreement"}
    assert found["coverage"]["distinct"]["skin"] == 2 and len(found["coverage"]["of"]) == 15


def test_a_diverged_particle_is_reported_and_agrees_with_nothing():
    answers = tell({}, {})
    for p in answers.values():
        p[1] = torch.nan
    found = heads_figures(answers, read(PROMPT), {})
    assert found["agreement"] == 0.5 and found["coverage"]["mean"] == 1
    images = pictures(2)
    images[0, 0, 0, 0] = math.inf
    flat = Scorers(features=lambda x: x.flatten(1), fid=lambda x: x.flatten(1), references=torch.zeros(3, 768))
    result = score(images, PROMPT, flat)
    assert result["div"] is result["fid"] is None and "diverged" in result["reasons"]["div"] + result["reasons"]["fid"]
    json.dumps(result, allow_nan=False)


def test_renders_of_real_heads_score_as_they_are_drawn():
    scorers = load_scorers("heads")
    heads = [Head({**PLAIN, "shirt": shirt}, Camera(), (0.0, 0.4)) for shirt in ("blue", "red", "green")]
    images = torch.stack([torch.from_numpy(render(h).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1 for h in heads])
    result = score(images, "a woman with long red hair and round glasses, front view", scorers)
    assert result["agreement"] == 1 and result["coverage"]["distinct"]["shirt"] == 3
    assert result["coverage"]["distinct"]["mouth"] == 1 and result["div_features"] == "heads classifier"
    assert 0 < result["div"] < 0.5 and score(images[:1].repeat(3, 1, 1, 1), "", scorers)["div"] == pytest.approx(0)
    assert score(images[:1], "a man", scorers)["agreement"] == 0
    assert set(result["reasons"]) == {"clip", "aesthetic", "fid"} and "--metrics clip" in result["reasons"]["clip"]


def test_div_is_one_minus_the_mean_cosine_and_null_for_one():
    images = torch.zeros(3, 3, 2, 2)
    images[0, 0], images[1, 1], images[2, 1] = 1, 1, 1
    scorers = Scorers(features=lambda x: x.flatten(1), features_name="flat", reasons={"agreement": "no heads"})
    result = score(images, PROMPT, scorers)
    assert result["div"] == pytest.approx(2 / 3) and result["div_features"] == "flat"
    assert result["agreement"] is result["coverage"] is result["clip"] is None
    alone = score(images[:1], PROMPT, scorers)
    assert alone["div"] is None and "one particle" in alone["reasons"]["div"]


def test_clip_and_aesthetic_are_summed_up_over_particles():
    scorers = Scorers(
        clip=lambda x, prompt: x[:, 0, 0, 0] * len(prompt), clip_name="c", aesthetic=lambda x: x[:, 0, 0, 0] + 5,
        aesthetic_name="a",
    )  # fmt: skip
    images = torch.zeros(2, 3, 2, 2)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.1, -0.1
    result = score(images, "red", scorers)
    assert result["clip"] == pytest.approx({"mean": 15, "best": 30, "std": 15, "model": "c"})  # negative cosines are 0
    assert result["aesthetic"] == pytest.approx({"mean": 5, "best": 5.1, "std": 0.1, "weights": "a", "model": "c"})
    empty = score(images, "", scorers)
    assert empty["clip"] is None and empty["reasons"]["clip"] == "the prompt is empty"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "faces").mkdir()
    for k in range(3):
        write_png(tmp_path / "faces" / f"{k}.png", pictures(1, 20, seed=k))
    (tmp_path / "faces" / "notes.txt").write_text("no picture")
    return tmp_path / "faces"


def test_fid_compares_with_the_folder(folder):
    scorers = load_scorers("other", div_features="pixels", wanted=("fid",), fid_folder=folder, size=16)
    assert scorers.references.shape == (3, 768) and scorers.fid_name == "pixels"
    images = pictures(4, seed=9)
    result = score(images, PROMPT, scorers)["fid"]
    expected = metrics.frechet(images.flatten(1), scorers.references)
    about = {"features": "pixels", "folder": str(folder), "images": 4, "references": 3}
    assert result == {"value": pytest.approx(expected), **about}
    same = scorers.references.view(3, 3, 16, 16)
    assert fid(same, scorers)["value"] == pytest.approx(0, abs=1e-6)
    one = score(images[:1], PROMPT, scorers)
    assert one["fid"] is None and "one image" in one["reasons"]["fid"]


def test_what_fid_cannot_compare_with(folder, tmp_path):
    with pytest.raises(ValueError, match="--fid-folder DIR"):
        load_scorers("other", wanted=("fid",), div_features="pixels")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_scorers("other", wanted=("fid",), div_features="pixels", fid_folder=tmp_path / "nowhere")
    for k in (1, 2):
        (folder / f"{k}.png").unlink()
    with pytest.raises(ValueError, match="contains 1 pictures"):
        load_scorers("other", wanted=("fid",), div_features="pixels", fid_folder=folder)


def test_networks_that_are_not_available(folder):
    scorers = load_scorers("other")
    assert scorers.features is None and "dinov2-small" in scorers.reasons["div"]
    assert "--div-features" in scorers.reasons["div"] and "a prior over heads" in scorers.reasons["coverage"]
    assert score(pictures(2), PROMPT, scorers)["div"] is None
    with pytest.raises(ValueError, match="go online once"):
        load_scorers("other", div_features="facebook/dinov2-small")
    with pytest.raises(ValueError, match="go online once"):
        load_scorers("other", wanted=("clip",))
    with pytest.raises(ValueError, match=r"^The metric fid uses facebook/dinov2-small, .*; give --fid-feat"):
        load_scorers("other", wanted=("fid",), fid_folder=folder)
    with pytest.raises(ValueError, match='Unknown metric "lpips"; use clip, aesthetic, fid'):
        load_scorers("other", wanted=("lpips",))


def test_div_on_the_repulsion_s_own_features_is_said():
    with pytest.warns(UserWarning, match="Div is measured with pixels"):
        load_scorers("other", div_features="pixels", repulsion=["heads", "pixels"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_scorers("other", div_features="pixels", repulsion=["heads"])
        load_scorers("other", repulsion=["auto"])


@pytest.fixture
def clip(tmp_path, tiny_folder) -> str:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder("epsilon") / "tokenizer")
    config = CLIPConfig(
        text_config={**layers, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**layers, "image_size": 16, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


def predictor(widths=(8, 4, 1)) -> dict[str, torch.Tensor]:
    """LAION's layers, whose numbers count the dropouts between them."""
    torch.manual_seed(1)
    state = {}
    for k, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        state |= {f"layers.{2 * k}.weight": torch.randn(b, a), f"layers.{2 * k}.bias": torch.randn(b)}
    return state


def test_the_aesthetic_score_is_the_head_of_the_normalised_embedding(clip, tmp_path):
    from safetensors.torch import save_file

    state = predictor()
    torch.save(state, tmp_path / "head.pth")
    (tmp_path / "hub").mkdir()
    save_file({**state, "vision_model.x.weight": torch.zeros(2, 2)}, tmp_path / "hub" / "model.safetensors")
    images = pictures(3)
    model, _, pixels = metrics.load_clip(clip)
    with torch.no_grad():
        e = model.visual_projection(model.vision_model(pixel_values=pixels(images)).pooler_output)
        e = e / e.norm(dim=1, keepdim=True)
        for k in (0, 2):
            e = e @ state[f"layers.{k}.weight"].T + state[f"layers.{k}.bias"]
    for weights in ("head.pth", "hub"):
        found = load_aesthetic(str(tmp_path / weights), clip=clip)(images)
        assert torch.allclose(found, e.flatten(), atol=1e-5)
    scorers = load_scorers(
        "other", div_features="pixels", wanted=("aesthetic", "clip"), clip_model=clip,
        aesthetic_weights=str(tmp_path / "head.pth"),
    )  # fmt: skip
    result = score(images, "red", scorers)
    assert result["aesthetic"]["mean"] == pytest.approx(float(e.mean()), abs=1e-5) and result["clip"]["model"] == clip


def test_an_aesthetic_head_that_cannot_be_used(clip, tmp_path):
    def load(state, name="x.pth"):
        torch.save(state, tmp_path / name)
        return load_aesthetic(str(tmp_path / name), clip=clip)

    with pytest.raises(FileNotFoundError, match="--aesthetic-weights FILE"):
        load_aesthetic(None)
    with pytest.raises(FileNotFoundError, match='no file "missing.pth"'):
        load_aesthetic("missing.pth")
    with pytest.raises(FileNotFoundError, match="contains no model.safetensors"):
        load_aesthetic(str(tmp_path))
    with pytest.raises(ValueError, match="go online once"):
        load_aesthetic("somebody/aesthetics-predictor")
    with pytest.raises(ValueError, match="take embeddings of 6 numbers, but .* has 8"):
        load(predictor((6, 1)))
    with pytest.raises(ValueError, match="no linear layers that end in one score"):
        load(predictor((8, 4)))
    with pytest.raises(ValueError, match="not a chain of linear layers"):
        load({**predictor(), "layers.2.weight": torch.zeros(1, 5)})
    with pytest.raises(ValueError, match="are a list"):
        load([1, 2])
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match='junk.safetensors" cannot be read'):
        load_aesthetic(str(tmp_path / "junk.safetensors"), clip=clip)


def test_a_pickle_of_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"layers.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        load_aesthetic(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("prior", ["heads", "some/model"])
def test_the_default_div_network_is_not_the_repulsion_s(prior):
    used = TextToImage(prior=prior, gamma=1.0).features_name
    assert missing_figures({"div_features": used, "reasons": {}}, prior) == ["div"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_scorers(prior, repulsion=[used]).features_name != used


def held(**changes):
    nothing = {"div": 0.5, "div_features": "pixels", "clip": None, "aesthetic": None, "fid": None, "reasons": {}}
    return {**nothing, **changes}


def test_what_a_finished_run_misses(folder):
    def names(**asked):
        return missing_figures(run, "other", **{"div_features": "pixels", **asked})

    run = held()
    assert names() == [] and names(div_features="auto") == ["div"]
    assert names(wanted=("clip", "fid"), fid_folder=folder, clip_model="c") == ["clip", "fid"]
    fid = {"features": "pixels", "folder": str(folder), "references": 3}
    run = held(clip={"model": "c"}, aesthetic={"weights": "w", "model": "c"}, fid=fid)
    everything = {"wanted": ("clip", "aesthetic", "fid"), "aesthetic_weights": "w", "fid_folder": folder}
    assert names(**everything, clip_model="c") == []
    assert names(**everything, clip_model="other") == ["clip", "aesthetic"]
    assert names(**everything, clip_model="c", fid_features="heads") == ["fid"]
    assert names(**everything, clip_model="c", div_features="heads") == ["div", "fid"]
    run = held(reasons={"clip": "the prompt is empty", "fid": "one image has no covariance"})
    assert names(wanted=("clip", "fid"), fid_folder=folder) == []


def test_measuring_again_touches_nothing_else():
    before = held(reasons={"clip": "not asked for", "aesthetic": "not asked for"}, coverage={"mean": 2})
    scorers = Scorers(
        features=lambda x: pytest.fail("not asked for"), clip=lambda x, prompt: x[:, 0, 0, 0], clip_name="c",
        reasons={"aesthetic": "no weights"},
    )  # fmt: skip
    after, done = measure_missing(torch.full((2, 3, 2, 2), 0.5), "red", before, ["clip", "aesthetic"], scorers)
    assert done == ["clip"] and after["clip"]["mean"] == 50 and after["reasons"] == {"aesthetic": "no weights"}
    assert {**after, "clip": None, "reasons": before["reasons"]} == before
    unmeasured, done = measure_missing(torch.zeros(2, 3, 2, 2), "red", before, ["div"], Scorers(reasons={"div": "no"}))
    assert done == [] and unmeasured == before  # a figure that is known is not lost to one that cannot be had
