"""The figures of scenes are right for renders of a known head, read by the built-in classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rsd.heads.attributes import ATTRIBUTES, Camera, Head, caption
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.heads.render import render
from rsd.media import read_image
from rsd.metrics import scoring
from rsd.metrics.scoring import ScoreRequest, Scorers, Subject, measure
from rsd.tasks.text_to_3d.head import SceneHead
from rsd.tasks.text_to_3d.scene.cameras import orbit
from rsd.tasks.text_to_3d.scene.settings import CameraSettings
from rsd.tasks.text_to_3d.scores import SCORES, visible_attributes

PLAIN = {a: options[0] for a, options in ATTRIBUTES.items()}
HEADS = [
    {**PLAIN, "hair": "short", "hair_color": "red", "glasses": "round", "mouth": "smile"},
    {**PLAIN, "hair": "mohawk", "hair_color": "blue", "beard": "full", "mouth": "open", "skin": "brown"},
]
AROUND = orbit(CameraSettings(), 12)


def load_scorers(prior, *, repulsion=(), **asked):
    """Return the networks that score a prior's scenes."""
    return scoring.load_scorers(SCORES, ScoreRequest(prior, **asked), repulsion=repulsion)


def score(images, cameras, prompt, scorers):
    """Return the figures of scenes."""
    return measure(SCORES, images, Subject(prompt, cameras=cameras), scorers)


@pytest.fixture(scope="module")
def scorers():
    return load_scorers("heads")


@pytest.fixture(scope="module")
def pictures():
    """Return pictures of the two heads from the 12 cameras, [2, 12, 3, 64, 64]."""
    drawn = [
        [render(Head(values, Camera(float(a), float(e)), (0.2, 0.4)), 64, 2) for a, e in zip(*angles, strict=True)]
        for values in HEADS
        for angles in [(AROUND.azimuth, AROUND.elevation)]
    ]
    images = torch.stack([torch.stack([torch.from_numpy(x) for x in views]) for views in drawn])
    return images.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def test_a_true_head_agrees_and_has_no_face_behind(pictures, scorers):
    named = {"hair", "hair_color", "glasses", "mouth", "person"}
    prompt = caption(HEADS[0], named)
    found = score(pictures[:1], AROUND, prompt, scorers)
    assert found["agreement"] == 1 and found["agreement_scenes"]["mean"] == 1
    assert set(found["agreement_attributes"]) == named
    assert found["agreement_views"]["180"] == 1  # of the hair: the rest is not seen from there
    assert found["janus"] == 0 and found["faces"]["0"] == found["faces"]["30"] == found["faces"]["330"] == 1
    assert found["div"] is None and set(found["reasons"]) == {"div", "vendi", "difference"} and found["face_front"] == 1
    other = score(pictures[1:], AROUND, prompt, scorers)
    assert other["agreement"] < 0.5 and other["agreement_attributes"]["hair_color"] == 0


def test_faces_all_around_are_janus_and_half_of_them_half(pictures, scorers):
    both = pictures.clone()
    both[0, :] = pictures[0, :1]
    found = score(both, AROUND, "a man", scorers)
    assert found["janus"] == 0.5 and found["faces"]["180"] == 0.5
    one = score(both[:1], AROUND, "a man", scorers)
    assert one["janus"] == 1 and set(one["faces"].values()) == {1.0}


def test_a_scene_without_a_face_in_front_is_not_counted_in_janus(pictures, scorers):
    """Cameras 0, 1 and 11 see the front, 5 to 7 the back. One scene has faces all around, one has a face in one of
    three front views, and one is a head that is turned away."""
    around, turned = pictures[0, :1].expand(12, -1, -1, -1), pictures[0].roll(6, 0)
    back = pictures[0, 6:7].expand(12, -1, -1, -1)
    once = torch.cat([pictures[0, :1], back[1:]])
    found = score(torch.stack([around, once, turned]), AROUND, "a man", scorers)
    assert found["face_front"] == pytest.approx((3 + 1 + 0) / 9) and found["janus"] == 1
    assert found["faces"]["180"] == pytest.approx(2 / 3) and "janus" not in found["reasons"]
    twice = torch.cat([pictures[0, :2], back[2:]])
    found = score(torch.stack([around, twice]), AROUND, "a man", scorers)
    assert found["face_front"] == pytest.approx(5 / 6) and found["janus"] == 0.5  # two of three are half or more


def test_scenes_without_any_face_have_no_janus(pictures, scorers):
    found = score(pictures[:, 6:7].repeat(1, 12, 1, 1, 1), AROUND, "a man", scorers)
    assert found["janus"] is None and found["face_front"] == 0 and set(found["faces"].values()) == {0}
    assert found["reasons"]["janus"] == "no scene shows a face in half of its front views"


def test_div_is_a_mean_over_cameras(pictures, scorers):
    """Two heads that differ in one of 12 views have a twelfth of that view's Div."""
    twins = pictures[:1].repeat(2, 1, 1, 1, 1)
    assert score(twins, AROUND, "a man", scorers)["div"] == pytest.approx(0, abs=1e-6)
    assert score(twins, AROUND, "a man", scorers)["vendi"] == pytest.approx(1, abs=1e-5)
    twins[1, 0] = pictures[1, 0]
    there = score(twins[:, :1], AROUND[:1], "a man", scorers)
    found = score(twins, AROUND, "a man", scorers)
    assert found["div"] == pytest.approx(there["div"] / 12, abs=1e-6) and there["div"] > 0.05
    assert there["janus"] is None and there["reasons"]["janus"] == "no camera sees the back"
    assert there["face_front"] == 1


def test_what_is_not_named_or_not_visible_has_a_reason(pictures, scorers):
    found = score(pictures, AROUND, "a dog", scorers)
    assert found["agreement"] is None and "names no attribute of heads" in found["reasons"]["agreement"]
    behind = orbit(CameraSettings(), 2)[1:]
    found = score(pictures[:, 6:7], behind, "a smile", scorers)
    assert found["agreement"] is None and "no attribute that a front view shows" in found["reasons"]["agreement"]
    assert found["agreement_views"] == {"180": None} and found["janus"] is found["face_front"] is None
    assert found["reasons"]["janus"].startswith("no camera sees the front") and found["faces"] == {"180": 0}


def ball(colour, radius=0.5, soft=0.05):
    """Return a ball in front of grey, [1, 3, 64, 64], which is no head."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    inside = torch.sigmoid((radius - (x**2 + y**2).sqrt()) / soft)
    return (inside * torch.tensor(colour).view(3, 1, 1) + (1 - inside) * 0.1)[None]


@pytest.mark.parametrize("colour", [(0.9, -0.6, -0.8), (-0.8, -0.8, 0.9), (-0.2, -0.2, -0.2)])
def test_a_blob_agrees_with_nothing_that_sits_on_a_face(colour, scorers):
    """The classifier reads a person, a beard and a mouth on it, some of which always match the prompt."""
    blobs = ball(colour).expand(2, 3, -1, -1, -1)
    found = [
        score(blobs, AROUND[:3], f"a {person} with {beard} and {mouth}", scorers)
        for person in ("man", "woman") for beard in ("a beard", "no beard") for mouth in ("a smile", "an open mouth")
    ]  # fmt: skip
    for one in found:
        assert one["face_front"] == 0 and one["agreement"] is one["agreement_scenes"] is None
        assert one["agreement_attributes"] == dict.fromkeys(("person", "mouth", "beard"))
        assert set(one["agreement_read"].values()) == {0.0} and set(one["agreement_views"].values()) == {None}
        why = "person: no face is seen; mouth: no face is seen; beard: no face is seen"
        assert one["reasons"]["agreement"] == f"front views do not show the attributes of the prompt; {why}"
        assert one["agreement_told"] == f"none ({why})"
        json.dumps(one, allow_nan=False)


def test_backs_in_front_agree_by_their_hair_alone(pictures, scorers):
    backs = pictures[:1, 6:7].expand(1, 12, -1, -1, -1)
    found = score(backs, AROUND, caption(HEADS[0], {"hair", "hair_color", "glasses", "mouth", "person"}), scorers)
    assert found["face_front"] == 0 and found["agreement"] == 1
    assert found["agreement_attributes"] == {
        "person": None, "hair": 1, "hair_color": 1, "glasses": None, "mouth": None
    }  # fmt: skip
    why = "person: no face is seen; glasses: no face is seen; mouth: no face is seen"
    assert found["reasons"]["agreement_attributes"] == f"not averaged; {why}" and "agreement" not in found["reasons"]
    assert found["agreement_told"] == f"1.00 of hair, hair color (not {why})"
    assert SceneHead.headline(found) == f"faces in front 0.00, agreement in front 1.00 of hair, hair color (not {why})"


def test_a_black_bar_is_no_round_glasses(scorers):
    """Two front views of a scene for "a woman with a red bun and round glasses, brown skin". The classifier reads round
    glasses without certainty, and a man with certainty."""
    images = read_image(Path(__file__).with_name("visor.png")).unflatten(3, (2, 64)).permute(0, 3, 1, 2, 4)
    answers = scorers.judge.probabilities(images[0])["glasses"]
    assert (answers.argmax(1) == ATTRIBUTES["glasses"].index("round")).all() and (answers.amax(1) > 0.6).all()
    found = score(images, AROUND[:2], "a woman with a red bun and round glasses, brown skin", scorers)
    assert found["face_front"] == 1 and found["agreement"] == 0.75
    assert found["agreement_attributes"] == {"person": 0, "skin": 1, "hair": 1, "hair_color": 1, "glasses": None}
    assert found["agreement_read"] == {"person": 1, "skin": 1, "hair": 1, "hair_color": 1, "glasses": 0}
    assert found["reasons"]["agreement_attributes"] == "not averaged; glasses: the classifier is not sure"
    assert found["agreement_told"].startswith("0.75 of person, skin, hair, hair color (not glasses: ")


def test_a_face_is_read_as_before(pictures, scorers):
    """Readings of heads that match the prompt are certain, so none is left out."""
    for head, images in zip(HEADS, pictures, strict=True):
        named = {"person", "skin", "hair", "hair_color", "glasses", "mouth", "beard"}
        found = score(images[None], AROUND, caption(head, named), scorers)
        assert found["agreement"] == 1 and set(found["agreement_read"].values()) == {1.0}
        assert "agreement_attributes" not in found["reasons"]


def test_what_a_camera_shows():
    named = {"mouth": "smile", "hair": "long", "left_ear": "ring"}
    assert visible_attributes(named, 0, 0) == [True, True, True]
    assert visible_attributes(named, 180, 10) == [False, True, False]
    assert visible_attributes(named, 90, 0) == [False, True, True] and visible_attributes(named, 270, 0) == [
        False,
        True,
        False,
    ]


def test_other_priors_have_no_attributes():
    found = load_scorers("some/if", div_features="pixels")
    assert found.judge is None and found.features_name == "pixels"
    images = torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figures = score(images, AROUND, "a man", found)
    assert figures["div"] > 0 and figures["agreement"] is None and figures["janus"] is None
    assert set(figures["reasons"]) == {"agreement", "janus"}


def test_the_repulsion_s_features_should_not_measure():
    with pytest.warns(UserWarning, match="Div is measured with pixels, which the repulsion or --draw used"):
        load_scorers("some/if", div_features="pixels", repulsion=["pixels"])


def test_a_face_reader_belongs_to_its_classifier(tmp_path):
    reader = FaceReader.load()
    assert len(reader.weights) == 128
    with pytest.raises(ValueError, match="The detector of faces .*face.json is missing; fit it with"):
        FaceReader.load(tmp_path / "face.json")
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match="was fitted to another classifier"):
        FaceReader.load(classifier=tmp_path)
    broken = torch.full((1, 3, 64, 64), torch.nan)
    assert not reader.sees(HeadsClassifier.load(), broken).any()
    assert Scorers().face is None
