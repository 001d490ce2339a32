"""`rsd compare`, `rsd methods` and `rsd tasks`, on tiny random priors: latents of 16 px, pixels of 32 px."""

from __future__ import annotations

import csv
import json
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from rsd.citations import BIBTEX, short
from rsd.cli import main
from rsd.settings import layered
from rsd.tasks.inverse.methods import FIELD
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
    """Latent DPS and DPS of 3 steps each, with 2 particles."""

    def go(methods="latent-dps,dps", tasks="sr2,hdr:1", *more):
        fixed = ["--images", str(images), "--out", str(tmp_path / "out"), "--prior", str(tiny_folder("epsilon"))]
        return main(
            ["compare", "--methods", methods, "--tasks", tasks, "--particles=2", "--steps=3", *fixed, *DIV, *more]
        )

    return go, tmp_path / "out"


DIV = ("--div-features", "pixels")


def test_a_comparison_leaves_what_the_contract_says(compare):
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
    lines = list(csv.DictReader((out / "compare.csv").open()))
    assert len(lines) == 6 and float(lines[2]["psnr_mean"]) == pytest.approx(rows[2]["metrics"]["psnr"]["mean"])
    text = (out / "compare.md").read_text()
    assert "## sr2" in text and "PSNR at 16 px" in text and "Chung et al. (2023)" in text
    assert Image.open(out / "grid.png").width > 200


def test_the_same_command_goes_on_and_does_only_what_is_missing(compare, capsys):
    go, out = compare
    assert go() == 0
    before = (out / "compare.json").read_text()
    (out / "cells" / "sr2-dps" / "1.png" / "metrics.json").unlink()
    capsys.readouterr()
    assert go() == 0
    told = capsys.readouterr().out
    assert "sr2 by dps: 1 of 2 to do" in told and "latent-dps: " not in told
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


def test_other_settings_are_refused_before_anything_is_written(compare, capsys):
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
    ("flags", "told"),
    [
        (["--methods", "dsp"], 'Unknown method "dsp". Did you mean "dps"?'),
        (["--tasks", "sr2:x"], 'The task "sr2:x" has no number after its colon'),
        (["--tasks", "sr4,sr4"], "one is given twice"),
        (["--images", "nowhere"], "nowhere is no folder of images"),
    ],
)
def test_mistakes_are_told_at_once(flags, told, images, capsys):
    assert main(["compare", "--images", str(images), *flags]) == 2
    assert told in capsys.readouterr().err


def test_the_committed_comparison_has_every_method_that_fits(images):
    from rsd.tasks.inverse.compare import Compare, pairs
    from rsd.tasks.inverse.job import check_method

    file = files("rsd.configs") / "compare" / "heads.yaml"
    flags = ["--config", str(file), "--images", str(images)]
    options, _ = layered(Compare, flags, prog="x", positional="", folder="inverse", packaged=lambda _: (None, ()))
    options.check()
    found = pairs(options)
    assert {pair.method for pair in found} == set(FIELD) - {"hybrid", "nonaug", "score-prior"}
    assert len(found) == 6 * 14 and all(pair.options.particles == 4 for pair in found)
    for pair in found:
        if pair.options.prior == "heads" and pair.method != "psld":
            check_method(pair.options, 64)


def test_methods_and_tasks_are_listed_with_their_citations(capsys):
    assert main(["methods"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{told}" for name in FIELD)
    assert "--hyper omega=1.0 gamma=0.1 eta=1.0" in told and "Rout et al. (2023), https://arxiv.org/abs/2307" in told
    assert main(["tasks"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in TASK) and "Saharia et al. (2022)" in told
    assert main(["tasks", "sr4"]) == 2


@pytest.mark.parametrize("key", BIBTEX)
def test_every_work_has_a_short_form(key):
    assert short(key).count("20") >= 1 and "https://" in short(key) and "{" not in short(key)


def test_works_of_methods_and_tasks_are_known():
    assert {work for entry in FIELD.values() for work in entry.works} <= set(BIBTEX)
    assert {work for _, work in TASK.values()} <= set(BIBTEX)
