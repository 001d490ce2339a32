"""The Python functions of the drawing heads use the command line's settings and give the same pictures."""

from __future__ import annotations

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.media import read_image, to_uint8


@pytest.mark.parametrize(("method", "changes"), [("sds", {"gamma": 5.0}), ("particle-guidance", {})])
def test_pictures_are_the_command_s(method, changes, tmp_path):
    seen = []
    flags = [f"--{name}={value}" for name, value in changes.items()]
    common = ["-n", "2", "--steps", "2", "--out", str(tmp_path / "out"), "--method", method]
    assert main(["text-to-image", "a man with a beard", *common, *flags]) == 0
    drawn = rsd.text_to_image(
        "a man with a beard", method=method, particles=2, steps=2, progress=lambda r: seen.append(r.step), **changes
    )
    for k, image in enumerate(drawn.images):
        written = read_image(tmp_path / "out" / "particles" / f"{k:02d}.png")
        assert to_uint8(image[None]).tolist() == to_uint8(written).tolist()
    assert seen == [0, 1] and drawn.source == f"heads.yaml: {method}"


def test_scenes_are_the_command_s(tmp_path, heads_pixels):
    flags = ["-n", "2", "--steps", "2", "--views", "1", "--turntable", "3", "--mesh-resolution", "8"]
    flags += ["--samples", "8", "--fine", "0", "--prior", "heads-pixels"]
    assert main(["text-to-3d", "a bald man", *flags, "--out", str(tmp_path / "out")]) == 0
    made = rsd.text_to_3d("a bald man", prior="heads-pixels", particles=2, steps=2, views=1, samples=8, fine=0)
    assert made.images.shape == (2, 3, 32, 32) and made.source == "heads_pixels.yaml: sds"
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "out" / "scenes.safetensors")
    state = made.gallery.scenes[1].state_dict()
    assert all(torch.equal(value, kept[f"scenes/[1]/{name}"]) for name, value in state.items())


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
    [
        (("a man",), {"gama": 3}, 'Unknown setting "gama". Did you mean "gamma"?'),
        (("a man",), {"method": "dps"}, "dps"),
        ((3,), {}, "prompt is of type int; give text"),
        (("a man",), {"steps": 0}, "steps is 0; give 1 or more"),
        (("a man",), {"method": "sds", "lora_rank": 3}, "lora-rank goes with"),
        (("a man",), {"prior": "haeds"}, 'Unknown prior "haeds". Did you mean "heads"?'),
    ],
)
def test_slips_are_reported_before_any_model_is_loaded(arguments, changes, told, monkeypatch):
    monkeypatch.setattr("rsd.priors.base.check_dtype", lambda *a: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=told):
        rsd.text_to_image(*arguments, **changes)
