"""``rsd calibrate`` from the command line to its tables."""

import csv
import io
import json
import math

import matplotlib.pyplot as plt
import pytest
import yaml
from PIL import Image

from rsd.cli import main
from rsd.tasks.calibrate import scoring
from rsd.tasks.calibrate.command import main as calibrate
from rsd.tasks.calibrate.options import Calibrate
from rsd.tasks.calibrate.report import reliability, write
from tests.calibrate.pictures import remembered

ARGUMENTS = ["--heads", "1", "-n", "2", "--steps", "4", "--methods", "proximal-guidance", "--gammas", "0,8"]


@pytest.fixture(scope="module", autouse=True)
def few_renders():
    """Render every head once, and take four reference points for the test of coverage instead of 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "picture", remembered)
        patch.setattr(scoring, "REFERENCES", 4)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrate") / "out"
    assert calibrate([*ARGUMENTS, "--out", str(out)]) == 0
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Replace the files of plots by a grey picture; the fixture ``out`` draws them."""

    def grey(figure):
        plt.close(figure)
        buffer = io.BytesIO()
        Image.new("L", (24, 24)).save(buffer, format="png")
        return buffer.getvalue()

    monkeypatch.setattr("rsd.tasks.calibrate.report.as_png", grey)


def test_each_gamma_is_a_row_beside_exact_draws(out):
    found = json.loads((out / "calibration.json").read_text())
    assert [row["method"] for row in found["rows"]] == [
        "exact draws", "draws by rejection", "exact draws, through the autoencoder", "proximal-guidance, γ = 0",
        "proximal-guidance, γ = 8",
        "proximal-guidance, γ = 8, weighted",
    ]  # fmt: skip
    exact, rejected, encoded, free, repelled, weighted = found["rows"]
    assert rejected["invented"] == 0 and rejected["energy"] >= 0
    assert exact["invented"] == 0 and exact["read"] == 1
    assert free["steps"] == repelled["steps"] == 4 and free["particles"] == 2
    assert 1 <= weighted["effective"] < 2 == repelled["effective"] and weighted["tarp_gap"] is None
    configs = sorted(out.glob("cells/*/*/config.yaml"))
    assert [yaml.safe_load(path.read_text())["gamma"] for path in configs] == [0.0, 8.0]
    lines = list(csv.DictReader((out / "calibration.csv").open()))
    assert float(lines[0]["crps"]) == pytest.approx(exact["crps"]) and len(lines) == 6
    page = (out / "calibration.html").read_text()
    assert "proximal-guidance, γ = 8" in page and page.count("data:image/webp") == 5


def test_the_same_command_again_restores_nothing(out, undrawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/particles/*.png")}
    assert calibrate([*ARGUMENTS, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/particles/*.png")} == before and before
    assert "to do" not in capsys.readouterr().out


def test_a_figure_that_is_not_a_number_is_null_and_a_dash(out, tmp_path, capsys):
    rows = json.loads((out / "calibration.json").read_text())["rows"]
    rows[3] |= {"calibration_error": math.nan, "calibration_error_interval": (math.nan, math.nan), "tv": math.nan}
    write(Calibrate(out=tmp_path), rows, None)
    found = json.loads((tmp_path / "calibration.json").read_text())["rows"][3]
    assert found["calibration_error"] is found["tv"] is None and found["calibration_error_interval"] == [None, None]
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {rows[3]['method']} | –")]
    assert "nan" not in line


def test_the_plot_names_every_row_in_one_colour(out):
    rows = json.loads((out / "calibration.json").read_text())["rows"]
    figure = reliability(rows)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [row["method"] for row in rows]
    colours = [{line.get_label(): line.get_color() for line in axis.get_lines()} for axis in (left, right)]
    assert all(colours[0][row["method"]] == colours[1][row["method"]] for row in rows[:5])
    assert rows[5]["method"] not in colours[0]  # weighted samples have no interval
    plt.close(figure)


def test_other_heads_in_the_same_folder_are_refused(out):
    with pytest.raises(ValueError, match="has other heads.*--first"):
        calibrate([*ARGUMENTS[2:], "--heads", "1", "--first", "3", "--out", str(out)])


def test_shards_restore_and_write_no_table(tmp_path, capsys):
    assert calibrate([*ARGUMENTS, "--steps", "1", "--out", str(tmp_path), "--shard", "1/2"]) == 0
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["inpaint_half_face-proximal-guidance-gamma-8"]
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"particles": 1}, "particles is 1"), ({"methods": ("red-diff",), "gammas": (1.0,)}, "has a gamma"),
     ({"prior": "sd2-community/x"}, "no prior over heads"), ({"methods": ()}, "methods is empty"),
     ({"gammas": (1.0, 1.0)}, "each once"), ({"task": "sr3x"}, "no task")],
)  # fmt: skip
def test_values_that_cannot_work(given, message):
    with pytest.raises(ValueError, match=message):
        Calibrate(**given).check()


def test_a_task_that_hides_nothing(tmp_path, capsys):
    assert main(["calibrate", *ARGUMENTS, "--task", "sr2", "--out", str(tmp_path)]) == 2
    assert "hides no attribute" in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()  # before any run
