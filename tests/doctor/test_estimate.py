"""Time estimates: the counts of the packaged settings times a fake clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import rsd
from rsd.doctor.estimate import AROUND, ENOUGH, KINDS, PARTICLES, START, Kind, estimate, format_range, measure
from rsd.priors import load_prior
from rsd.tasks.inverse.methods import auto_method
from rsd.tasks.inverse.operators import make_operator

CONFIGS = Path(__file__).parents[2] / "configs"


class Clock:
    """A clock that advances only by the time that calls take."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def call(self, *seconds):
        left = list(seconds)

        def one():
            self.now += left.pop(0)

        return one, left


def test_a_pass_is_the_median_of_two_after_one_that_is_not_counted():
    clock = Clock()
    short, left = clock.call(50.0, 0.4, 0.6)
    assert measure({"short": short}, clock) == pytest.approx({"short": 0.5 / PARTICLES}) and not left
    long, left = clock.call(9.0, ENOUGH + 1, 7.0)  # so slow that once is enough
    assert measure({"long": long}, clock) == pytest.approx({"long": 2.0 / PARTICLES}) and left == [7.0]


def test_steps_times_calls_times_seconds():
    clock = Clock()
    calls = {"a": clock.call(1.0, 0.4, 0.4)[0], "b": clock.call(1.0, 0.8, 0.8)[0]}
    kind = Kind("x", steps=50, passes={"a": 2, "b": 0.5}, once={"b": 10}, share=0.5, particles=3)
    # 3 particles x (50 steps x (2 x 0.1 + 0.5 x 0.2) + 10 x 0.2) = 51 s of passes, half of the time
    low, high = estimate(kind, measure(calls, clock))
    assert (low, high) == pytest.approx((AROUND[0] * (START + 102), AROUND[1] * (START + 102)))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [((30, 60), "30 to 60 s"), ((2.25, 4.5), "2.2 to 4.5 s"), ((75, 150), "1.2 to 2.5 minutes"),
        ((700, 1400), "12 to 23 minutes"), ((5400, 10800), "1.5 to 3.0 hours"), ((4e5, 8e5), "111 to 222 hours")],
)  # fmt: skip
def test_ranges_for_people(seconds, says):
    assert format_range(*seconds) == says


def test_what_is_counted_is_what_the_packaged_settings_do():
    restore, image, scene = KINDS
    sections = [
        ("inverse/any_heads", "proximal-guidance"),
        ("text_to_image/heads", "vsd"),
        ("text_to_3d/heads_views", "sds"),
    ]
    files = [(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), method) for name, method in sections]
    own = [{**held.get("default", {}), **held["methods"][method]} for held, method in files]
    assert [(kind.particles, kind.steps) for kind in KINDS] == [(one["particles"], one["steps"]) for one in own]
    assert auto_method("inpaint_half_face", "heads") == "proximal-guidance"
    assert "gamma" not in own[0] and "guidance" not in own[0]  # nothing repels
    # VSD: two passes of guidance; above sample_below also the learned score and the repulsion
    assert own[1]["guidance"] != 1 and own[1]["score"] == "lora" and own[1]["window"][0] < own[1]["sample_below"]
    low, high = own[1]["t_range"]
    share = round((high - 1000 * own[1]["sample_below"]) / (high - low), 2)
    assert image.passes == pytest.approx({"unet": 2 + share, **dict.fromkeys(list(image.passes)[1:], share)})
    assert own[2]["guidance"] != 1 and own[2]["gamma"] == 0 and own[2]["optimiser"] == "fit"
    views = own[2]["views"]
    assert scene.passes == {"unet": 2 * views, "decoder": views, "encoder": views} and scene.once == {"encoder": views}


def test_a_restoration_s_network_calls(tiny_folder):
    restore = KINDS[0]
    prior, f = load_prior(str(tiny_folder("epsilon"))), make_operator("inpaint_half_face", size=16)
    rsd.restore(torch.zeros(1, 3, 16, 16), f, prior=prior, particles=2, steps=3)
    assert restore.passes == {"unet with gradient": 1, "decoder": 1, "encoder": 2} and restore.once == {"decoder": 1}
    assert prior.calls == {
        "unet_forward": 2 * 3, "unet_backward": 2 * 3, "decoder_forward": 2 * (3 + 1), "encoder_forward": 2 * 3 * 2,
    }  # fmt: skip


def test_a_run_s_network_calls():
    """The counts equal those in metrics.json of a text-to-image run (20 steps), and of one scene (12 steps)."""
    _, image, scene = KINDS
    unet = image.passes["unet"] + image.passes["unet with gradient"]
    assert unet * 4 * 20 == pytest.approx(208, rel=0.02)
    assert image.passes["unet with gradient"] * 4 * 20 == pytest.approx(24, rel=0.1)  # 6 of 20 steps: 30%, not 28
    assert image.passes["decoder with gradient"] * 4 * 20 == pytest.approx(24, rel=0.1)
    counts = {name: 12 * count + scene.once.get(name, 0) for name, count in scene.passes.items()}
    assert counts == {"unet": 288, "decoder": 144, "encoder": 156}
