"""The pairs of `rsd compare`, their settings, and the size at which it compares images. Nothing is restored."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from rsd.cli import main
from rsd.media import fit_to, read_image, write_png
from rsd.runs.settings import layered
from rsd.tasks.inverse.compare import pairs as compare_pairs
from rsd.tasks.inverse.compare.equal_terms import Common
from rsd.tasks.inverse.compare.options import Compare
from rsd.tasks.inverse.compare.pairs import pairs
from rsd.tasks.inverse.compare.run import run_key, runnable
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.names import matched
from rsd.tasks.inverse.packaged import packaged, parse


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "0.png").touch()
    return tmp_path / "clean"


@pytest.mark.parametrize(
    ("task", "size", "reference", "own"),
    [
        ("sr4", 32, 64, "sr2"), ("sr4", 64, 64, "sr4"), ("sr8", 256, 512, "sr4"), ("sr2", 32, 64, None),
        ("sr3", 32, 64, None), ("sr16", 64, 32, None), ("hdr", 32, 64, "hdr"),
    ],
)  # fmt: skip
def test_matched_factors(task, size, reference, own):
    assert matched(task, size, reference) == own


@pytest.mark.parametrize(
    ("one", "other", "flags", "same"),
    [
        ("rlsd", "nonrepuls", ["--gamma=0"], True),
        ("rlsd", "nonrepuls", ["--gamma=2"], False),
        ("rlsd", "nonrepuls", ["--gamma=2", "--particles=1"], True),
        ("rlsd", "hybrid", ["--gamma=0"], True),
        ("rlsd", "hybrid", ["--gamma=2"], False),
        ("nonaug", "latent-red-diff", ["--gamma=0"], True),
        ("nonaug", "rlsd", ["--gamma=0"], False),
        ("svgd", "latent-red-diff", ["--gamma=0"], False),
        ("latent-dps", "particle-guidance", ["--gamma=0"], False),
    ],
)
def test_run_keys_are_equal_for_equal_updates(one, other, flags, same, images):
    kept = {"steps": 7, "lambda_": 0.1, "lr_z": 0.2, "hyper": ()}
    found = []
    for method in (one, other):
        gamma = flags if "gamma" in METHODS[method].uses else flags[1:]
        options = parse([str(images), "--task", "sr4", "--method", method, *gamma])[0]
        found.append(run_key(replace(options, **kept)))
    assert (found[0] == found[1]) == same


def test_a_method_without_settings_for_a_task_is_left_out_and_named(images, capsys, monkeypatch):
    monkeypatch.setattr(compare_pairs, "packaged", lambda task, *of: None if "rlsd" in of else packaged(task, *of))
    found, left_out = pairs(Compare(methods=("rlsd", "nonaug"), tasks=("phase_retrieval",), images=images))
    assert [(pair.method, pair.settings) for pair in found] == [("nonaug", "phase_retrieval_heads.yaml: nonaug")]
    assert list(left_out) == ["phase_retrieval by rlsd"] and "No settings are packaged" in left_out.popitem()[1]
    assert main(["compare", "--methods", "rlsd", "--tasks", "phase_retrieval", "--images", str(images)]) == 2
    assert "phase_retrieval by rlsd: No settings are packaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            50,
            {
                "rlsd": ("sr4_heads.yaml: rlsd, 50 steps", "exact", 0.05),
                "latent-dps": ("sr4_heads.yaml: latent-dps", "adam", 0.14),
            },
        ),
        (
            60,
            {
                "rlsd": ("sr4_heads.yaml: rlsd", "exact", 0.02),
                "latent-dps": ("sr4_heads.yaml: latent-dps", "adam", 0.14),
            },
        ),
    ],
)
def test_steps_take_the_preset_where_there_is_one(steps, expected, images):
    found, _ = pairs(Compare(methods=("rlsd", "latent-dps"), tasks=("sr4",), images=images, steps=steps))
    got = {p.method: (p.settings, p.options.x_step, p.options.lambda_) for p in found}
    assert got == expected and {pair.options.steps for pair in found} == {steps}


def test_all_networks_multiply_in_bfloat16_if_asked(images):
    for autocast in (False, True):
        found, _ = pairs(Compare(methods=("rlsd", "dps"), images=images, autocast=autocast))
        assert {pair.options.autocast for pair in found} == {autocast} and len(found) == 2


def test_heads_are_judged_at_one_size_by_the_same_attributes(heads_pixels, tmp_path):
    assert main(["heads", "--out", str(tmp_path / "heads"), "--number", "1"]) == 0
    methods, tasks = ("latent-dps", "dps"), ("inpaint_half_face", "sr4")
    options = Compare(methods=methods, tasks=tasks, images=tmp_path / "heads", out=tmp_path / "out")
    found, _ = pairs(options)
    common = Common.of(options, found, {"heads": 64, "heads-pixels": 32})
    truth, figures = read_image(found[0].jobs[0].path), {}
    for pair in found:
        answer = fit_to(truth, 64 if pair.method == "latent-dps" else 32, "crop")[0]
        folder = pair.cell(pair.jobs[0])
        folder.open({})
        for k in range(2):
            write_png(folder.path / "particles" / f"{k}.png", answer)
        figures[pair.title] = common.figures(pair, pair.jobs[0])
    for task in options.tasks:
        a, b = (figures[f"{task} by {method}"] for method in options.methods)
        assert set(a["coverage"]["distinct"]) == set(b["coverage"]["distinct"]) and a["div"] < 1e-6
        assert (len(a["coverage"]["distinct"]) > 0) == (task == "inpaint_half_face")  # 16 x 16 px tell all
        assert a["coverage"]["agreement"] > 0.8 and b["coverage"]["agreement"] > 0.8 and a["size"] == b["size"] == 32


def test_the_committed_comparison_runs_all_that_differs_and_was_set(images, heads_pixels):
    file = files("rsd.configs") / "compare" / "heads.yaml"
    flags = ["--config", str(file), "--images", str(images)]
    options, _ = layered(Compare, flags, prog="x", positional="")
    options.check()
    left = {"hybrid", "diffpir"}  # rlsd with fewer particles that repel; packaged for photographs only
    assert set(options.methods) == set(METHODS) - left and options.metrics == ("fid",)
    found, unset = pairs(options)
    able, others = runnable(found, {"heads": 64, "heads-pixels": 32})
    assert not unset
    linear = {f"{t} by {m}" for t in ("hdr", "phase_retrieval") for m in ("psld", "latino", "pigdm", "fps-smc")}
    plain = ("inpaint_random", "sr4", "deblur_motion", "hdr")  # gamma is 0
    twins = {f"{task} by nonrepuls" for task in (*plain, "phase_retrieval")}
    twins |= {f"{task} by latent-red-diff" for task in plain}
    assert set(others) == linear | twins
    assert len(able) == 6 * 18 - len(linear | twins) and all(pair.options.particles == 4 for pair in able)
    assert {p.options.task for p in able if p.task == "sr4" and p.options.prior == "heads-pixels"} == {"sr2"}


@pytest.mark.parametrize(
    ("flags", "task", "method", "same"),
    [
        ([], "inpaint_half_face", "rlsd", ""),
        (["--tasks", "sr4", "--downsample", "bicubic", "--steps", "50"], "sr4", "rlsd",
         "--downsample bicubic --preset 50"),
        (["--tasks", "sr4", "--steps", "60", "-n", "3", "--seed", "5"], "sr4", "latent-dps",
         "--steps 60 -n 3 --seed 5"),
        (["--mask", "mask.png", "--mask-hole", "white"], "inpaint_mask", "nonrepuls",
         "--mask mask.png --mask-hole white"),
        (["--box", "2", "9", "2", "9"], "inpaint_box", "rlsd", "--box 2 9 2 9"),
        (["--kernel", "mask.png", "--fit", "resize"], "deblur_motion", "psld", "--kernel mask.png --fit resize"),
        (["--tasks", "deblur_gaussian,hdr", "--kernel", "mask.png"], "deblur_gaussian", "rlsd", "--kernel mask.png"),
        (["--operator", "mine:blur", "--sigma-v", "0.05", "--metrics", "lpips"], "operator", "rlsd",
         "--operator mine:blur --sigma-v 0.05 --metrics lpips"),
    ],
)  # fmt: skip
def test_the_options_of_a_pair_are_those_of_rsd_restore(flags, task, method, same, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mask.png").touch()
    compare, _ = layered(Compare, ["--images", "clean", "--methods", method, *flags], prog="x", positional="")
    found, left_out = pairs(compare)
    pair = found[0]
    assert (pair.task, pair.method, left_out) == (task, method, {}) and len(found) == len(compare.tasks)
    argv = ["clean", "--task", task, "--method", method, "--prior", "heads", "--clean", "--resume", *same.split()]
    options, settings = parse([*argv, "--out", str(pair.folder)])
    assert pair.options == options and pair.settings == settings


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--tasks", "sr4,hdr", "--kernel", "mask.png"],
         "--kernel goes with the tasks deblur_motion and deblur_gaussian, but the tasks are sr4, hdr"),
        (["--mask", "mask.png", "--tasks", "sr4"], "--mask goes with the task inpaint_mask, but the task is sr4"),
        (["--downsample", "bicubic"], "--downsample goes with the tasks sr2 ... sr16, but the task is inpaint_half"),
        (["--tasks", "operator"], "Task operator needs --operator."),
        (["--tasks", "inpaint_mask,sr4"], "Task inpaint_mask needs --mask."),
        (["--mask", "alpha"], "--mask alpha is for damaged images"),
        (["--kernel", "none.npy"], "none.npy does not exist"),
        (["--box", "9", "2", "0", "1"], "box is 9 2 0 1; give FIRST_ROW LAST_ROW"),
    ],
)  # fmt: skip
def test_an_operator_option_that_no_task_reads_is_an_error(flags, expected, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mask.png").touch()
    assert main(["compare", "--images", "clean", "--methods", "rlsd", *flags]) == 2
    assert expected in capsys.readouterr().err
