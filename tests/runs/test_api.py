"""The Python functions of the drawing heads use the command line's settings and give the same pictures."""

from __future__ import annotations

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.media import read_image, to_uint8
from rsd.priors.latent import LatentPrior


def test_the_functions_are_listed_before_they_are_imported():
    assert set(rsd.__all__) <= set(dir(rsd)) and "__version__" in dir(rsd)
    assert all(callable(getattr(rsd, name)) for name in rsd.__all__)


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
        (("a man",), {"features": "nonsense"}, 'Unknown feature map "nonsense"'),
        (("a man",), {"gamma": 9.0, "force_decoder": "nonsense"}, 'Unknown small decoder "nonsense"'),
        (("a man",), {"device": "cuda:7"}, "Device cuda:7 was given, but torch finds no CUDA here"),
        (("a man",), {"metrics": ("clip",)}, "metrics is for the command; the function writes no files"),
        (("a man",), {"resume": True}, "resume is for the command"),
        (("a man",), {"prompts": "x.txt"}, "prompts is for the command"),
    ],
)
def test_slips_are_reported_before_any_model_is_loaded(arguments, changes, told, monkeypatch):
    monkeypatch.setattr("rsd.priors.base.check_dtype", lambda *a: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=told):
        rsd.text_to_image(*arguments, **changes)


def test_an_object_cannot_be_changed_by_what_goes_with_a_name(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    for changes in ({"size": "64"}, {"dtype": "float16"}, {"device": "cpu"}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} goes with the name of a prior"):
            rsd.text_to_image("a man", prior=prior, **changes)
    with pytest.raises(ValueError, match="feature_size goes with the name of a feature map"):
        rsd.text_to_image("a man", prior=prior, features=lambda x: x, feature_size=64)
    with pytest.raises(ValueError, match="size is for the command"):  # there it is the size of the files
        rsd.text_to_3d("a man", prior=prior, size=128)


def test_the_size_of_the_compared_pictures_and_the_small_decoder_count():
    common = {"method": "sds", "particles": 2, "steps": 2, "gamma": 30.0, "window": (0.0, 1.0)}
    plain, small, tiny = (
        rsd.text_to_image("a man", **common, **changes).images
        for changes in ({}, {"feature_size": 32}, {"force_decoder": "tiny"})
    )
    assert all((plain - other).abs().max() > 1e-3 for other in (small, tiny))


def test_the_function_has_the_method_of_the_command():
    drawn = rsd.text_to_image("a man", prior="heads-flow", particles=1, steps=1)
    assert drawn.options.method == "euler" and drawn.options.guidance == 3
    assert rsd.text_to_image("a man", particles=1, steps=1).options.method == "vsd"


@pytest.mark.parametrize("prior", ["heads-flow"])
def test_timesteps_of_pure_noise_are_left_out(prior):
    settings = {"steps": 2, "t_range": (20, 999), "timesteps": "annealed", "noise": "reused", "optimiser": "ddim"}
    drawn = rsd.text_to_image("a man", prior=prior, method="sds", particles=1, **settings)
    assert drawn.images.isfinite().all() and [record.t for record in drawn.records] == [998, 20]
