"""Prompts are parsed as captions are written."""

from __future__ import annotations

import numpy as np
import pytest

from rsd.heads.attributes import ATTRIBUTES, caption, sample_mentioned
from rsd.heads.data import head_at
from rsd.heads.reading import known_words, read, unknown_words, unread_words, vocabulary


def test_reading_is_the_inverse_of_writing():
    rng = np.random.default_rng(0)
    silent = 0
    for k in range(500):
        head = head_at("test", k)
        told, view = sample_mentioned(head, rng)
        found = read(caption(head.values, told, view))
        unsaid = told - set(found.values)
        silent += len(unsaid)
        assert unread_words(caption(head.values, told, view)) == []
        # a bald head's hair colour is told by its beard alone
        assert not unsaid or (unsaid == {"hair_color"} and head["hair"] == "bald" and "beard" not in told)
        assert found.values == {a: head[a] for a in ATTRIBUTES if a in told - unsaid}
        assert found.view == view and not found.contradicted
        assert caption(head.values, set(found.values), found.view) == caption(head.values, told, view)
    assert silent < 10


def test_every_value_alone_is_read():
    values = {a: options[0] for a, options in ATTRIBUTES.items()}
    for attribute, options in ATTRIBUTES.items():
        for value in options:
            hair = "bald" if attribute == "hair" and value == "bald" else "short"
            head = {**values, "hair": hair, attribute: value}
            assert read(caption(head, {attribute})).values == {attribute: value}


@pytest.mark.parametrize(
    ("prompt", "values"),
    [
        ("", {}),
        ("A WOMAN, with  LONG red hair", {"person": "woman", "hair": "long", "hair_color": "red"}),
        ("a woman with red long hair", {"person": "woman", "hair": "long", "hair_color": "red"}),
        ("blue background, a person with a blue right cheek", {"background": "blue", "right_cheek": "blue"}),
        ("a man with no red beard", {"person": "man", "beard": "none"}),
        ("no sunglasses, no smile", {}),
        ("a person with no left eye patch", {"left_eye": "open"}),
        ("a right eye patch and no right earring", {"right_eye": "patch", "right_ear": "plain"}),
        ("a red-haired mandarin in a hairy shirt", {}),
        ("glasses", {}),
    ],
)
def test_other_sentences(prompt, values):
    assert read(prompt).values == values


def test_contradicted_attributes_have_no_value():
    found = read("a bald man with long red hair, front view, back view")
    assert found.values == {"person": "man", "hair_color": "red"} and found.contradicted == {"hair"}
    assert found.view is None and "hair" not in found.open
    assert read("no glasses, round glasses").contradicted == {"glasses"}


def test_what_a_prompt_leaves_open_from_where_it_is_seen():
    found = read("a woman with long red hair and round glasses")
    assert set(found.open) == set(ATTRIBUTES) - {"person", "hair", "hair_color", "glasses", "beard"}  # women have none
    assert "beard" in read("a person").open and "person" not in read("a person with a beard").open
    assert found.seen == ["person", "hair", "hair_color", "glasses"]
    sun = read("a man with sunglasses")
    assert not {"left_eye", "right_eye"} & set(sun.open)
    patch = read("a man with sunglasses and a left eye patch")
    assert patch.values["left_eye"] == "patch" and "left_eye" not in patch.seen
    assert "hair_color" not in read("a bald woman with no beard").open
    assert "hair_color" in read("a bald man with a beard").open
    back = read("a woman with long hair, back view")
    assert set(back.open) == {"skin", "hair_color", "shirt", "background"} and back.seen == ["hair"]
    side = read("a person, side view")  # which side is not told
    assert not {"left_ear", "right_ear", "left_cheek"} & set(side.open) and "shirt" in side.open


def test_words_that_no_caption_has():
    assert {"a", "an", "with", "and", "no", "person", "man", "bald", "afro", "view", "peach"} <= known_words()
    assert len(known_words()) < 70
    rng = np.random.default_rng(1)
    for k in range(100):
        head = head_at("train", k)
        assert unknown_words(caption(head.values, *sample_mentioned(head, rng))) == []
    assert unknown_words("A dragon with red hair, 4K dragon's eye 猫") == ["dragon", "4k", "s", "猫"]


def test_the_vocabulary_uses_known_words_and_names_every_value():
    text = vocabulary()
    assert unknown_words(text) == []
    for a in ("skin", "hair", "hair_color", "shirt", "background", "mouth", "person"):
        assert all(value in text for value in ATTRIBUTES[a]), a


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a woman with a green bun and round glasses, brown skin", ["green"]),
        ("long  green hair, a man with a ROUND face", ["long", "green", "round"]),
        ("red  long hair, no red beard, no glasses", []),
    ],
)
def test_a_value_of_nothing_that_is_known_is_reported(prompt, words):
    assert unread_words(prompt) == words
