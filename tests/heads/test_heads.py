import numpy as np
import pytest
import torch

from rsd.cli import main
from rsd.heads.agreement import open_values
from rsd.heads.attributes import (
    ATTRIBUTES,
    PROBABILITIES,
    Camera,
    Head,
    caption,
    sample_mentioned,
    sample_values,
    visible,
)
from rsd.heads.command import from_json, to_json
from rsd.heads.data import head_at, head_from_row, make_shard
from rsd.heads.reading import vocabulary
from rsd.heads.render import BACKGROUND, SHIRT, render

PLAIN = {
    "person": "man", "skin": "pale", "hair": "short", "hair_color": "black", "glasses": "none", "mouth": "straight",
    "beard": "none", "left_eye": "open", "right_eye": "open", "left_ear": "plain", "right_ear": "plain",
    "left_cheek": "plain", "right_cheek": "plain", "shirt": "blue", "background": "white",
}  # fmt: skip


def plain(camera=Camera(), **changes):
    return Head({**PLAIN, **changes}, camera, (0.0, 0.4))


def test_a_frontal_plain_head_is_mirror_symmetric():
    picture = render(plain()).astype(int)
    assert np.abs(picture - picture[:, ::-1]).max() <= 1


def test_background_and_shirt_have_their_colours():
    picture = render(plain(background="peach", shirt="red"))
    np.testing.assert_allclose(picture[2, 2] / 255, BACKGROUND["peach"], atol=0.003)
    bottom = picture[-2, 32] / 255
    ratio = bottom / np.array(SHIRT["red"])
    assert ratio.std() < 0.05 and 0.5 < ratio.mean() < 1.05


@pytest.mark.parametrize(("attribute", "value"), [("left_eye", "patch"), ("left_ear", "ring"), ("left_cheek", "red")])
def test_one_sided_attributes_change_only_their_side(attribute, value):
    base, other = render(plain()).astype(int), render(plain(**{attribute: value})).astype(int)
    changed = np.abs(base - other).max(-1) > 20
    assert changed[:, 34:].sum() >= 15
    if attribute != "left_eye":  # the patch's strap runs round the head
        assert changed[:, :31].sum() == 0


def test_nobody_sees_a_face_from_behind():
    seen = visible(PLAIN, Camera(azimuth=180))
    assert not any(seen[a] for a in ("mouth", "glasses", "left_eye", "right_eye", "left_cheek", "person"))
    assert seen["hair"] and seen["shirt"]
    left = visible(PLAIN, Camera(azimuth=90))
    assert left["left_ear"] and left["left_cheek"] and not left["right_ear"] and not left["right_cheek"]


def test_view_words():
    assert [Camera(azimuth=a).view.split()[0] for a in (0, -45, 60, -135, 136, 180)] == [
        "front", "front", "side", "side", "back", "back"
    ]  # fmt: skip


def test_a_caption_mentions_the_given_attributes():
    values = {**PLAIN, "hair": "long", "hair_color": "red", "glasses": "round", "person": "woman"}
    told = {"person", "hair", "hair_color", "glasses", "shirt"}
    text = caption(values, told, "side view")
    assert text == "a woman with long red hair and round glasses, blue shirt, side view"
    assert caption({**values, "hair": "bald"}, {"hair"}) == "a bald person"


def test_captions_mention_a_random_part_of_the_visible_attributes():
    head, rng = head_at("train", 3), np.random.default_rng(0)
    drawn = [sample_mentioned(head, rng) for _ in range(400)]
    seen = {a for a, s in visible(head.values, head.camera).items() if s}
    assert all(told <= seen for told, _ in drawn)
    shares = [len(told) / len(seen) for told, _ in drawn]
    assert 0.6 < np.mean(shares) < 0.7 and min(shares) < 0.3 and max(shares) == 1
    assert len({frozenset(told) for told, _ in drawn}) > 200
    assert {view for _, view in drawn} == {None, head.camera.view}


def test_captions_with_a_view_may_mention_what_it_hides():
    values, rng = {**PLAIN, "hair": "long", "glasses": "sun"}, np.random.default_rng(0)
    head = Head(values, Camera(azimuth=180), (0.0, 0.5))
    drawn = [sample_mentioned(head, rng, whole=0.5) for _ in range(400)]
    hidden = [told for told, view in drawn if "glasses" in told]
    assert 0.1 < len(hidden) / 400 < 0.35  # 0.65 tell the view, half of those the whole, of which 0.65
    assert all(view == "back view" for told, view in drawn if "glasses" in told)
    assert not any(told & {"left_eye", "right_eye"} for told, _ in drawn)  # no view shows them behind sunglasses


def test_numbered_heads_are_always_the_same_and_splits_differ():
    assert head_at("test", 5) == head_at("test", 5)
    assert head_at("test", 5) != head_at("train", 5)
    assert head_at("test", 5, "frontal").camera.azimuth == 0


def test_shards_hold_what_they_say():
    shard = make_shard("validation", 0, count=3, size=16)
    for k in range(3):
        head = head_from_row(shard["heads"][k])
        assert head.values == head_at("validation", k).values
        assert np.abs(render(head, 16).astype(int) - shard["images"][k]).max() <= 2


def test_attributes_are_independent_across_the_midline():
    rng = np.random.default_rng(0)
    draws = [sample_values(rng) for _ in range(2000)]
    left, right = (np.array([d[f"{s}_ear"] == "ring" for d in draws]) for s in ("left", "right"))
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.06
    assert all(d["person"] == "man" for d in draws if d["beard"] == "full")


def test_values_are_drawn_as_numpy_chooses():
    """Other draws would change every numbered head, and with them the data that the built-in models were trained on."""
    ours, numpys = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(50):
        chosen = {a: str(numpys.choice(options, p=PROBABILITIES.get(a))) for a, options in ATTRIBUTES.items()}
        assert sample_values(ours) == {**chosen, **({"person": "man"} if chosen["beard"] == "full" else {})}


def test_json_round_trip_and_its_errors():
    head = head_at("test", 1)
    again = from_json(to_json(head))
    assert again.values == head.values and again.camera == head.camera
    for text in ("", "[]", '{"person": "robot"}', to_json(head).replace(head["skin"], "plaid")):
        with pytest.raises(ValueError, match="does not describe a head"):
            from_json(text)


def test_the_half_face_box_hides_exactly_the_left_side():
    def measure(x):
        keep = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        keep[..., 19:56, 31:56] = False
        return x.masked_fill(~keep, 0)

    left_open = open_values(plain(), measure)
    hidden = {a for a, values in left_open.items() if len(values) > 1}
    assert hidden >= {"left_cheek", "left_ear"} and not hidden & {"right_cheek", "right_ear", "hair", "shirt", "skin"}
    assert left_open["left_cheek"] == set(ATTRIBUTES["left_cheek"])
    assert all(len(v) == 1 for v in open_values(plain(), lambda x: x).values())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--out", "taken"], "The output folder taken is a file; choose another --out."),
        (["--out", "new", "--number", "0"], "number is 0; give 1 or more."),
        (["--out", "new", "--size", "7"], "size is 7; give 8 or more."),
        (["--out", "new", "--first", "-1"], "first is -1; give 0 or more."),
    ],
)
def test_bad_values_are_reported_in_one_sentence(tmp_path, flags, told, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert main(["heads", *flags]) == 2
    assert capsys.readouterr().err == f"rsd: {told}\n" and not (tmp_path / "new").exists()


def test_help_lists_the_words_that_notes_about_prompts_send_people_to(capsys):
    with pytest.raises(SystemExit):
        main(["heads", "--help"])
    assert vocabulary() in " ".join(capsys.readouterr().out.split())
