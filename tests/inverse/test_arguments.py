"""A run's arguments: complex measurements, users' operators, changed inputs, folders."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rsd.cli import main
from rsd.media import read_image, read_measurement
from rsd.runs.folder import RunFolder
from rsd.tasks.inverse import head as job
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.inverse.problem import Problem, check_task, load, on
from rsd.tasks.inverse.run import Run
from tests.tasks import tasked

OPERATORS = """
import torch
from rsd.tasks.inverse.operators import Operator
fourier = torch.fft.fft2
gain = torch.ones(3, 1, 1)
def scaled(x): return gain * x
class Watched(Operator):
    moves = []
    def __init__(self): super().__init__("watched", linear=True)
    def forward(self, x): return x
    def to(self, device): self.moves.append(str(device)); return super().to(device)
    def cpu(self): self.moves.append("home"); return super().cpu()
watched = Watched()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with images of 16 px, masks and operators."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("photo.png", "other.png")):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    for name, column in (("left.png", 2), ("right.png", 12)):
        mask = np.full((16, 16), 255, dtype=np.uint8)
        mask[:, column] = 0
        Image.fromarray(mask).save(name)
    (tmp_path / "given_ops.py").write_text(OPERATORS)
    yield tmp_path
    sys.modules.pop("given_ops", None)


@pytest.fixture
def restore(tiny_folder, here):
    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels"]

    def go(*arguments, out="out", steps=2, n=2):
        own = ["--steps", str(steps), "-n", str(n), "--out", str(here / out)]
        return main(["restore", *fixed, *own, *(map(str, arguments) if "--config" in arguments else tasked(arguments))])

    return go


def read(path):
    return json.loads(path.read_text())


def test_a_complex_measurement_is_fitted_whole(restore, here, recwarn):
    flags = ["--task", "operator", "--operator", "given_ops:fourier", "--sigma-v", "1"]
    flags += ["--method", "rlsd", "--gamma", "0", "--lr-x", "0.1"]
    assert restore("photo.png", "--clean", *flags, steps=40, n=1) == 0
    assert read(here / "out" / "metrics.json")["residual"]["mean"] < 2  # 7 if only the real part is fitted
    y = read_measurement(here / "out" / "measurement.safetensors")
    assert y.is_complex() and float(y.imag.abs().max()) > 1 and not [w for w in recwarn if "omplex" in str(w.message)]
    assert restore(here / "out" / "measurement.safetensors", *flags, out="again", n=1) == 0


@pytest.fixture
def half_turn(monkeypatch):
    """Let runs end in the clean image and in the same image rotated by 180 degrees."""

    def finish(self):
        x = read_image("photo.png")
        return torch.cat([x, x.flip(-2, -1)])

    monkeypatch.setattr(Run, "finish", finish)


@pytest.mark.parametrize("clean", [True, False])
def test_phase_retrieval_scores_ignore_a_rotation_by_180_degrees(restore, here, half_turn, clean):
    f = ["--task", "phase_retrieval", "--div-features", "pixels"]
    source = "photo.png"
    if not clean:
        assert restore("photo.png", "--clean", *f, out="first") == 0
        source = here / "first" / "measurement.safetensors"
    assert restore(source, *(["--clean"] if clean else []), *f) == 0
    found = read(here / "out" / "metrics.json")
    assert found["div"] == pytest.approx(0, abs=1e-6)
    for k in range(2):
        assert torch.equal(read_image(here / "out" / "particles" / f"0{k}.png"), read_image("photo.png"))
    if clean:
        assert found["psnr"] == {"mean": None, "best": None, "std": None}
        assert found["reasons"]["psnr.mean"].startswith("a sample equals the clean image")


def test_other_tasks_do_not_rotate_samples(here):
    x = read_image("photo.png")
    images = torch.cat([x, x.flip(-2, -1)])
    assert torch.equal(Problem(make_operator("hdr", size=16), x, x).aligned(images), images)


@pytest.mark.parametrize("large", [1024, 500, 96])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_pixel_over_a_hidden_one_is_hidden(here, large, fit):
    rng = np.random.default_rng(0)
    white = np.full((large, large + 40), 255, dtype=np.uint8)
    spots = [tuple(rng.integers(0, large, 2)) for _ in range(20)]
    for row, column in spots:
        white[row, column] = 0
    Image.fromarray(white).save("spots.png")
    Image.new("RGB", white.shape[::-1]).save("large.png")
    options, _ = parse(["large.png", "--task", "inpaint_mask", "--mask", "spots.png", "--fit", fit])
    known = load(here / "large.png", options, 64, "large").operator.observed[0, 0]
    for row, column in spots:
        left, width = (20, large) if fit == "crop" else (0, large + 40)
        if 0 <= column - left < width:
            assert not known[row * 64 // large, (column - left) * 64 // width]
    if large == 1024 and fit == "crop":
        assert (~known).sum() <= len(spots)  # a speck of 1/256 of a pixel hides that pixel, not those around it


def test_a_result_that_is_not_finite_is_an_error(restore, here, capsys):
    assert restore("photo.png", "--clean", "--method", "rlsd", "--lr-z", "1e30", steps=1) == 2
    assert "The run diverged at its last step; lower lr_x" in capsys.readouterr().err
    assert not (here / "out" / "particles").exists() and not (here / "out" / "metrics.json").exists()


def test_phases_are_retrieved_by_the_method_that_has_settings(here, capsys, monkeypatch):
    phases, sd = ["photo.png", "--clean", "--task", "phase_retrieval"], ["--prior", "owner/stable-diffusion"]
    options, name = parse([*phases, *sd])
    assert (options.method, name) == ("nonaug", "phase_retrieval_sd.yaml: nonaug")
    assert options.window == (0.4, 1.0) and options.gamma == 30
    options, name = parse(phases)
    assert (options.method, name) == ("rlsd", "phase_retrieval_heads.yaml: rlsd") and options.gamma == 0
    assert parse([*phases, "--method", "nonaug"])[1] == "phase_retrieval_heads.yaml: nonaug"
    assert parse(tasked(["photo.png"]))[0].method == "proximal-guidance"
    assert parse(["photo.png", "--task", "hdr", *sd])[0].method == "rlsd"
    monkeypatch.setattr(job, "run", lambda options, jobs: 0)
    main(["restore", *phases, *sd, "--method", "rlsd"])
    assert "settings: none packaged for phase_retrieval by rlsd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "hybrid", "-n", "2"], "needs 3 particles or more, or --interacting 2, not 2"),
        (["--method", "hybrid", "--interacting", "1"], "interacting is 1 of 4 particles; give 2 to 4"),
        (["--method", "hybrid", "--interacting", "5"], "interacting is 5 of 4 particles; give 2 to 4"),
        (["--interacting", "2"], "--interacting goes with the method hybrid, but the method is proximal-guidance"),
        (
            ["--lambda", "2"],
            "--lambda goes with the methods rlsd, nonrepuls, nonaug, hybrid, latent-red-diff, red-diff, svgd",
        ),
        (["--downsample", "bicubic"], "--downsample goes with the tasks sr2 ... sr16, but the task is inpaint_half"),
        (["--task", "sr4", "--keep-known", "True"], "--keep-known goes with the inpaint tasks, but the task is sr4"),
    ],
)
def test_options_without_effect_are_errors(here, flags, expected, capsys):
    assert main(["restore", "photo.png", *tasked(flags)]) == 2
    assert expected in capsys.readouterr().err


def test_a_file_may_give_more_than_its_task_reads(here, restore):
    (here / "own.yaml").write_text("interacting: 2\ndownsample: bicubic\nkeep_known: true\nmethod: hybrid\n")
    options, _ = parse(tasked(["photo.png", "--config", "own.yaml", "--method", "rlsd"]))
    assert (options.method, options.interacting) == ("rlsd", 2)
    assert restore("photo.png", "--method", "hybrid", "--interacting", "2", "--clean", n=3) == 0
    held = yaml.safe_load((here / "out" / "config.yaml").read_text())
    assert restore("photo.png", "--config", here / "out" / "config.yaml", "--clean", out="again", n=3) == 0
    assert yaml.safe_load((here / "again" / "config.yaml").read_text()) == held
    assert restore("--config", here / "out" / "config.yaml", out="once", n=3) == 0  # the picture is in the file too
    assert yaml.safe_load((here / "once" / "config.yaml").read_text()) == held


@pytest.mark.parametrize("held", ["thesis.tex", "run/thesis.tex", "config.yaml"])
def test_a_folder_of_other_files_takes_no_runs(restore, here, held, capsys):
    for name in ("full", "full/run"):
        (here / name).mkdir()
    (here / "full" / held).write_text("x: 1\n")
    assert restore("photo.png", "other.png", "--clean", "--resume", out="full") == 2
    output = "a single run" if held == "config.yaml" else "contains other files"
    assert output in capsys.readouterr().err and not (here / "full" / "summary.json").exists()


def test_a_folder_of_runs_is_extended_with_resume(restore, here, capsys):
    assert restore("photo.png", "other.png", "--clean") == 0
    shutil.copy("photo.png", "third.png")
    assert restore("third.png", "other.png", "--clean") == 2 and "contains other runs" in capsys.readouterr().err
    assert restore("third.png", "other.png", "--clean", "--resume") == 0
    assert len(list((here / "out").glob("*/metrics.json"))) == 3


def test_a_refusal_leaves_the_summary_of_a_folder_of_runs(restore, here, capsys):
    assert restore("photo.png", "other.png", "--clean") == 0
    before = {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    assert restore("photo.png", "other.png", "--clean", "--resume", "--seed", 1) == 2
    said = capsys.readouterr().err
    assert f"Cannot resume {here / 'out' / 'photo.png'} with other settings: seed 0 is now 1" in said
    shutil.copy("left.png", "other.png")
    shutil.copy("photo.png", "third.png")
    assert restore("photo.png", "other.png", "third.png", "--clean", "--resume") == 2
    assert "other.png is not the file that the run in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()} == before


def test_two_inputs_with_the_same_name_are_rejected(restore, here, capsys):
    shutil.copy("photo.png", "photo.bmp")
    shutil.copy("other.png", "other.bmp")
    assert restore("other.png", "photo.png", "photo.bmp", "other.bmp", "--clean") == 2
    assert "Two inputs have the same name, photo.png and photo.bmp" in capsys.readouterr().err


def test_a_resumed_run_has_the_inputs_that_it_began_with(restore, here, monkeypatch, capsys):
    flags = ("photo.png", "--clean", "--task", "inpaint_mask", "--mask", "mask.png", "--checkpoint-every", "2")
    shutil.copy("left.png", "mask.png")
    log = RunFolder.log

    def killed(self, row):
        log(self, row)
        if row["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "log", killed)
    assert restore(*flags, steps=6) == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    shutil.copy("right.png", "mask.png")
    assert restore(*flags, "--resume", steps=6) == 2
    told = "{} is not the file that the run in {} began with; put that file back, or choose another --out."
    assert told.format(here / "mask.png", here / "out") in capsys.readouterr().err
    (here / "out" / "inputs.json").rename("inputs.json")  # older versions had none
    assert restore(*flags, "--resume", steps=6) == 2
    assert "The measurement differs from the one that this run began with" in capsys.readouterr().err
    (here / "inputs.json").rename(here / "out" / "inputs.json")
    shutil.copy("left.png", "mask.png")
    photo = (here / "photo.png").read_bytes()
    shutil.copy("other.png", "photo.png")
    assert restore(*flags, "--resume", steps=6) == 2
    (here / "photo.png").write_bytes(photo)
    assert restore(*flags, "--resume", steps=6) == 0
    capsys.readouterr()
    for name, other in (("mask.png", "right.png"), ("photo.png", "other.png")):
        mine = (here / name).read_bytes()
        shutil.copy(other, name)
        assert restore(*flags, "--resume", steps=6) == 2
        assert told.format(here / name, here / "out") in capsys.readouterr().err
        (here / name).write_bytes(mine)
    assert restore(*flags, "--resume", steps=6) == 0 and "already done" in capsys.readouterr().out
    shutil.copy("right.png", "mask.png")
    (here / "out" / "inputs.json").unlink()
    assert restore(*flags, "--resume", "--div-features", "pixels", steps=6) == 2
    assert "is not the file that" in capsys.readouterr().err


def test_a_finished_run_that_lost_a_sample_runs_again(restore, here, capsys):
    flags = ("photo.png", "other.png", "--clean")
    assert restore(*flags) == 0
    lost, kept = (here / "out" / name / "particles" / "01.png" for name in ("photo.png", "other.png"))
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert restore(*flags, "--resume", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "other.png: finished in" in said and "photo.png: finished" not in said
    assert restore(*flags, "--resume") == 0
    assert f"photo.png: 1 of 2 samples are missing in {lost.parent}; it runs again" in capsys.readouterr().out
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == time


def test_an_operator_that_fails_on_the_device_is_told_first(here):
    options, _ = parse(["photo.png", "--task", "operator", "--operator", "given_ops:scaled"])
    check_task(options, 16)
    with pytest.raises(
        ValueError, match=r"given_ops:scaled failed on an image \[1, 3, 16, 16\] on meta \(Runt.*fix it"
    ):
        check_task(options, 16, torch.device("meta"))


def test_a_users_operator_returns_to_the_cpu_after_a_failed_image(restore, here):
    flags = ["--task", "operator", "--operator", "given_ops:watched", "--clean", "--method", "rlsd"]
    flags += ["--lr-z", "1e30", "--lr-x", "1e30"]
    assert restore("photo.png", "other.png", *flags, steps=4) == 1
    moves = sys.modules["given_ops"].Watched.moves
    assert moves[-1] == "home" and moves.count("home") == 3  # the trial and two images
    with pytest.raises(KeyError), on("cpu", sys.modules["given_ops"].watched):
        raise KeyError
    assert moves[-1] == "home"


def test_warnings_are_printed_without_their_location(restore, here, capsys):
    assert restore("photo.png", "--clean", "--prompt", "red " * 30, n=1) == 0
    output = capsys.readouterr().err
    assert "rsd: note: " in output and "UserWarning" not in output


def test_a_feature_map_that_is_not_finite_is_named(restore, here, capsys):
    (here / "given_maps.py").write_text("def lost(x): return x.flatten(1) * float('nan')\n")
    assert restore("photo.png", "--clean", "--gamma", "5", "--features", "given_maps:lost") == 2
    assert (
        'The feature map "given_maps:lost" returned values that are not finite (NaN or infinite) for plausible images'
        in capsys.readouterr().err
    )
