"""Prompts by view: sectors, words, and one embedding per row."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from rsd.heads.attributes import Camera
from rsd.heads.reading import read, unknown_words
from rsd.priors.latent import LatentPrior
from rsd.runs.prompts import read_prompts
from rsd.tasks.text_to_3d.options import PromptSettings
from rsd.tasks.text_to_3d.prompts import ViewPrompts, view_of, views_of, with_scene_words
from rsd.tasks.text_to_3d.scene.cameras import Cameras

DREAM = dict(guidance=20, guidance_convention="dreamfusion")


def cameras(azimuth, elevation=None):
    a = torch.tensor(azimuth, dtype=torch.float64)
    e = torch.zeros_like(a) if elevation is None else torch.tensor(elevation, dtype=torch.float64)
    return Cameras(a, e, torch.full_like(a, 8), torch.full_like(a, 22))


def test_the_sectors_are_those_of_the_heads_captions():
    settings = PromptSettings()
    for azimuth in range(-360, 361, 7):
        assert f"{view_of(settings, azimuth, 20)} view" == Camera(azimuth, 20).view
    assert view_of(settings, 0, 60) == "overhead"
    narrow = PromptSettings(front=30, back=10)
    assert [view_of(narrow, a, 0) for a in (0, 30, 31, 169, -170, 180)] == ["front", "front", "side", "side"] + [
        "back"
    ] * 2


def test_prompts_and_guidance(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    own = ViewPrompts(prior, "red", PromptSettings(view_prompts=("back=no dog",), negative_prompt="ugly", **DREAM))
    assert own.texts[0] == {"front": "red, front view", "side": "red, side view", "back": "no dog",
                         "overhead": "red, overhead view"}  # fmt: skip
    assert (
        own.conditions["red, side view"].guidance == 21 and own.conditions["red, side view"].negative_prompt == "ugly"
    )
    plain = ViewPrompts(prior, "red", PromptSettings(view_words=False, guidance=7.5, guidance_convention="diffusers"))
    assert set(plain.texts[0].values()) == {"red"} and plain.conditions["red"].guidance == 7.5
    unguided = ViewPrompts(prior, "red", PromptSettings(negative_prompt="ugly", **{**DREAM, "guidance": 0}))
    front = unguided.conditions["red, front view"]
    assert front.guidance == 1 and front.negative is None


def test_a_guess_is_thresholded_and_that_of_a_learned_score_is_not(tiny_pipeline):
    prompts = ViewPrompts(LatentPrior(tiny_pipeline()), "red", PromptSettings(threshold=0.9))
    rows = torch.tensor([[0, 1]])
    assert prompts.condition(cameras([0.0, 90.0]), rows).threshold == 0.9
    assert prompts.condition(cameras([0.0, 90.0]), rows, guided=False).threshold is None


@pytest.mark.filterwarnings("ignore:The prompt is longer")
def test_a_prior_over_heads_gets_no_attributes_that_a_view_hides(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline(), name="heads")  # its tokenizer reads letters, and little of this
    texts = ViewPrompts(prior, "a man with a blue mohawk and sunglasses", PromptSettings()).texts[0]
    assert texts == {
        "front": "a man with a blue mohawk and sunglasses, front view",
        "side": "a man with a blue mohawk and sunglasses, side view",
        "back": "a person with a blue mohawk, back view",
        "overhead": "a man with a blue mohawk and sunglasses, overhead view",
    }
    whole = ViewPrompts(prior, "a man with a blue hat", PromptSettings()).texts[0]  # no caption says that
    assert whole["back"] == "a man with a blue hat, back view"


@pytest.mark.filterwarnings("ignore:The prompt is longer")
def test_all_views_of_a_scene_get_its_words(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline(), name="heads")
    words = PromptSettings(scene_words="{pale|tan|brown} skin, gray background")
    found = ViewPrompts(prior, "a man with a blue mohawk and sunglasses", words, numbers=range(20)).texts
    skins = [re.search(r"(\w+) skin", texts["front"])[1] for texts in found]
    assert set(skins) == {"pale", "tan", "brown"} and len({tuple(skins[k : k + 3]) for k in range(0, 18, 3)}) > 1
    assert all(len(set(skins[k : k + 3])) == 3 for k in range(0, 18, 3))  # each comes again after all others
    assert found[0] == {
        "front": f"a man with a blue mohawk and sunglasses, {skins[0]} skin, gray background, front view",
        "side": f"a man with a blue mohawk and sunglasses, {skins[0]} skin, gray background, side view",
        "back": f"a person with a blue mohawk, {skins[0]} skin, gray background, back view",
        "overhead": f"a man with a blue mohawk and sunglasses, {skins[0]} skin, gray background, overhead view",
    }
    [third] = ViewPrompts(prior, "a man with a blue mohawk and sunglasses", words, numbers=[3]).texts
    assert third == found[3]  # a scene is the same alone
    others = ViewPrompts(prior, "a man with a blue mohawk and sunglasses", words, numbers=range(20), seed=1).texts
    assert others != found
    own = replace(words, view_prompts=("back=no dog",), view_words=False)
    [texts] = ViewPrompts(prior, "a man with tan skin, white background", own).texts
    assert texts["back"] == "no dog" and texts["front"] == "a man with tan skin, white background"
    assert ViewPrompts(prior, "", replace(own, scene_words="red")).texts[0]["front"] == "red"


@pytest.mark.parametrize("words", ["{tan|brown skin", "tan|brown skin", "{} skin", "tan skin,, red", "{a|} skin"])
def test_scene_words_that_cannot_be_read(words):
    with pytest.raises(ValueError, match="give words with commas between the parts and alternatives as"):
        PromptSettings(scene_words=words)


@pytest.mark.filterwarnings("ignore:The prompt is longer")
@pytest.mark.parametrize("rows", [[[0, 2], [1, 3]], [[0, 1], [2, 3]]])  # scenes, and views
def test_each_row_has_its_camera_s_words(tiny_pipeline, rows):
    prior = LatentPrior(tiny_pipeline())
    settings = PromptSettings(scene_words="{re|d}", **DREAM)
    words = [with_scene_words("red", settings, seed=0, number=number) for number in range(9)]
    other = next(number for number, text in enumerate(words) if text != words[0])
    assert {words[0], words[other]} == {"red, re", "red, d"}
    prompts = ViewPrompts(prior, "red", settings, numbers=[0, other])
    assert views_of(settings, cameras([170, 10])) == ["back", "front"]
    condition = prompts.condition(cameras([170, 10]), torch.tensor(rows))
    for view, word in enumerate(("back", "front")):
        for scene in range(2):
            row = condition.embeddings[rows[scene][view]]
            text = f"{words[[0, other][scene]]}, {word} view"
            assert torch.equal(row, prior.condition(text).embeddings[0])
    assert condition.guidance == 21 and len(condition.negative) == 1
    bare = prompts.condition(cameras([170, 10]), torch.tensor(rows), guided=False)
    assert bare.guidance == 1 and bare.negative is None and torch.equal(bare.embeddings, condition.embeddings)
    assert condition.pose is None
    poses = cameras([170, 10]).pose().flatten(1).float()
    for view, scene in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(bare.pose[rows[scene][view]], poses[view])


def test_cameras_below_the_horizon_have_words_if_all_above_it_are_overhead(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline(), name="heads-views")
    prior.posed = True
    low = ViewPrompts(prior, "a man", PromptSettings(overhead=0.0))
    camera = cameras([0.0])
    for elevation, view in ((-5.0, "front"), (5.0, "overhead")):
        asked = replace(camera, elevation=torch.full_like(camera.elevation, elevation))
        assert low._place(0.0, elevation).split()[0] == view
        assert low.condition(asked, torch.tensor([[0]])).embeddings.shape[0] == 1


def test_mistakes():
    with pytest.raises(ValueError, match='Unknown view "top".* There are: front, side, back, overhead'):
        PromptSettings(view_prompts=("top=x",))
    with pytest.raises(ValueError, match='Unknown guidance convention "mine".* There are: diffusers, dreamfusion'):
        PromptSettings(guidance_convention="mine")
    with pytest.raises(ValueError, match="must not exceed 180"):
        PromptSettings(front=100, back=90)


def test_the_held_out_prompts_have_no_view():
    prompts = read_prompts(Path(str(files("rsd.configs") / "text_to_3d" / "heads_prompts.txt")))
    assert len(set(prompts)) == 8
    for prompt in prompts:
        found = read(prompt)
        assert unknown_words(prompt) == [] and not found.contradicted and found.view is None, prompt
        assert 4 <= len(found.values) <= 5, prompt
