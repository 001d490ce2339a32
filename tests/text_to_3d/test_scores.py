"""The figures of scenes, on real renders of a known head with the shipped classifier: what they say must be so."""

from __future__ import annotations

import pytest
import torch

from rsd.heads.attributes import ATTRIBUTES, Camera, Head, caption
from rsd.heads.classifier import HeadsClassifier
from rsd.heads.face import FaceReader
from rsd.heads.render import render
from rsd.tasks.text_to_3d.cameras import CameraSettings, orbit
from rsd.tasks.text_to_3d.scores import Scorers, load_scorers, score, shown

PLAIN = {a: options[0] for a, options in ATTRIBUTES.items()}
HEADS = [
    {**PLAIN, "hair": "short", "hair_color": "red", "glasses": "round", "mouth": "smile"},
    {**PLAIN, "hair": "mohawk", "hair_color": "blue", "beard": "full", "mouth": "open", "skin": "brown"},
]
AROUND = orbit(CameraSettings(), 12)


@pytest.fixture(scope="module")
def scorers():
    return load_scorers("heads")


@pytest.fixture(scope="module")
def pictures():
    """The two heads from the 12 cameras, [2, 12, 3, 64, 64]."""
    drawn = [
        [render(Head(values, Camera(float(a), float(e)), (0.2, 0.4)), 64, 2) for a, e in zip(*angles, strict=True)]
        for values in HEADS
        for angles in [(AROUND.azimuth, AROUND.elevation)]
    ]
    images = torch.stack([torch.stack([torch.from_numpy(x) for x in views]) for views in drawn])
    return images.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def test_a_true_head_agrees_and_has_no_face_behind(pictures, scorers):
    told = {"hair", "hair_color", "glasses", "mouth", "person"}
    prompt = caption(HEADS[0], told)
    found = score(pictures[:1], AROUND, prompt, scorers)
    assert found["agreement"] == 1 and found["agreement_scenes"]["mean"] == 1
    assert set(found["agreement_attributes"]) == told
    assert found["agreement_views"]["180"] == 1  # of the hair: the rest is not seen from there
    assert found["janus"] == 0 and found["faces"]["0"] == found["faces"]["30"] == found["faces"]["330"] == 1
    assert found["div"] is None and set(found["reasons"]) == {"div"} and found["face_front"] == 1
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
    """Cameras 0, 1 and 11 see the front, 5 to 7 the back. Of the scenes one has faces all around, one a face in one of
    three front views, and one is a head turned away."""
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
    """Two heads that differ from one camera alone have a twelfth of the Div that they have there."""
    twins = pictures[:1].repeat(2, 1, 1, 1, 1)
    assert score(twins, AROUND, "a man", scorers)["div"] == pytest.approx(0, abs=1e-6)
    twins[1, 0] = pictures[1, 0]
    there = score(twins[:, :1], AROUND[:1], "a man", scorers)
    found = score(twins, AROUND, "a man", scorers)
    assert found["div"] == pytest.approx(there["div"] / 12, abs=1e-6) and there["div"] > 0.05
    assert there["janus"] is None and there["reasons"]["janus"] == "no camera sees the back"
    assert there["face_front"] == 1


def test_what_is_not_told_or_not_seen_has_a_reason(pictures, scorers):
    found = score(pictures, AROUND, "a dog", scorers)
    assert found["agreement"] is None and "tells nothing that heads have" in found["reasons"]["agreement"]
    behind = orbit(CameraSettings(), 2)[1:]
    found = score(pictures[:, 6:7], behind, "a smile", scorers)
    assert found["agreement"] is None and "nothing that a front view shows" in found["reasons"]["agreement"]
    assert found["agreement_views"] == {"180": None} and found["janus"] is found["face_front"] is None
    assert found["reasons"]["janus"].startswith("no camera sees the front") and found["faces"] == {"180": 0}


def test_what_a_camera_shows():
    told = {"mouth": "smile", "hair": "long", "left_ear": "ring"}
    assert shown(told, 0, 0) == [True, True, True]
    assert shown(told, 180, 10) == [False, True, False]
    assert shown(told, 90, 0) == [False, True, True] and shown(told, 270, 0) == [False, True, False]


def test_other_priors_have_no_attributes():
    found = load_scorers("some/if", div_features="pixels")
    assert found.judge is None and found.features_name == "pixels"
    images = torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figures = score(images, AROUND, "a man", found)
    assert figures["div"] > 0 and figures["agreement"] is None and figures["janus"] is None
    assert set(figures["reasons"]) == {"agreement", "janus"}


def test_the_repulsion_s_features_should_not_measure():
    with pytest.warns(UserWarning, match="Div is measured on pixels, which the repulsion used"):
        load_scorers("some/if", div_features="pixels", repulsion="pixels")


def test_a_face_reader_belongs_to_its_classifier(tmp_path):
    reader = FaceReader.load()
    assert len(reader.weights) == 128
    with pytest.raises(ValueError, match="There is no .*face.json, which tells fronts from backs; fit it with"):
        FaceReader.load(tmp_path / "face.json")
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match="was fitted to another classifier"):
        FaceReader.load(classifier=tmp_path)
    broken = torch.full((1, 3, 64, 64), torch.nan)
    assert not reader.sees(HeadsClassifier.load(), broken).any()
    assert Scorers().face is None
