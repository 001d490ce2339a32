"""Priors that read the camera's pose: a UNet with a class embedding of 16 numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from rsd.priors.latent import POSE, LatentPrior
from rsd.tasks.text_to_3d.options import PromptSettings
from rsd.tasks.text_to_3d.prompts import ViewPrompts
from rsd.tasks.text_to_3d.scene.cameras import Cameras


def cameras(azimuths):
    """Cameras at these azimuths, at elevation 0, distance 2 and fov 30."""
    flat = torch.ones(len(azimuths), dtype=torch.float64)
    return Cameras(torch.tensor(azimuths, dtype=torch.float64), 0 * flat, 2 * flat, 30 * flat)


@pytest.fixture
def posed(tiny_pipeline):
    """Return a random pipeline whose UNet reads poses, or other class labels."""

    def make(**config):
        pipe = tiny_pipeline()
        torch.manual_seed(0)
        told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": POSE, **config}
        held = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
        pipe.unet = UNet2DConditionModel(**{**held, **told})
        return pipe

    return make


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_unet_gets_each_picture_s_pose_in_both_halves_of_guidance(posed, guidance):
    prior = LatentPrior(posed())
    assert prior.posed
    z, poses = torch.randn(3, *prior.latent_shape), cameras([0, 90, 200]).pose().flatten(1).float()
    condition = replace(prior.condition("red dog", "", guidance), pose=poses)
    text, none = (prior.condition(words).embeddings.expand(3, -1, -1) for words in ("red dog", ""))
    t = torch.full((3,), 400)
    given, free = (prior.unet(z, t, e, class_labels=poses).sample for e in (text, none))
    expected = given if guidance == 1 else free + guidance * (given - free)
    torch.testing.assert_close(prior.epsilon(z, 400, condition), expected, rtol=0, atol=1e-5)
    part = prior.epsilon(z[1:2], 400, condition.rows(1, 2))
    torch.testing.assert_close(part, expected[1:2], rtol=0, atol=1e-5)
    one = replace(condition, pose=poses[2:])  # one camera for all
    torch.testing.assert_close(prior.epsilon(z, 400, one)[2], expected[2], rtol=0, atol=1e-5)
    assert (prior.epsilon(z, 400, one)[0] - expected[0]).abs().max() > 1e-3


@torch.no_grad()
def test_without_a_pose_it_gets_zeros(posed):
    prior = LatentPrior(posed())
    z, text = torch.randn(2, *prior.latent_shape), prior.condition("").embeddings.expand(2, -1, -1)
    expected = prior.unet(z, torch.tensor([7, 7]), text, class_labels=torch.zeros(2, POSE)).sample
    torch.testing.assert_close(prior.epsilon(z, 7), expected, rtol=0, atol=1e-5)


def test_a_prior_that_reads_no_pose_ignores_it(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    z = torch.randn(1, *prior.latent_shape)
    with torch.no_grad():
        told = replace(prior.condition("red"), pose=torch.ones(1, POSE))
        assert not prior.posed and torch.equal(prior.epsilon(z, 7, told), prior.epsilon(z, 7, prior.condition("red")))


@pytest.mark.parametrize(
    "config",
    [
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
        {"class_embed_type": None, "projection_class_embeddings_input_dim": None, "num_class_embeds": 5},
        {"class_embed_type": "timestep", "projection_class_embeddings_input_dim": None},
    ],
)
def test_other_class_labels_are_refused(posed, config):
    with pytest.raises(ValueError, match='prior "mine" wants class labels; it must take none, or the 16'):
        LatentPrior(posed(**config), name="mine")


@pytest.mark.filterwarnings("ignore:The prompt is longer")
def test_a_prior_over_heads_that_reads_poses_is_told_what_each_camera_sees(posed):
    prior = LatentPrior(posed(), name="heads-views")
    prompts = ViewPrompts(prior, "a man with a left earring and a smile", PromptSettings())
    assert len(prompts.texts[0]) == 13  # every 30 degrees, and overhead
    assert prompts.texts[0]["front 0"] == "a man with a smile and a left earring, front view"
    assert prompts.texts[0]["side 90"] == "a person with a left earring, side view"
    assert prompts.texts[0]["side 270"] == "a person, side view"
    at = cameras([100.0, -80.0, 344.0])
    condition = prompts.condition(at, torch.arange(3)[None])
    poses = at.pose().flatten(1).float()
    assert torch.equal(condition.pose, poses)
    for row, text in enumerate(("side 90", "side 270", "front 330")):
        told = prompts.conditions[prompts.texts[0][text]]
        assert torch.equal(condition.embeddings[row], told.embeddings[0])
