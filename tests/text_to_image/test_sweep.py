"""`rsd sweep` as a user types it, on a tiny random prior at 16 px."""

import contextlib
import csv
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rsd.cli import main
from rsd.runs.folder import RunFolder
from rsd.runs.summary import write_csv
from rsd.tasks.text_to_image.plots import curves, means, tradeoff
from rsd.tasks.text_to_image.scores import FIGURES
from rsd.tasks.text_to_image.sweep import Sweep, prompts_of, settings


@pytest.fixture
def sweep(tiny_folder, tmp_path):
    def go(*arguments):
        fixed = ["--prior", str(tiny_folder("epsilon")), "--div-features", "pixels", "-n", "2", "--steps", "2"]
        out = tmp_path / "out"
        return main(["sweep", *fixed, "--out", str(out), *map(str, arguments)]), out

    return go


@pytest.fixture
def unplotted():
    """Replace the plot, which the first test and those of its labels draw, by a grey picture."""
    with pytest.MonkeyPatch.context() as patch:  # a test may undo its own
        grey = Image.new("L", (24, 24))
        patch.setattr("rsd.tasks.text_to_image.cells.tradeoff", lambda table, path: grey.save(path))
        yield


FLAGS = ("--methods", "sds", "--gammas", "0", "5", "--features", "pixels", "--prompts")


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("red dog\nred cat\n")
    return tmp_path / "prompts.txt"


def test_a_sweep_leaves_what_the_contract_says_and_does_nothing_twice(sweep, prompts, monkeypatch, capsys):
    code, out = sweep(*FLAGS, prompts)
    assert code == 0
    rows = json.loads((out / "sweep.json").read_text())
    assert [(r["method"], r["gamma"], r["features"], r["prompt"]) for r in rows] == [
        (method, gamma, features, prompt)
        for prompt in ("red dog", "red cat")
        for method, gamma, features in (("ancestral", 0, None), ("sds", 0, None), ("sds", 5, "pixels"))
    ]
    for row in rows:
        assert row["metrics"] == json.loads((out / row["folder"] / "metrics.json").read_text())
        assert row["metrics"]["div"] > 0
        steps = (out / row["folder"] / "steps.jsonl").read_text().count("\n")
        assert steps == (30 if row["method"] == "ancestral" else 2)
    with open(out / "sweep.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["div"]) for row in table] == [row["metrics"]["div"] for row in rows]
    assert table[0]["agreement"] == ""
    assert Image.open(out / "tradeoff.png").size == (896, 616)
    assert len(list((out / "grids").iterdir())) == 2
    grid = Image.open(next((out / "grids").iterdir()))
    assert grid.width == 2 * 198 + 6 and grid.height == 3 * (192 + 16 + 6) + 6
    capsys.readouterr()

    monkeypatch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    before = (out / "sweep.json").read_text()
    assert sweep(*FLAGS, prompts)[0] == 0
    assert (out / "sweep.json").read_text() == before and "0 to do" in capsys.readouterr().out


def test_an_interrupted_sweep_resumes_and_grows(sweep, unplotted, monkeypatch, capsys):
    finish = RunFolder.finish

    def killed(self, metrics):
        finish(self, metrics)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "finish", killed)
    code, out = sweep("red dog", *FLAGS[:-1])
    assert code == 130 and not (out / "sweep.json").exists()
    assert "the same command continues" in capsys.readouterr().err
    monkeypatch.undo()
    first = next(out.rglob("metrics.json"))
    before = first.stat().st_mtime_ns
    assert sweep("red dog", *FLAGS[:-1])[0] == 0 and first.stat().st_mtime_ns == before
    own = "tests.text_to_image.test_sweep:dark"
    more = ("red dog", "--methods", "sds", "--gammas", "0", "5", "9", "--features", "pixels", own)
    assert sweep(*more)[0] == 0
    rows = json.loads((out / "sweep.json").read_text())
    assert len(rows) == 6 and first.stat().st_mtime_ns == before
    assert {row["features"] for row in rows if row["gamma"]} == {"pixels", own}


def test_other_settings_change_nothing_that_was_swept(sweep, unplotted, monkeypatch, capsys):
    code, out = sweep("red dog", *FLAGS[:-1])
    assert code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert sweep("a red dog", "red dog", *FLAGS[:-1], "--seed", "7")[0] == 2
    assert "seed 0 is now 7; choose another --out" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_sweep_measures_what_is_requested_later_and_goes_into_no_other_folder(sweep, unplotted, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert sweep("red dog", *FLAGS[:-1])[0] == 2 and "contains other files" in capsys.readouterr().err
    (tmp_path / "out" / "thesis.tex").unlink()
    assert sweep("red dog", *FLAGS[:-1])[0] == 0
    own = "tests.text_to_image.test_sweep:dark"
    code, out = sweep("red dog", *FLAGS[:-1], "--div-features", own)
    rows = json.loads((out / "sweep.json").read_text())
    assert code == 0 and {row["metrics"]["div_features"] for row in rows} == {own}
    assert capsys.readouterr().out.count("added: div") == 3


def dark(x):
    """A user's feature map."""
    return -(x.flatten(1).mean(1, keepdim=True) ** 2)


def test_one_bad_setting_does_not_stop_the_others(sweep, unplotted, capsys):
    code, out = sweep("red dog", "--methods", "sds", "--gammas", "0", "1e38", "--features", "pixels")
    assert code == 1 and "failed: sds, gamma 1e+38, pixels: red dog" in capsys.readouterr().err
    assert len(json.loads((out / "sweep.json").read_text())) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "vds"], 'Did you mean "vsd"'),
        (["--gammas", "0", "0"], "give each value once"),
        (["--methods", "particle-guidance", "--lr", "0.1"], "--lr has no effect on particle-guidance"),
        (["--gammas", "nan"], "finite"),
        (["--features", "pixel"], 'Did you mean "pixels"'),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--prior", "some/model"], "held-out prompts are for priors over heads"),
        (["--particles", "0"], "particles is 0"),
        (["--revision", "main"], "--revision goes with priors from the hub, but the prior is heads"),
    ],
)
def test_bad_input_is_reported_before_any_model_is_loaded(flags, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert main(["sweep", *flags]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_the_paper_s_sweep_is_the_default():
    sweep = Sweep()
    assert len(prompts_of(sweep)) == 16
    points = settings(sweep)
    assert [(p.method, p.gamma) for p in points] == [("ancestral", 0), *(("vsd", g) for g in (0, 10, 20, 30, 40))]
    assert {p.options.features_name for p in points} == {"heads"} and points[0].options.steps == 30


def swept(method, gamma, **figures):
    row = {"method": method, "gamma": gamma, "features": "heads" if gamma else None, "prompt": "a"}
    return {**row, **dict.fromkeys(FIGURES), **figures}


def test_what_a_sweep_left_stays_if_its_new_files_cannot_be_made(tmp_path, monkeypatch):
    write_csv(tmp_path / "sweep.csv", [{"a": 1}], ["a"])
    tradeoff([swept("vsd", 0, div=0.1)], tmp_path / "tradeoff.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        write_csv(tmp_path / "sweep.csv", [{"a": 2}, {"b": 3}], ["a"])

    def half(self, file, **options):
        with open(file, "wb") if isinstance(file, Path) else contextlib.nullcontext(file) as at:
            at.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space"):
        tradeoff([swept("vsd", 0, div=0.2)], tmp_path / "tradeoff.png")
    plt.close("all")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("figures", "label"),
    [
        ({}, "diversity: Div (no quality was measured)"),
        ({"clip": 20.0}, "CLIP score (100 x cosine)"),
        ({"agreement": 0.5, "clip": 20.0}, "agreement with the prompt"),
    ],
)
def test_the_plot_says_what_its_height_is(figures, label, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    tradeoff([swept("vsd", gamma, div=0.1 + gamma, **figures) for gamma in (0, 1)], tmp_path / "a.png")
    assert plt.gcf().axes[0].get_ylabel() == label
    monkeypatch.undo()
    plt.close("all")


@pytest.mark.parametrize(
    ("figures", "lowest", "highest"),
    [({"agreement": (1.0, 0.9)}, 0, 1), ({"agreement": (0.0, 0.02)}, 0, 1), ({"clip": (20.0, 30.0)}, 0, 100)],
)
def test_axes_end_where_their_figures_do(figures, lowest, highest, tmp_path, monkeypatch):
    """Axes of shares stay within 0 and 1, and that of Div does not go below 0, whatever the margins."""
    monkeypatch.setattr(plt, "close", lambda figure: None)
    ((name, values),) = figures.items()
    points = zip((0, 9), (0.0, 0.3), values, strict=True)
    tradeoff([swept("vsd", gamma, div=div, **{name: y}) for gamma, div, y in points], tmp_path / "a.png")
    axis = plt.gcf().axes[0]
    bottom, top = axis.get_ylim()
    edges = axis.get_xlim()
    marks = [line.get_clip_on() for line in axis.lines]
    monkeypatch.undo()
    plt.close("all")
    assert lowest <= bottom <= min(values) and max(values) <= top <= highest
    assert edges[0] == 0 and edges[1] > 0.3 and marks == [False]  # nor is a mark at the edge cut
    if max(values) == 1:
        assert top == 1 and 0.85 < bottom < 0.9


def test_the_labels_of_near_points_do_not_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    table = [swept("ancestral", 0, div=0.5, agreement=0.95)]
    for k, method in enumerate(("vsd", "sds", "svgd")):
        for j, gamma in enumerate((0, 10, 20, 30, 40)):
            bent = 0.002 * ((7 * j + 3 * k) % 5) - 0.004 * k
            table.append(swept(method, gamma, div=0.3 + 0.015 * j + 0.01 * k, agreement=0.9 + bent))
    tradeoff(table, tmp_path / "a.png")
    axis = plt.gcf().axes[0]
    boxes = [text.get_window_extent() for text in axis.texts]
    points = [axis.transData.transform(list(zip(*line.get_data(), strict=True))) for line in axis.lines]
    monkeypatch.undo()
    plt.close("all")
    assert len(boxes) == 15
    assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert not [1 for box in boxes for x, y in np.concatenate(points) if box.contains(x, y)]


def test_a_curve_starts_at_its_method_s_gamma_zero():
    def row(method, gamma, features, div, prompt):
        figures = dict.fromkeys(("vendi", "agreement", "coverage", "clip", "aesthetic", "seconds"))
        return {"method": method, "gamma": gamma, "features": features, "prompt": prompt, "div": div, **figures}

    table = [row("vsd", 0, None, 0.1, "a"), row("vsd", 0, None, 0.3, "b"), row("ancestral", 0, None, 1.0, "a")]
    table += [row("vsd", 9, "pixels", 0.5, "a"), row("vsd", 9, "heads", 0.6, "a")]
    assert means(table)["vsd", None, 0]["div"] == pytest.approx(0.2)
    found = {label: [(g, f["div"]) for g, f in points] for label, points in curves(table).items()}
    expected = pytest.approx(0.2)
    assert found == {"vsd, pixels": [(0, expected), (9, 0.5)], "vsd, heads": [(0, expected), (9, 0.6)]}
