"""`rsd measure`, and images as measurements of users' operators."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rsd.cli import main
from rsd.media import read_image, read_measurement, write_measurement
from rsd.tasks.inverse.operators.own import load_operator
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.inverse.problem import load, make, to_measurement

OPERATORS = """
import torch
from torch.nn.functional import avg_pool2d
weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
def grey(x): return (weights * x).sum(1, keepdim=True)
def flat_grey(x): return (weights * x).sum(1)
def small(x): return avg_pool2d(x, 4)
def wide(x): return x[..., ::2, :].mean(1, keepdim=True)
def fourier(x): return torch.fft.fft2(x)
def two(x): return x[:, :2]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "measuring_ops.py").write_text(OPERATORS)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save("photo.png")
    for name, shape in (("grey.png", (16, 16)), ("wide.png", (8, 16)), ("small.png", (4, 4, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(name)
    yield tmp_path
    sys.modules.pop("measuring_ops", None)


@pytest.fixture
def prior(tiny_folder):
    return ["--prior", str(tiny_folder("epsilon"))]


def own(name):
    return ["--task", "operator", "--operator", f"measuring_ops:{name}"]


@pytest.mark.parametrize(
    ("name", "file", "shape"),
    [
        ("grey", "grey.png", (1, 1, 16, 16)),
        ("flat_grey", "grey.png", (1, 16, 16)),
        ("wide", "wide.png", (1, 1, 8, 16)),
        ("small", "small.png", (1, 3, 4, 4)),
    ],
)
def test_an_image_of_the_operators_shape_is_its_measurement(here, prior, name, file, shape):
    options, _ = parse([file, *own(name), *prior])
    problem = load(here / file, options, 16, "a")
    pixels = torch.as_tensor(np.array(Image.open(file))).float() / 127.5 - 1
    expected = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    assert problem.y.shape == shape and not problem.notes
    torch.testing.assert_close(problem.y, expected.reshape(shape), atol=1e-6, rtol=0)


def test_a_grey_measurement_is_restored_from_a_png(here, prior, capsys):
    fixed = ["--method", "rlsd", "--gamma", "0", "--rho", "0.01", "--lr-x", "0.1"]
    fixed += ["-n", "1", "--steps", "60", "--out", "out"]
    assert main(["restore", "grey.png", *own("grey"), *prior, *fixed]) == 0
    residual = json.loads((here / "out" / "metrics.json").read_text())["residual"]["mean"]
    assert 0.001 * residual < 0.1 * float(read_image("grey.png")[:, :1].std())
    assert Image.open(here / "out" / "measurement.png").size == (16, 16)


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        (
            "grey",
            "photo.png",
            "photo.png: The image has colours, but measuring_ops:grey measures grey; save it as grey",
        ),
        ("wide", "grey.png", "grey.png: The image is 16 x 16 px, but measuring_ops:wide measures 16 x 8 px"),
        (
            "fourier",
            "photo.png",
            "measures complex [3, 16, 16], which is not an image; give it as .safetensors (see rsd measure",
        ),
        ("two", "photo.png", "measures [2, 16, 16], which is not an image; give it as .safetensors (see rsd measure"),
    ],
)
def test_images_that_cannot_be_its_measurements_are_reported(here, prior, name, file, expected, capsys):
    assert main(["restore", file, *own(name), *prior, "-n", "1", "--steps", "1"]) == 2
    assert expected in capsys.readouterr().err


def test_jpeg_artifacts_do_not_count_as_colour():
    f = load_operator(lambda x: x.mean(1, keepdim=True))
    picture = torch.zeros(1, 3, 8, 8) + torch.tensor([0.02, -0.02, 0.0]).view(1, 3, 1, 1)
    y, _ = to_measurement(picture, f, 8, "crop")
    assert y.shape == (1, 1, 8, 8) and float(y.abs().max()) < 1e-6


@pytest.mark.parametrize("task", [["--task", "sr2"], ["--task", "inpaint_random"], ["--task", "phase_retrieval"],
                                  own("fourier"), own("flat_grey")])  # fmt: skip
def test_measuring_then_restoring_equals_restoring_a_clean_image(here, prior, task):
    shared = [*task, *prior, "--sigma-v", "0.05", "--seed", "3"]
    assert main(["measure", "photo.png", *shared, "--out", "measured"]) == 0
    fixed = ["-n", "1", "--steps", "2", "--method", "nonaug", "--gamma", "0"]
    assert main(["restore", "photo.png", "--clean", *shared, *fixed, "--out", "one"]) == 0
    assert main(["restore", "measured/photo.safetensors", *shared, *fixed, "--out", "two"]) == 0
    y = read_measurement("measured/photo.safetensors")
    assert torch.equal(y, read_measurement("one/measurement.safetensors"))
    assert (here / "one/particles/00.png").read_bytes()[-64:] == (here / "two/particles/00.png").read_bytes()[-64:]
    assert torch.equal(read_image("one/particles/00.png"), read_image("two/particles/00.png"))
    assert (here / "measured/pictures/photo.png").is_file()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "sr5"], "Task sr5 needs a size that 5 divides"),
        (["--task", "operator"], "Task operator needs --operator"),
        (["--task", "sr44"], 'There is no task "sr44"'),
    ],
)
def test_invalid_measurements_are_reported(here, prior, flags, expected, capsys):
    assert main(["measure", "photo.png", *flags, *prior]) == 2
    assert expected in capsys.readouterr().err and not (here / "runs").exists()


def test_measurements_are_not_overwritten(here, prior, capsys):
    flags = ["measure", "photo.png", "--task", "sr2", *prior, "--out", "m"]
    assert main(flags) == 0 and main(flags) == 2
    assert "photo.safetensors already exists; choose another --out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "restored", "expected"),
    [
        ("--task sr2", "--task sr4", "was measured with --task sr2, but this run has --task sr4; give --task sr2."),
        (
            "--task inpaint_random --seed 3",
            "--task inpaint_random",
            "--seed 3, but this run has --seed 0; give --seed 3",
        ),
        ("--task sr2 --sigma-v 0.05", "--task sr2", "has noise of sigma_v 0.05, more than --sigma-v 0.001; give"),
        ("--task sr2 --downsample bicubic", "--task sr2", "--downsample bicubic, but this run has --downsample block"),
        ("--task deblur_gaussian --blur 2", "--task deblur_gaussian --blur 1.5", "with --blur 2.0, but this run has"),
        ("--task jpeg --quality 20", "--task jpeg --quality 30", "was measured with --quality 20, but this run has"),
        ("--task denoise_poisson --peak 9", "--task denoise_poisson --peak 8", "--peak 9.0, but this run has"),
    ],
)
def test_a_file_that_was_measured_otherwise_is_refused(here, prior, measured, restored, expected, capsys):
    assert main(["measure", "photo.png", *measured.split(), *prior, "--out", "m"]) == 0
    assert main(["restore", "m/photo.safetensors", *restored.split(), *prior, "-n", "1", "--dry-run"]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("more", ["--task jpeg --quality 20", "--task denoise_poisson --peak 9",
                                  "--task deblur_gaussian --blur 2", "--task sr2 --sigma-v 0.05"])  # fmt: skip
def test_a_file_says_what_the_flags_leave_open(here, prior, more, capsys):
    task, *given = more.split()[1:]
    assert main(["measure", "photo.png", *more.split(), *prior, "--out", "m"]) == 0
    left = ["--sigma-v", "0.06"] if task == "sr2" else []  # more noise than there is may be assumed
    options, _ = parse(["m/photo.safetensors", "--task", task, *left, *prior])
    operator = load(here / "m/photo.safetensors", options, 16, "a").operator
    wanted = make(parse(["m/photo.safetensors", *more.split(), *prior])[0], 16)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(operator(x), wanted(x))
    assert operator.name == wanted.name


def test_the_noise_of_a_measurement_without_a_mark_is_estimated(here, prior, capsys):
    x = torch.zeros(1, 3, 64, 64)
    write_measurement(
        here / "y.safetensors", x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    )
    options, _ = parse(["y.safetensors", "--task", "denoise", *prior])
    problem = load(here / "y.safetensors", options, 64, "a")
    assert problem.operator.noise_level(0.001) == pytest.approx(0.2, rel=0.1)
    assert "grey levels, as estimated" in problem.notes[0]
    for task, expected in (
        ("jpeg", "does not say the quality of its compression; give --quality"),
        ("scratches", "is a measurement, but task scratches looks at pictures; give a --mask"),
    ):
        assert main(["restore", "y.safetensors", "--task", task, *prior, "--dry-run"]) == 2
        assert expected in capsys.readouterr().err
