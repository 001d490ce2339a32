"""The prior of views, `heads-views`: its data, its training, and its weights in the package."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from rsd import hub
from rsd.heads.attributes import Camera, Head
from rsd.heads.render import render
from rsd.priors import family, image_size, is_latent, load_prior, over_heads
from rsd.priors.index import POSED
from scripts.heads import views
from scripts.heads.__main__ import _ship_some
from scripts.heads.evaluate import AzimuthReader

HEADS = hub.BUILT_IN / "latent"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(views, "SHARD", 4)
    monkeypatch.setattr(views, "FIRST_SHARDS", 1)
    monkeypatch.setattr(views, "STEPS_PER_SHARD", 1)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_poses_are_those_of_the_cameras_of_scenes():
    """Columns: right, up, back, and the position at distance 1. From the head's left ear, right is its back."""
    pose = views.poses([Head({}, Camera(90.0, 0.0)), Head({}, Camera(0.0, 30.0))]).view(2, 4, 4)
    expected = torch.tensor([[0.0, 0, 1, 1], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(pose[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pose[1, :3, 3], torch.tensor([0, 0.5, 0.75**0.5]), rtol=0, atol=1e-6)


def test_heads_are_seen_from_all_sides_and_more_often_from_the_front():
    heads = [views.draw_head("train", k) for k in range(2000)]
    seen = Counter(head.camera.view for head in heads)
    # Front: 30% within 50 degrees, of which 90% are within 45, and a quarter of the others; back a quarter of these.
    assert abs(seen["front view"] / 2000 - (0.3 * 0.9 + 0.7 / 4)) < 0.04
    assert abs(seen["back view"] / 2000 - 0.7 / 4) < 0.04
    assert heads[5] == views.draw_head("train", 5) != views.draw_head("test", 5)


def test_training_resumes_to_the_bit_and_the_weights_make_a_built_in_prior(tmp_path, monkeypatch):
    def run(out, steps):
        return views.train(HEADS, out, steps, shards=2, batch=2, cooldown=0)

    once = run(tmp_path / "once", 2)
    run(tmp_path / "pieces", 1)
    pieces = run(tmp_path / "pieces", 2)
    assert all(torch.equal(a, b) for a, b in zip(once.unet.parameters(), pieces.unet.parameters(), strict=True))
    exported, step = views.export(HEADS, tmp_path / "once")
    assert step == 2 and torch.equal(exported.unet.conv_in.weight, once.unet.conv_in.weight)

    weights = tmp_path / "weights"
    weights.mkdir()
    for part in hub.BUILT_IN.iterdir():
        if part.name != "views":
            (weights / part.name).symlink_to(part)
    _ship_some(once, weights, POSED)
    assert {part.name for part in (weights / "views").iterdir()} == {"model_index.json", "scheduler", "unet"}
    monkeypatch.setattr(hub, "BUILT_IN", weights)
    prior, heads = load_prior("heads-views"), load_prior("heads")
    assert prior.posed and not heads.posed
    assert over_heads("heads-views") and family("heads-views") == "heads" and is_latent("heads-views")
    assert image_size("heads-views") == 64 and prior.latent_shape == heads.latent_shape
    assert torch.equal(prior.condition("a bald man").embeddings, heads.condition("a bald man").embeddings)


def test_an_azimuth_is_read_from_a_picture():
    """From pictures of one head from all sides, shown others: a linear reader is right within some degrees."""
    from transformers import ResNetForImageClassification

    judge = ResNetForImageClassification.from_pretrained(hub.BUILT_IN / "classifier", dtype=torch.float32).eval()
    heads = [views.draw_head("train", k) for k in range(400)]
    azimuths = np.array([head.camera.azimuth for head in heads])
    pictures = np.stack([render(head) for head in heads])
    reader = AzimuthReader(judge, pictures[:360], azimuths[:360])
    errors = np.abs((reader(pictures[360:]) - azimuths[360:] + 180) % 360 - 180)
    assert np.median(errors) < 25


@torch.no_grad()
def test_the_weights_in_the_package_know_where_the_camera_stands():
    """On held-out heads the right poses explain the noise better than those of other heads, or none."""
    prior = load_prior("heads-views")
    heads = [views.draw_head("test", k) for k in range(16)]
    pictures = torch.from_numpy(np.stack([render(head) for head in heads])).permute(0, 3, 1, 2).float() / 127.5 - 1
    z, poses = prior.encode(pictures), views.poses(heads)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = prior.schedule.coefficients(600, z)

    def error(pose):
        condition = replace(prior.condition(""), pose=pose)
        return float((prior.epsilon(alpha * z + sigma * noise, 600, condition) - noise).square().mean())

    right, other, none = error(poses), error(poses.roll(1, 0)), error(torch.zeros_like(poses))
    assert right < 0.8 * other and right < 0.97 * none
