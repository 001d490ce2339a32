"""The built-in prior of pixels in every command: settings, words, features and scores of heads; and without weights. A
random pipeline of its class replaces it, since its quality does not matter here."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from rsd.cli import main
from rsd.features import load_features
from rsd.heads.classifier import FaceReader, HeadsClassifier
from rsd.heads.data import head_at
from rsd.heads.reading import read
from rsd.heads.render import render
from rsd.media import read_image, write_png
from rsd.priors import load_prior, over_heads
from rsd.tasks.text_to_image.scores import heads_figures

SMALL_SCENES = ["--steps", "2", "--samples", "4", "--turntable", "2", "--mesh-resolution", "8", "--grid", "4"]
COMMANDS = {
    "text-to-image": ["a wizard with a red shirt"],
    "text-to-3d": ["a wizard with a red shirt", "--prior", "heads-pixels"],
    "restore": ["face.png"],
}


def test_which_priors_are_over_heads():
    assert over_heads("heads") and over_heads("heads-pixels") and not over_heads("./heads")


@pytest.mark.parametrize("command", COMMANDS)
def test_without_its_weights_it_is_reported_how_to_train_them(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsd.hub.BUILT_IN", tmp_path / "none")
    write_png(tmp_path / "face.png", torch.zeros(1, 3, 32, 32))
    task = ["--task", "sr2"] if command == "restore" else []
    assert main([command, *COMMANDS[command], "--prior", "heads-pixels", "--out", "run", *task]) == 2
    error = capsys.readouterr().err
    assert "The built-in model in" in error and error.count("\n") == 1
    assert (
        'train it with "python -m scripts.heads pixel-data", then "python -m scripts.heads pixel" in a clone' in error
    )
    assert not (tmp_path / "run").exists()


def run(command, flags, tmp_path, capsys):
    out = tmp_path / command
    code = main([command, *flags, "--prior", "heads-pixels", "--device", "cpu", "-n", "2", "--out", str(out)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    metrics, config = json.loads((out / "metrics.json").read_text()), yaml.safe_load((out / "config.yaml").read_text())
    assert (
        metrics["div"] > 0 and metrics["div_features"] == "heads classifier" and config["features"] in ("heads", "auto")
    )
    bib = (out / "citations.bib").read_text()
    assert "rombach2022" not in bib and "caron2021" in bib  # no latents; the built-in features are DINO's
    return captured, metrics, config


def test_text_to_image(heads_pixels, tmp_path, capsys):
    told, metrics, config = run("text-to-image", [*COMMANDS["text-to-image"], "--steps", "2"], tmp_path, capsys)
    assert "settings: heads.yaml: vsd" in told.out and config["lr_phi"] == 0.003
    assert told.err.count('The prior heads-pixels was not trained on "wizard"; ') == 1
    pictures = torch.cat([read_image(path) for path in sorted((tmp_path / "text-to-image" / "particles").iterdir())])
    judge = HeadsClassifier.load()
    faces, probabilities = FaceReader.load().sees(judge, pictures), judge.probabilities(pictures)
    found = heads_figures(probabilities, read(COMMANDS["text-to-image"][0]), {}, faces)
    assert found.items() <= metrics.items() and found["agreement_attributes"].keys() == {"shirt"}
    assert found["agreement"] is not None and found["coverage"]["mean"] is not None


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_text_to_3d(method, heads_pixels, tmp_path, capsys):
    told, metrics, config = run(
        "text-to-3d", [*COMMANDS["text-to-3d"], "--method", method, *SMALL_SCENES], tmp_path, capsys
    )
    assert (
        f"settings: heads_pixels.yaml: {method}" in told.out
        and "prior: heads-pixels on cpu" in told.out
        and config["ambient"] == 0.52
    )
    assert told.err.count('The prior heads-pixels was not trained on "wizard"; ') == 1
    assert 0 <= metrics["agreement"] <= 1 and 0 <= metrics["face_front"] <= 1 and len(metrics["faces"]) == 12


def test_words_that_it_does_not_know_are_reported_wherever_they_are(heads_pixels, tmp_path, capsys):
    more = ["--view-prompts", "back=a wizard", "side=a red fez", "--negative-prompt", "a bald man with long hair, ugly"]
    told, *_ = run("text-to-3d", [*COMMANDS["text-to-3d"], *SMALL_SCENES, "--steps", "1", *more], tmp_path, capsys)
    for words in ('"wizard"', '"fez"', '"ugly"'):
        assert told.err.count(f"The prior heads-pixels was not trained on {words}; ") == 1
    assert "contradicts itself" not in told.err  # that is of scores, which read the prompt alone


def test_the_sectors_of_prompts_do_not_move_those_of_figures(heads_pixels, tmp_path, monkeypatch, capsys):
    """Janus is measured from the same three cameras, agreement from front ones, whatever words the views had."""
    faces = torch.zeros(2, 12, dtype=torch.bool)  # by camera, from 0 degrees on in steps of 30
    faces[0, [0, 1, 5]], faces[1, [6, 7]] = True, True
    monkeypatch.setattr(FaceReader, "sees", lambda reader, judge, images: faces.flatten())
    flags = [*COMMANDS["text-to-3d"], *SMALL_SCENES, "--back", "10", "--front", "10", "--overhead", "5"]
    _, metrics, _ = run("text-to-3d", flags, tmp_path, capsys)
    assert metrics["agreement"] is not None and "janus" not in metrics["reasons"]
    assert metrics["face_front"] == pytest.approx(2 / 6) and metrics["janus"] == pytest.approx(1 / 3)


def test_restore(heads_pixels, tmp_path, capsys):
    assert main(["heads", "--out", str(tmp_path / "faces"), "--number", "1", "--size", "32"]) == 0
    (face,) = (tmp_path / "faces").glob("*.png")
    flags = [str(face), "--clean", "--task", "inpaint_half_face", "--steps", "2", "--gamma", "1"]
    told, metrics, _ = run("restore", flags, tmp_path, capsys)
    assert "settings: any_heads_pixels.yaml: proximal-guidance" in told.out and metrics["coverage"]


def test_the_built_in_features_see_pictures_at_the_size_they_were_trained_at():
    picture = torch.from_numpy(render(head_at("validation", 0))).permute(2, 0, 1)[None] / 127.5 - 1
    small = torch.nn.functional.avg_pool2d(picture.float(), 2)
    phi = load_features("heads")
    large = torch.nn.functional.interpolate(small, size=(64, 64), mode="bicubic", antialias=True)
    assert torch.equal(phi(small), phi(large)) and phi.size == 64
    assert load_features("heads", size=32).size == 32


def test_the_real_one_loads():
    prior = load_prior("heads-pixels")
    assert prior.latent_shape == (3, 32, 32)
    eps = prior.epsilon(torch.zeros(1, 3, 32, 32), 500, prior.condition("a man", guidance=7.5))
    assert eps.shape == (1, 3, 32, 32) and eps.isfinite().all()
