"""Default output folders differ by task and method; and which of two mistakes is reported first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from rsd.cli import main
from rsd.metrics import networks as diversity


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def photo(here):
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    for name in ("photo.jpg", "photo.png", "Ein Foto.png"):
        picture.save(here / name)
    return here / "photo.jpg"


@pytest.fixture
def fixed(tiny_folder):
    return ["--prior", str(tiny_folder("epsilon")), "--div-features", "pixels", "-n", "2", "--steps", "1"]


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_task_a_second_method_and_another_suffix_have_folders_of_their_own(photo, fixed, here, capsys):
    tasks = [["--task", "sr2"], ["--task", "inpaint_box", "--box", "2", "5", "2", "5"]]
    for flags in (*tasks, ["--task", "sr2", "--method", "nonrepuls"], ["--task", "sr2", "--method", "latent-dps"]):
        assert main(["restore", "photo.jpg", "--clean", *flags, *fixed, *pixels(flags)]) == 0
    assert main(["restore", "photo.png", "--clean", *tasks[0], *fixed, *pixels([])]) == 0
    assert main(["restore", "Ein Foto.png", "--clean", *tasks[0], *fixed, *pixels([])]) == 0
    assert main(["restore", "photo.png", "photo.jpg", "--clean", *tasks[0], *fixed]) == 2  # of one name
    assert made(here / "runs" / "restore") == {
        "photo.jpg-sr2-proximal-guidance", "photo.jpg-inpaint_box-proximal-guidance", "photo.jpg-sr2-nonrepuls",
        "photo.jpg-sr2-latent-dps", "photo.png-sr2-proximal-guidance", "ein-foto.png-711e325e-sr2-proximal-guidance",
    }  # fmt: skip
    capsys.readouterr()
    assert main(["restore", "photo.jpg", "--clean", *tasks[0], *fixed, *pixels([])]) == 2
    assert "photo.jpg-sr2-proximal-guidance contains another run; choose another --out" in capsys.readouterr().err


def pixels(flags: list[str]) -> list[str]:
    """Compare pixels if particles repel."""
    return [] if "--method" in flags else ["--features", "pixels"]


def test_folders_of_several_inputs(here, photo, fixed):
    (here / "photo.png").rename(here / "other.png")
    jobs = [{"image": "photo.jpg", "task": "sr2"}, {"image": "other.png", "task": "hdr"}]
    (here / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    (here / "photos").mkdir()
    (here / "other.png").rename(here / "photos" / "other.png")
    (here / "photos" / "other.png").read_bytes()
    jobs[1]["image"] = "photos/other.png"
    (here / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    free = [*fixed, "--gamma", "0", "--clean"]
    assert main(["restore", "jobs.jsonl", *free]) == 0
    assert main(["restore", "photos", "--task", "sr2", *free]) == 0
    assert main(["restore", "photo.jpg", "photos/other.png", "--task", "sr2", *free]) == 0
    assert main(["restore", "jobs.jsonl", "--method", "rlsd", *free]) == 0
    assert made(here / "runs" / "restore") == {
        "jobs.jsonl",  # sr2 by proximal-guidance, HDR by rlsd
        "jobs.jsonl-rlsd", "photos-sr2-proximal-guidance", "photo.jpg-and-1-more-sr2-proximal-guidance",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["text-to-image", "text-to-3d"])
def test_prompts_have_a_folder_for_each_method_and_for_several(command, here):
    from rsd.runs.prompts import PromptJob
    from rsd.tasks.text_to_3d.head import SceneHead
    from rsd.tasks.text_to_3d.options import TextTo3D
    from rsd.tasks.text_to_image.head import ImageHead
    from rsd.tasks.text_to_image.options import TextToImage

    def out(options, *prompts):
        return head(options, [PromptJob(prompt, prompt, options) for prompt in prompts]).out

    head, kind = {"text-to-image": (ImageHead, TextToImage), "text-to-3d": (SceneHead, TextTo3D)}[command]
    found = [out(kind(method=method), "dog") for method in ("sds", "vsd")]
    found += [out(kind(method="sds"), "dog", "cat")]
    found += [out(kind(method="sds", prompts=Path("a/dog.txt")), "dog")]
    assert found == [
        Path("runs") / command / last for last in ("dog-sds", "dog-vsd", "dog-and-1-more-sds", "dog.txt-sds")
    ]


MISTAKES = {
    "sr3": (["--task", "sr3"], "sr3"),
    "an unknown method": (["--method", "dsp"], 'Unknown method "dsp"'),
    "a method of pixels": (["--task", "sr2", "--method", "dps"], "Method dps needs a prior in pixel space"),
    "a box": (["--task", "inpaint_box", "--box", "50", "2", "2", "5"], "box is 50 2 2 5; give"),
    "a kernel": (["--task", "deblur_motion", "--kernel", "photo.png"], "photo.png"),
    "an exact step": (["--task", "hdr", "--x-step", "exact"], "exact"),
    "a metric": (["--task", "sr2", "--metrics", "lpips"], "LPIPS needs at least 32 px"),
}


@pytest.mark.parametrize(("name", "taken"), list(zip(MISTAKES, 2 * ["run", "runs", "file", "thesis"], strict=False)))
def test_what_is_wrong_with_the_flags_is_reported_before_what_is_wrong_with_the_folder(
    name, taken, photo, fixed, here, capsys
):
    flags, told = MISTAKES[name]
    images, out = ["photo.jpg"], here / "out"
    if taken == "runs":
        images = ["photo.jpg", "Ein Foto.png"]
    if taken == "file":
        out.touch()
    elif taken == "thesis":
        out.mkdir()
        (out / "thesis.tex").touch()
    else:
        (out / "photo.jpg").mkdir(parents=True)
        (out / "config.yaml" if taken == "run" else out / "photo.jpg" / "config.yaml").write_text("steps: 1\n")
    assert main(["restore", *images, "--clean", "--out", str(out), *fixed, *flags]) == 2
    said = capsys.readouterr().err
    assert told in said and "output folder" not in said
    assert main(["restore", *images, "--clean", "--out", str(out), *fixed, "--task", "sr2"]) == 2
    assert re.match("rsd: The output folder .*out (is a file|contains )", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "flags", "told"),
    [
        ("text-to-image", ["red", "--prior", "no/prior"], "no/prior"),
        ("text-to-3d", ["red", "--resolution", "5", "--prior"], "give a --resolution that divides 16"),
        ("compare", ["--methods", "psld", "--tasks", "hdr", "--images", "one", "--prior"], "No method can be compared"),
    ],
)
def test_so_do_the_other_commands(command, flags, told, photo, tiny_folder, here, capsys):
    (here / "out").mkdir()
    (here / "out" / "thesis.tex").touch()
    (here / "one").mkdir()
    photo.rename(here / "one" / photo.name)
    flags = [*flags, str(tiny_folder("epsilon"))] if flags[-1] == "--prior" else flags
    assert main([command, *flags, "--out", str(here / "out")]) == 2
    said = capsys.readouterr().err
    assert told in said and "output folder" not in said


def test_answers_that_are_nearly_equal_are_reported_with_the_remedy(photo, fixed, here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(diversity, "NEARLY_EQUAL", 10.0)  # random networks answer with noise
        task = ["restore", "photo.jpg", "--clean", "--task", "sr2", *fixed, "--out"]
        assert main([*task, "a", "--gamma", "0"]) == 0
        metrics, said = json.loads((here / "a" / "metrics.json").read_text()), capsys.readouterr()
        assert 0 < metrics["difference"] < 10 and metrics["nearly_equal"] is True and ", nearly equal; a\n" in said.out
        told = "rsd: note: The 2 samples are nearly equal; {}, or save time with --particles 1.\n"
        assert told.format("raise --gamma (0)") in said.err
        assert main([*task, "b", "--method", "latent-red-diff"]) == 0
        assert told.format("latent-red-diff has no --gamma: take --method rlsd with one") in capsys.readouterr().err
        assert main([*task, "c", "-n", "1", "--gamma", "0"]) == 0
        assert "nearly equal" not in "".join(capsys.readouterr())
        alone = json.loads((here / "c" / "metrics.json").read_text())
        assert alone["difference"] is None and alone["reasons"]["difference"] == "one particle has no diversity"
        drawn = ["text-to-image", *fixed, "--out"]
        assert main([*drawn, "d", "a red", "a dog", "--method", "sds"]) == 0
        said = capsys.readouterr()
        assert said.out.count(", nearly equal; ") == 2 and said.err.count(told.format("raise --gamma (0)")) == 1
        assert main([*drawn, "e", "red", "--method", "ancestral"]) == 0
        sampled = "ancestral sampling has no --gamma: take --method particle-guidance or euler with one"
        assert told.format(sampled) in capsys.readouterr().err
    assert main([*drawn, "f", "red", "--method", "sds"]) == 0
    assert "nearly equal" not in "".join(capsys.readouterr())
    assert json.loads((here / "f" / "metrics.json").read_text())["nearly_equal"] is False


def test_what_is_compared_is_what_the_mask_hides(photo, fixed, here):
    from rsd.media import read_image
    from rsd.metrics import difference

    box = ["--task", "inpaint_box", "--box", "2", "5", "2", "5", "--sigma-v", "0"]
    assert main(["restore", "photo.png", *box, *fixed, "--gamma", "0", "--out", "a"]) == 0
    images = torch.cat([read_image(here / "a" / "particles" / f"0{k}.png") for k in range(2)])
    assert torch.equal(images[0, :, 6:], images[1, :, 6:])
    found = json.loads((here / "a" / "metrics.json").read_text())["difference"]
    assert found == pytest.approx(difference(images[..., 2:6, 2:6]), rel=0.02)  # the pictures have 8 bits
    assert difference(images) < 0.7 * found
