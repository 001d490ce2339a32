"""Errors of `rsd restore` for files and tasks that cannot work, before any model is loaded."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rsd.cli import main
from rsd.hub import BUILT_IN
from rsd.media import write_measurement
from rsd.runs import batch
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.inverse.problem import load
from tests.tasks import tasked

OPERATORS = """
number = 3
def fails(x): raise RuntimeError("mine")
def flat(x): return x.flatten(1)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with an image of 16 px and the files that the tests name."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    (tmp_path / "text.png").write_text("hello")
    np.save("even.npy", np.ones((4, 4)))
    (tmp_path / "unclosed.py").write_text("def f(x:\n")
    (tmp_path / "my_ops.py").write_text(OPERATORS)
    for name, alpha in (("clear.png", 200), ("opaque.png", 255)):
        Image.merge("LA", [Image.new("L", (16, 16), value) for value in (255, alpha)]).save(name)
    Image.new("L", (16, 16), 255).save("white.png")
    write_measurement(tmp_path / "y.safetensors", torch.zeros(1, 3, 16, 16))
    shutil.copytree(BUILT_IN / "latent", "part", ignore=shutil.ignore_patterns("unet"))
    return tmp_path


@pytest.fixture
def restore(tiny_folder, here):
    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "-n", "1", "--out"]

    def go(*arguments, out="out", steps=1):
        return main(["restore", *tasked(arguments), "--steps", str(steps), *fixed, str(here / out)])

    return go


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "sr3"], "Task sr3 needs a size that 3 divides, but the image is 64 px; use one of sr2, sr4,"),
        (["--task", "inpaint_box", "--box", "0", "16", "0", "9"], "first <= last must lie in 0-15"),
        (["--task", "inpaint_box", "--box", "0", "15", "0", "15"], "The box hides every pixel"),
        (["--task", "deblur_motion", "--kernel", "even.npy"], "even.npy has shape [4, 4]; give [height, width]"),
        (["--task", "deblur_motion", "--kernel", "text.png"], "text.png is not a picture"),
        (["--task", "operator", "--operator", "nowhere:f"], '"nowhere:f" cannot be imported (No module named'),
        (["--task", "operator", "--operator", "unclosed:f"], '"unclosed:f" cannot be imported (SyntaxError'),
        (["--task", "operator", "--operator", "my_ops:number"], '"my_ops:number" is an int; give a function'),
        (["--task", "operator", "--operator", "my_ops:fails"], "my_ops:fails failed on an image [1, 3, 64, 64] (Runt"),
        (["--task", "operator", "--operator", "my_ops:flat"], "photo.png: my_ops:flat measures [12288], which is no"),
        (["--fit", "refuse"], "photo.png: The image is 16 x 16 px, but 64 x 64 are required; use --fit crop"),
        (["--task", "inpaint_mask", "--mask", "clear.png"], "The mask clear.png has transparent pixels; save it"),
        (["--task", "inpaint_mask", "--mask", "text.png"], "text.png is not a picture"),
        (["--prior", "owner/absent"], 'The prior "owner/absent" is not in the local cache'),
        (["--prior", "owner/absent", "--features", "owner/no-map"], 'The prior "owner/absent" is not in the local'),
        (["--prior", "part"], "part/unet/config.json is missing; write it again with save_pretrained"),
        (["--features", "pixel"], 'Did you mean "pixels"'),
        (["--clean", "--metrics", "fid", "--fid-features", "x"], 'Unknown feature map "x"'),
        (["--gamma", "nan"], "gamma is nan; give a finite number (below 0 attracts)."),
        (["--lambda", "inf"], "lambda is inf; give a finite number, 0 or more."),
        (["--window", "0.5", "nan"], "give LO HI with 0 <= LO < HI <= 1"),
    ],
)
def test_invalid_input_is_reported_in_one_sentence_before_any_model_is_loaded(
    here, flags, expected, monkeypatch, capsys
):
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert main(["restore", "photo.png", *tasked(flags)]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.startswith("rsd: ") and error.count("\n") == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--clean"], "y.safetensors is a measurement, but --clean takes images"),
        (["--task", "sr2"], "y.safetensors has shape [1, 3, 16, 16], but"),
    ],
)
def test_measurements_are_checked_first_too(here, flags, expected, monkeypatch, capsys):
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert main(["restore", "y.safetensors", *tasked(flags)]) == 2 and expected in capsys.readouterr().err


def test_an_error_that_concerns_every_image_is_reported_once(restore, here, capsys):
    (here / "many").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy("photo.png", here / "many" / name)
    assert restore("many", "--task", "sr3") == 2 and capsys.readouterr().err.count("Task sr3") == 1


def test_a_failed_image_is_named_once(restore, here, capsys):
    (here / "many").mkdir()
    shutil.copy("photo.png", here / "many" / "a.png")
    shutil.copy("text.png", here / "many" / "c.png")
    assert restore("many", "--clean", "--method", "rlsd", "--lr-z", "1e30", "--lr-x", "1e30", steps=4) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert failed[0].startswith("failed: many/c.png is not a picture")
    assert failed[1].startswith("failed: many/a.png: The run diverged at step")
    assert [line.count(".png") for line in failed] == [1, 1]


def test_a_finished_run_needs_no_prior(restore, here):
    assert restore("photo.png") == 0
    file = here / "out" / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "prior": "owner/gone"}))
    flags = ["--prior", "owner/gone", "--features", "pixels", "--steps", "1", "-n", "1", "--out", "out"]
    assert main(["restore", "photo.png", *tasked(flags), "--resume"]) == 0


@pytest.mark.parametrize("mask", ["white.png", "opaque.png"])
@pytest.mark.parametrize("file", ["photo.png", "y.safetensors"])
def test_a_mask_that_hides_nothing_is_rejected(here, file, mask):
    options, _ = parse([file, "--mask", mask])
    with pytest.raises(ValueError, match=rf"the mask {mask} hides nothing: black pixels are filled in \(--mask-h"):
        load(options.images[0], options, 16, "photo")


def test_for_a_clean_image_a_mask_that_hides_nothing_is_noted(here):
    options, _ = parse(["photo.png", "--mask", "white.png", "--clean"])
    notes = load(options.images[0], options, 16, "photo").notes
    assert notes[0] == "note: the mask white.png hides nothing: black pixels are filled in"
    assert notes[1] == "photo.png: 0% of the pixels are hidden and will be filled in"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--method", "dps"],
            "Method dps does not estimate what is unknown of blur with an unknown kernel; take --method",
        ),
        (["--prior", "heads"], "take --method diffpir, with a prior of pixels such as --prior photos"),
        (["--clean"], "Task deblur_blind finds an unknown kernel, so it has no damage to do to clean pictures"),
    ],
)
def test_an_unknown_blur_needs_a_method_that_estimates_it(flags, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.png")
    assert main(["restore", "photo.png", "--task", "deblur_blind", "--prior", "photos", *flags, "--dry-run"]) == 2
    assert expected in capsys.readouterr().err


def test_noise_in_grey_levels_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.png")
    assert main(["restore", "photo.png", "--task", "denoise", "--prior", "photos", "--sigma-v", "25", "--dry-run"]) == 2
    assert "sigma_v is 25, but images are in [-1, 1]; give 0.196 for 25 of 255 grey levels" in capsys.readouterr().err
