"""The study of held-out heads: its table, and figures that are not measured twice."""

from __future__ import annotations

import json
import sys
from typing import get_args, get_type_hints

import pytest

from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.packaged import parse
from scripts import study

STUDIES = get_args(get_args(get_type_hints(study.Study, include_extras=True)["name"])[0])
NAMES = ["psld", "proximal-guidance"]


def figures(mean: float) -> study.Figures:
    return {"PSNR mean [dB]": mean, "Div": 0.1}


def test_rows_are_compared_over_the_heads_that_both_have():
    psld = {"a": figures(20.0), "b": figures(30.0), "c": figures(90.0)}
    rows = study.table({"psld": psld, "own": {"a": figures(21.0), "b": figures(33.0)}}, {"psld": "psld", "own": "psld"})
    assert rows[0]["PSNR mean [dB]"] == pytest.approx(140 / 3) and "PSNR mean [dB] difference" not in rows[0]
    mean, half = rows[1]["PSNR mean [dB] difference"]
    assert mean == pytest.approx(2.0) and half == pytest.approx(12.706, rel=1e-3)  # Student, 1 degree of freedom
    assert rows[1]["coverage"] is None and "(+2.00" in study.markdown(rows, paired=True)


def test_other_tasks_are_compared_within_a_task():
    names = ["sr4 rlsd", "sr4 proximal-guidance", "hdr nonaug", "hdr proximal-guidance"]
    assert list(study.base_of("others", names).values()) == ["sr4 rlsd", "sr4 rlsd", "hdr nonaug", "hdr nonaug"]
    assert set(study.base_of("proximal", names).values()) == {"sr4 rlsd"}


def test_heads_of_the_file_of_figures_are_not_run_again(tmp_path, monkeypatch, capsys):
    file, ran = tmp_path / "figures.json", []

    def run_missing(flags, out, heads, extra):
        ran.append([head.name for head in heads])
        return {head.name: figures(31.0) for head in heads}

    monkeypatch.setattr(study, "run_missing", run_missing)
    study.write_figures(file, {"psld": {"head-0000.png": figures(28.0)}, "elsewhere": {"head-0007.png": figures(1.0)}})
    argv = ["study", "proximal", "--heads", "2", "--out", str(tmp_path / "out"), "--figures", str(file)]
    monkeypatch.setattr(sys, "argv", [*argv, "--rows", ",".join(NAMES)])
    study.main()
    assert ran == [["head-0001.png"], ["head-0000.png", "head-0001.png"]]
    known = json.loads(file.read_text())
    assert known["psld"]["head-0000.png"]["PSNR mean [dB]"] == 28.0 and known["psld"]["head-0001.png"] == figures(31.0)
    assert known["elsewhere"] == {"head-0007.png": figures(1.0)}  # what this run did not ask for stays
    assert "29.5" in capsys.readouterr().out  # the mean of both heads


@pytest.mark.parametrize("name", STUDIES)
def test_rows_are_commands(name, tmp_path):
    for flags in study.variants(study.Study(name)).values():
        options, _ = parse(
            [str(tmp_path), "--clean", *flags]
        )  # raises ValueError for a flag that the method does not read
        assert options.task and options.method in METHODS
