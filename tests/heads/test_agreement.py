"""Which readings of a picture count, computed by hand and on rendered heads from all sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rsd.heads.agreement import Readings, agreement, readings
from rsd.heads.attributes import ATTRIBUTES, ON_FACE, Camera, Head, sample_head, visible
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.heads.data import SPLITS
from rsd.heads.render import render


def test_what_sits_on_a_face():
    assert set(ON_FACE) == {
        "person", "mouth", "glasses", "beard", "left_eye", "right_eye", "left_cheek", "right_cheek"
    }  # fmt: skip


def test_a_reading_counts_where_the_classifier_is_sure_and_a_face_is_seen():
    smile, short = ATTRIBUTES["mouth"].index("smile"), ATTRIBUTES["hair"].index("short")
    mouth, hair = torch.zeros(4, 3), torch.zeros(4, 6)
    mouth[:, smile] = torch.tensor([0.9, 0.79, 0.9, torch.nan])
    mouth[:, 1] = torch.tensor([0.1, 0.21, 0.1, torch.nan])
    hair[:, short], hair[3] = 0.95, torch.nan
    told = {"hair": "short", "mouth": "smile"}
    found = readings({"mouth": mouth, "hair": hair}, told, torch.tensor([True, True, False, False]))
    assert found.right.tolist() == [[True, True], [True, True], [True, True], [False, False]]
    assert found.read.tolist() == [[True, True], [True, False], [True, False], [True, True]]
    unknown = readings({"mouth": mouth, "hair": hair}, told, None)  # nobody looked for faces
    assert unknown.read[:, 1].tolist() == [True, False, True, True]


def of(right, faced, sure, names=("hair", "mouth")):
    return Readings(list(names), *(torch.tensor(x, dtype=torch.bool) for x in (right, faced, sure)))


def test_an_attribute_that_is_hardly_ever_read_is_not_averaged():
    """The hair is read in all four pictures, the mouth in one, in which it is right."""
    found = of([[1, 1], [1, 1], [1, 1], [0, 1]], [[1, 1]] * 4, [[1, 1], [1, 0], [1, 0], [1, 0]])
    told = agreement(found)
    assert told.value == 0.75 and told.attributes == {"hair": 0.75, "mouth": None}
    assert told.read == {"hair": 1.0, "mouth": 0.25} and told.reason == "mouth: the classifier is not sure"
    assert told.describe() == "0.75 of hair (not mouth: the classifier is not sure)"


def test_half_is_enough_and_what_is_not_read_weighs_nothing():
    found = of([[1, 1], [1, 0], [0, 0], [0, 0]], [[1, 1], [1, 1], [1, 0], [1, 0]], [[1, 1]] * 4)
    told = agreement(found)
    assert told.attributes == {"hair": 0.5, "mouth": 0.5} and told.value == 0.5 and not told.unread
    assert int(told.counted.sum()) == 6 and told.describe() == "0.50 of hair, mouth"


def test_what_is_out_of_view_is_not_missed():
    """The mouth is in view only in the first picture, in which no face is seen; then in none."""
    found = of([[1, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 1]] * 2)
    told = agreement(found, torch.tensor([[True, True], [True, False]]))
    assert told.read == {"hair": 1.0, "mouth": 0.0} and told.unread == {"mouth": "no face is seen"}
    gone = agreement(found, torch.tensor([[True, False], [True, False]]))
    assert gone.read == {"hair": 1.0} and not gone.unread
    none = agreement(of([[1]], [[0]], [[1]], ["mouth"]))
    assert none.value is None and none.describe() == "none (mouth: no face is seen)"


@pytest.fixture(scope="module")
def drawn():
    """Return 24 held-out heads, 18 from the front and 6 from behind, and their pictures."""
    rng = np.random.default_rng([SPLITS["validation"], 5])
    heads = []
    for k in range(24):
        head = sample_head(rng, "all")
        azimuth = rng.uniform(-45, 45) + 180 * (k % 4 == 3)
        heads.append(Head(head.values, Camera(azimuth, head.camera.elevation), head.light))
    images = [torch.from_numpy(render(head, 64, 2)) for head in heads]
    return heads, torch.stack(images).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.mark.parametrize("size", [64, 32])
def test_renders_are_read_and_rightly_and_backs_have_no_faces(drawn, size):
    heads, images = drawn
    if size < 64:
        images = F.interpolate(F.interpolate(images, size=(size, size), mode="area"), size=(64, 64), mode="bicubic")
    judge = HeadsClassifier.load()
    answers, faces = judge.probabilities(images), FaceReader.load().sees(judge, images)
    shown = counted = right = 0
    for k, head in enumerate(heads):
        found = readings({a: p[k : k + 1] for a, p in answers.items()}, head.values, faces[k : k + 1])
        seen = visible(head.values, head.camera)
        there = found.read[0] & torch.tensor([seen[a] for a in found.names])
        shown += sum(seen.values())
        counted += int(there.sum())
        right += int(found.right[0][there].sum())
        if head.camera.view == "back view":
            assert not any(bool(found.read[0, found.names.index(a)]) for a in ON_FACE)
    assert counted / shown > 0.95 and right / counted > 0.99
