"""`rsd compare`, `rsd methods` and `rsd tasks`, on tiny random priors: latents of 16 px, pixels of 32 px."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rsd.cli import main
from rsd.media import fit_to, read_image, read_measurement
from rsd.metrics import frechet, kernel_distance
from rsd.runs.citations import BIBTEX, short
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.names import TASK


@pytest.fixture
def images(tmp_path):
    (tmp_path / "clean").mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "clean" / f"{k}.png")
    return tmp_path / "clean"


@pytest.fixture
def compare(heads_pixels, tiny_folder, images, tmp_path):
    """Compare Latent DPS and DPS with 3 steps each and 2 particles."""

    def go(methods="latent-dps,dps", tasks="sr2,hdr:1", *more):
        fixed = ["--images", str(images), "--out", str(tmp_path / "out"), "--prior", str(tiny_folder("epsilon"))]
        return main(
            ["compare", "--methods", methods, "--tasks", tasks, "--particles=2", "--steps=3", *fixed, *DIV, *more]
        )

    return go, tmp_path / "out"


DIV = ("--div-features", "pixels")


def test_a_comparison_writes_the_documented_files(compare):
    go, out = compare
    assert go() == 0
    assert {p.name for p in out.iterdir()} == {"compare.json", "compare.csv", "compare.md", "grid.png", "cells"}
    rows = json.loads((out / "compare.json").read_text())
    assert [(row["task"], row["method"], row["image"]) for row in rows] == [
        ("sr2", "latent-dps", "0.png"), ("sr2", "latent-dps", "1.png"),
        ("sr2", "dps", "0.png"), ("sr2", "dps", "1.png"),
        ("hdr", "latent-dps", "0.png"), ("hdr", "dps", "0.png"),
    ]  # fmt: skip
    for row in rows:
        calls = row["network_calls"]
        assert calls["unet_forward"] == calls["unet_backward"] == 2 * 3
        assert (calls.get("decoder_backward", 0) == 2 * 3) == (row["method"] == "latent-dps")
        assert row["peak_bytes"] > 2**20 and row["seconds"] > 0
        assert row["metrics"]["common"]["size"] == 16 and row["metrics"]["div"] > 0
    same = [row["metrics"] for row in rows if row["method"] == "latent-dps"]  # 16 px is its own size
    assert all(abs(m["common"]["psnr"]["mean"] - m["psnr"]["mean"]) < 0.05 for m in same)
    assert all(abs(m["common"]["div"] - m["div"]) < 0.05 and m["common"]["div_features"] == "pixels" for m in same)
    lines = list(csv.DictReader((out / "compare.csv").open()))
    assert len(lines) == 6 and float(lines[2]["psnr_mean"]) == pytest.approx(rows[2]["metrics"]["psnr"]["mean"])
    text = (out / "compare.md").read_text()
    assert "## sr2" in text and "PSNR, SSIM, Div, Vendi: of images at 16 px" in text and "Chung et al. (2023)" in text
    assert Image.open(out / "grid.png").width > 200


def test_the_same_command_resumes_and_does_only_what_is_missing(compare, capsys):
    go, out = compare
    assert go() == 0
    before = (out / "compare.json").read_text()
    (out / "cells" / "sr2-dps" / "1.png" / "metrics.json").unlink()
    capsys.readouterr()
    assert go() == 0
    output = capsys.readouterr().out
    assert "sr2 by dps: 1 of 2 to do" in output and "latent-dps: " not in output
    after = json.loads((out / "compare.json").read_text())
    assert [row["metrics"] for row in after] == [row["metrics"] for row in json.loads(before)]


def test_shards_do_a_part_each_and_the_whole_command_writes_the_table(compare, capsys):
    go, out = compare
    assert go("latent-dps,dps", "sr2,hdr:1", "--shard", "0/2") == 0
    assert "the same command without --shard writes the table" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"cells"}
    assert {p.name for p in (out / "cells").iterdir()} == {"sr2-latent-dps", "hdr-latent-dps"}
    assert go("latent-dps,dps", "sr2,hdr:1", "--shard", "1/2") == 0
    capsys.readouterr()
    assert go() == 0 and "to do" not in capsys.readouterr().out
    assert len(json.loads((out / "compare.json").read_text())) == 6
    assert go("latent-dps", "sr2", "--shard", "2/2") == 2


def test_other_settings_are_rejected_before_anything_is_written(compare, capsys):
    go, out = compare
    assert go() == 0
    before = sorted(out.rglob("*"))
    assert go("latent-dps,dps,psld", "sr2", "--seed", "3") == 2
    assert "Cannot resume" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before


def test_a_method_that_does_not_fit_is_left_out_and_named(compare, capsys):
    go, out = compare
    assert go("latent-dps,psld", "hdr:1") == 0
    assert "Method psld needs a linear operator" in (out / "compare.md").read_text()
    assert {row["method"] for row in json.loads((out / "compare.json").read_text())} == {"latent-dps"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--methods", "dsp"], 'Unknown method "dsp". Did you mean "dps"?'),
        (["--tasks", "sr2:x"], 'The task "sr2:x" has no number after its colon'),
        (["--tasks", "sr4:8,sr4"], "tasks sr4:8 sr4: one is given twice"),
        (["--images", "nowhere"], "nowhere is no folder of images"),
    ],
)
def test_mistakes_are_reported_at_once(flags, expected, images, capsys):
    assert main(["compare", "--images", str(images), *flags]) == 2
    assert expected in capsys.readouterr().err


def test_methods_of_either_size_get_as_many_pixels_of_srk(compare):
    go, out = compare
    assert go("latent-dps,dps", "sr2:1") == 0
    shapes = {}
    for row in json.loads((out / "compare.json").read_text()):
        y = read_measurement(out / row["folder"] / "measurement.safetensors")
        shapes[row["method"]] = (row["task"], row["run_as"], row["prior"] == "heads-pixels", tuple(y.shape))
    assert shapes == {
        "latent-dps": ("sr2", "sr2", False, (1, 3, 8, 8)),
        "dps": ("sr2", "sr4", True, (1, 3, 8, 8)),
    }  # fmt: skip
    assert (
        "sr2 is sr4 for heads-pixels, so that all measure the same number of pixels" in (out / "compare.md").read_text()
    )
    assert go("latent-dps,dps", "sr16:1") == 0
    assert (
        "sr16 by dps: No srK of heads-pixels (32 px) leaves as many px as sr16 of" in (out / "compare.md").read_text()
    )


def test_a_distance_asked_for_later_is_measured_and_is_of_the_rows_images(compare, monkeypatch):
    go, out = compare
    assert go("latent-dps,dps", "sr2") == 0
    assert all(row["fid"] is None for row in json.loads((out / "compare.json").read_text()))
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    assert go("latent-dps,dps", "sr2", "--metrics", "fid") == 0
    rows = json.loads((out / "compare.json").read_text())
    for method in ("latent-dps", "dps"):
        mine = [row for row in rows if row["method"] == method]
        answers = [read_image(path) for row in mine for path in sorted((out / row["folder"]).glob("particles/*.png"))]
        a = torch.cat([F.interpolate(x, size=(16, 16), mode="area") for x in answers]).flatten(1)
        size = answers[0].shape[-1]
        truths = [fit_to(read_image(out.parent / "clean" / row["image"]), size, "crop")[0] for row in mine]
        b = torch.cat([F.interpolate(x, size=(16, 16), mode="area") for x in truths]).flatten(1)
        output = {"value": pytest.approx(frechet(a, b)), "kid": pytest.approx(kernel_distance(a, b))}
        assert [row["fid"] for row in mine] == 2 * [{**output, "features": "pixels", "images": 2, "particles": 4}]
    lines = list(csv.DictReader((out / "compare.csv").open()))
    assert float(lines[0]["fid"]) == pytest.approx(rows[0]["fid"]["value"]) and lines[0]["fid_features"] == "pixels"
    assert "| Frechet | KID |" in (out / "compare.md").read_text()
    assert go("latent-dps,dps", "sr2:1", "--metrics", "fid") == 0  # of one image there is none
    assert [row["fid"] for row in json.loads((out / "compare.json").read_text())] == [None, None]


def test_a_run_that_repeats_another_is_named_and_skipped(compare, images, tiny_folder, tmp_path):
    go, out = compare
    assert go("rlsd,nonrepuls", "sr2:1") == 0
    assert [row["method"] for row in json.loads((out / "compare.json").read_text())] == ["rlsd"]
    assert "- sr2 by nonrepuls: nonrepuls is rlsd here: gamma is 0." in (out / "compare.md").read_text()
    assert {p.name for p in (out / "cells").iterdir()} == {"sr2-rlsd"}
    own = ["--task", "sr2", "--method", "nonrepuls", "--prior", str(tiny_folder("epsilon")), "--clean"]
    fixed = ["--steps", "3", "--particles", "2", *DIV, "--out", str(tmp_path / "own")]
    assert main(["restore", str(images / "0.png"), *own, *fixed]) == 0
    folders = (out / "cells/sr2-rlsd/0.png", tmp_path / "own")
    pictures = [[read_image(p) for p in sorted(folder.glob("particles/*.png"))] for folder in folders]
    assert all(torch.equal(a, b) for a, b in zip(*pictures, strict=True)) and len(pictures[0]) == 2


def test_a_users_mask_and_operator_reach_every_method(compare, tmp_path, monkeypatch):
    go, out = compare
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "compared_operator.py").write_text("def dim(x):\n    return 0.5 * x\n")
    hole = np.full((32, 32), 255, np.uint8)
    hole[8:16] = 0
    Image.fromarray(hole).save(tmp_path / "mask.png")
    own = ["--mask", str(tmp_path / "mask.png"), "--operator", "compared_operator:dim", "--sigma-v", "0"]
    assert go("latent-dps,dps", "inpaint_mask:1,operator:1", *own) == 0
    rows = json.loads((out / "compare.json").read_text())
    assert [(row["task"], row["method"]) for row in rows] == [
        (task, method) for task in ("inpaint_mask", "operator") for method in ("latent-dps", "dps")
    ]
    for row in rows:
        y = read_measurement(out / row["folder"] / "measurement.safetensors")
        size = y.shape[-1]
        x = fit_to(read_image(out.parent / "clean" / "0.png"), size, "crop")[0]
        if row["task"] == "operator":
            assert torch.allclose(y, 0.5 * x)
        else:
            first, last = 8 * size // 32, 16 * size // 32
            assert (y[..., first:last, :] == 0).all()
            assert torch.allclose(y[..., : first - 1, :], x[..., : first - 1, :])


def test_methods_and_tasks_are_listed_with_their_citations(capsys):
    assert main(["methods"]) == 0
    output = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{output}" for name in METHODS)
    assert (
        "--hyper omega=1.0 gamma=0.1 eta=1.0" in output and "Rout et al. (2023), https://arxiv.org/abs/2307" in output
    )
    assert main(["tasks"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in TASK) and "Saharia et al. (2022)" in output
    assert main(["tasks", "sr4"]) == 2


@pytest.mark.parametrize("key", BIBTEX)
def test_every_work_has_a_short_form(key):
    assert short(key).count("20") >= 1 and "https://" in short(key) and "{" not in short(key)


def test_works_of_methods_and_tasks_are_known():
    assert {work for entry in METHODS.values() for work in entry.works} <= set(BIBTEX)
    assert {work for _, work in TASK.values()} <= set(BIBTEX)
