"""Small experiments: their outputs, and that they resume."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from PIL import Image

from rsd import hub, metrics
from rsd.cli import main
from rsd.media import read_image
from rsd.tasks.reproduce import run as module
from rsd.tasks.reproduce.experiments import find
from rsd.tasks.reproduce.experiments.entry import Claim, Entry, Row
from rsd.tasks.reproduce.options import Reproduce
from rsd.tasks.reproduce.plan import Plan, plan
from rsd.tasks.reproduce.report import entry_page
from rsd.tasks.reproduce.run import finished, reproduce, summarise

SMALL = Reproduce(name="small", steps=2, number=2, device="cpu")
HALF = {"task": "inpaint_half_face", "particles": 2}
RESTORED = Entry(
    "small", "Table 0", "Less <is> more.",
    (
        Row("one", {**HALF, "method": "nonrepuls"}), Row("pixels", {**HALF, "method": "dps"}),
        Row("none", {**HALF, "method": "nonsense"}), Row("broken", {**HALF, "method": "rlsd", "gamma": math.nan}),
    ),
    (
        Claim("better than nothing", "psnr_small", (-50.0, "one")), Claim("never", "psnr", ("one", -50.0)),
        Claim("not here", "psnr", ("none", "one")), Claim("nor here", "psnr", ("broken", "one")),
    ),
    figures=("psnr_small", "psnr", "psnr_best", "sharpness", "div"), plots=(("div", "psnr"),),
)  # fmt: skip
DRAWN = Entry(
    "drawn", "Fig. 0", "Drawn.", (Row("ancestral", {"method": "ancestral", "particles": 2}),),
    (Claim("something", "div", ("ancestral", 2.0)),),
    command="text-to-image", data="captions", figures=("div", "agreement"),
)  # fmt: skip
TINY = {"particles": 2, "turntable": 3, "mesh_resolution": 8, "samples": 4, "grid": (4,), "gamma": 1}
SCENES = Entry(
    "scenes", "Figs 0", "Scenes.",
    (Row("scenes", TINY),),
    (Claim("something", "div", ("scenes", 2.0)),), command="text-to-3d", data="sundae", figures=("div",),
)  # fmt: skip


@pytest.fixture(scope="module")
def without_pixels(tmp_path_factory):
    """The built-in models without the prior in pixel space."""
    folder = tmp_path_factory.mktemp("weights")
    for part in hub.BUILT_IN.iterdir():
        if part.name != "pixel":
            (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture(scope="module")
def restored(without_pixels, tmp_path_factory):
    """An experiment on restorations, run once and read only, without a prior in pixel space."""
    out = tmp_path_factory.mktemp("restored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "BUILT_IN", without_pixels)
        return reproduce(RESTORED, SMALL, out, out), out


def test_claims_json_is_as_documented(restored):
    outcome, out = restored
    claims = json.loads((out / "claims.json").read_text())
    assert [claim["held"] for claim in claims] == [True, False, None, None]
    assert [claim["state"] for claim in claims] == ["held", "not held", "not measured", "not measured"]
    assert {"claim", "held", "measured"} <= set(claims[0])
    assert claims[2]["reason"] == "none needs the method nonsense, which this version does not have"
    assert "gamma is nan" in claims[3]["reason"]
    assert set(outcome.failures) == {"broken"} and "heads-pixels" in outcome.reasons["pixels"]


def test_figures_are_those_of_the_pictures(restored):
    _, out = restored
    figures = json.loads((out / "figures.json").read_text())["one"]["items"]
    assert set(figures) == {"head-0000.png", "head-0001.png"}
    (run,) = (out / "runs").iterdir()
    answers = torch.cat([read_image(p) for p in sorted((run / "head-0001.png" / "particles").glob("*.png"))])
    truth = read_image(out / "data" / "faces" / "head-0001.png")
    halved = [torch.nn.functional.avg_pool2d(x, 2) for x in (answers, truth)]
    assert figures["head-0001.png"]["psnr_small"] == pytest.approx(float(metrics.psnr(*halved).mean()), abs=1e-4)
    output = json.loads((run / "head-0001.png" / "metrics.json").read_text())
    assert figures["head-0001.png"]["psnr_best"] == output["psnr"]["best"]


def test_a_report_is_one_file(restored):
    outcome, out = restored
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Less &lt;is&gt; more." in page and "✓ held" in page and "✗ did not hold" in page and "not measured" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 6  # two strips, before and after, the spread, the film
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "url(" not in page and "@import" not in page and "<script" not in page
    assert "rsd restore" in page and "torch 2" in page and "seed 0" in page
    undecided = {**outcome.claims[0], "held": None, "state": "undecided", "clear": False, "reason": "within noise"}
    noisy = entry_page(replace(outcome, claims=[undecided, *outcome.claims[1:]]))
    for said, count in (("✓ held", 0), ("? undecided", 1), ("within noise", 1), ("✗ did not hold", 1)):
        assert noisy.count(f">{said}<") == count
    assert (page.count(">✓ held<"), page.count(">within noise<"), page.count(">? undecided<")) == (1, 0, 0)
    assert "N = 2, L = 2, lambda 0.05, rho 0.075, lr_z 0.6, x-step exact" in page
    assert f"rsd heads --out {out / 'data' / 'faces'} --number 2 --view frontal" in page


def test_finished_rows_are_not_run_again(restored, without_pixels, capsys, monkeypatch):
    monkeypatch.setattr(hub, "BUILT_IN", without_pixels)
    _, out = restored
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.png")}
    reproduce(RESTORED, SMALL, out, out / "again")
    assert "one: already done in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.png")} == before
    assert (out / "again" / "claims.json").read_text() == (out / "claims.json").read_text()


def test_rows_with_other_settings_are_not_reused(restored, without_pixels, capsys, monkeypatch, tmp_path):
    """For example if the packaged settings have changed; the other rows keep their figures."""
    monkeypatch.setattr(hub, "BUILT_IN", without_pixels)
    _, out = restored
    shutil.copytree(out / "data", tmp_path / "data")
    shutil.copytree(out / "runs", tmp_path / "runs")
    one = plan(RESTORED, RESTORED.rows[0], SMALL, out / "data" / "faces")
    for file in one.folder(tmp_path / "runs").glob("*/config.yaml"):
        file.write_text(file.read_text().replace("lambda_: 0.05", "lambda_: 0.3"))
    monkeypatch.setattr(module, "prepare", lambda *_: out / "data" / "faces")
    outcome = reproduce(RESTORED, SMALL, tmp_path, tmp_path / "again")
    why = f"{one.folder(tmp_path / 'runs')} was made with other settings (lambda_ 0.3 is now 0.05)"
    assert outcome.failures["one"] == f"{why}; delete it to run it again."
    assert f"failed: one: {why}" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [DRAWN, SCENES], ids=lambda entry: entry.name)
def test_text_to_image_and_3d(entry, heads_pixels, tmp_path):
    outcome = reproduce(entry, SMALL, tmp_path, tmp_path)
    assert outcome.failures == {} and outcome.claims[0]["means"] is True
    one = plan(entry, entry.rows[0], SMALL, tmp_path / "data" / entry.data)
    for file in one.folder(tmp_path / "runs").glob("*/config.yaml"):
        file.write_text(re.sub(r"^guidance: .*$", "guidance: 2.5", file.read_text(), flags=re.MULTILINE))
    again = reproduce(entry, SMALL, tmp_path, tmp_path / "again")
    assert "was made with other settings (guidance 2.5 is now" in again.failures[one.label]
    assert again.failures[one.label].endswith("delete it to run it again.")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == (3 if entry is DRAWN else 4)  # strips, a film; for scenes two turntables


@pytest.fixture
def unplotted(monkeypatch):
    """Replace the toy's plots, which tests/toy draws, by a grey picture."""
    for plot in ("collapse_plot", "scatter_plot"):
        monkeypatch.setattr(f"rsd.tasks.toy.plots.{plot}", lambda found, path: Image.new("L", (24, 24)).save(path))


def test_an_experiment_from_the_command_line(tmp_path, capsys, monkeypatch, unplotted):
    toy = find("fig30")
    monkeypatch.setattr(module, "find", lambda name: replace(toy, rows=(toy.rows[0], *toy.rows[3:5])))
    out = tmp_path / "toy"
    command = ["reproduce", "fig30", "--seed", "7", "--out", str(out), "--steps"]
    assert main([*command, "2"]) == 0
    assert {"claims.json", "report.html", "figures.json", "config.yaml"} <= {p.name for p in out.iterdir()}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "seed 7;" in page and "not examined yet" in page  # nothing collapses to a mode in two steps
    assert page.count("against gamma, the weight of the repulsion</figcaption>") == 2
    assert main([*command, "2"]) == 2
    assert "continue with --resume" in capsys.readouterr().err
    assert main([*command, "3", "--resume"]) == 2
    assert "steps 2 is now 3" in capsys.readouterr().err
    assert main([*command, "2", "--resume"]) == 0
    assert "already done" in capsys.readouterr().out


def test_data_that_every_row_requires(tmp_path, capsys):
    out = tmp_path / "table2"
    assert main(["reproduce", "table2", "--scale", "paper", "--out", str(out)]) == 2
    assert "table2 needs --ffhq PATH." in capsys.readouterr().err
    assert not out.exists()


def test_data_may_be_given_later(tmp_path, monkeypatch, capsys, unplotted):
    toy = Entry("fig30", "Fig. 0", "Toys.", (Row("a", {"gammas": (0,)}),), (), "toy", "", ())
    monkeypatch.setattr(module, "find", lambda name: toy)
    out, faces = tmp_path / "toy", tmp_path / "faces"
    faces.mkdir()
    begun = ["reproduce", "fig30", "--scale", "paper", "--steps", "2", "--out", str(out)]
    assert main(begun) == 0
    given = [*begun, "--resume", "--ffhq"]
    assert main([*given, str(faces)]) == 0
    assert main([*given, str(tmp_path)]) == 2
    assert f"ffhq '{faces}' is now" in capsys.readouterr().err


def test_figures_requested_later_are_not_done(tmp_path):
    one = Plan("a", "text-to-image", {}, "", tmp_path)
    file = tmp_path / "summary.json"
    assert not finished(one, tmp_path)
    for given, prompt, fid, done in (
        ({}, {}, None, True),
        ({"fid_folder": "d"}, {}, None, False),
        ({"fid_folder": "d"}, {}, {"value": 3.0}, True),
        ({"aesthetic_weights": "w"}, {"aesthetic": None}, None, False),
        ({"aesthetic_weights": "w"}, {"aesthetic": 5.0}, None, True),
    ):
        file.write_text(json.dumps({"fid": fid, "prompts": [prompt], "failed": []}))
        assert finished(replace(one, given=given), tmp_path) is done


def test_an_interrupted_toy_ends_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "toy", lambda options: 130)
    assert main(["reproduce", "fig30", "--out", str(tmp_path / "toy")]) == 130
    assert "failed" not in capsys.readouterr().err


def test_all_experiments(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", (RESTORED, DRAWN))
    one = ["--steps", "2", "--number", "1", "--out", str(tmp_path / "all"), "--device", "cpu"]
    assert main(["reproduce", "all", *one]) == 1  # one row is broken
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert [row["name"] for row in summary["experiments"]] == ["small", "drawn"]
    assert summary["experiments"][0]["undecided"] == 2  # one picture has no interval
    page = (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    assert 'href="drawn/report.html"' in page and "? undecided" in page and "never" in page
    assert page.count("data:image/webp") >= 2  # a strip each, and a plot where two rows ran
    assert summary["experiments"][1]["undecided"] == 1 and summary["experiments"][1]["seconds"] > 0
    assert (tmp_path / "all" / "drawn" / "claims.json").exists()

    def nothing(*_: object) -> None:
        raise RuntimeError("no figures")

    monkeypatch.setattr(module, "measured", nothing)
    seen = []
    monkeypatch.setattr(module, "summarise", lambda *args: (seen.append(1), summarise(*args)))
    assert main(["reproduce", "all", *one, "--resume"]) == 1
    after = json.loads((tmp_path / "all" / "summary.json").read_text())["experiments"]
    assert len(seen) == 2 and all("no figures" in row["failed"]["report"] for row in after)
    assert "no figures" in (tmp_path / "all" / "report.html").read_text(encoding="utf-8")


def test_the_summary_does_not_shrink_when_interrupted(tmp_path, monkeypatch, unplotted):
    toys = tuple(
        Entry(name, "Fig. 0", "Toys.", (Row("a", {"gammas": (0,)}), Row("b", {"gammas": (1,)})), (), "toy", "", ())
        for name in ("first", "second")
    )
    monkeypatch.setattr(module, "ENTRIES", toys)
    out = ["--steps", "2", "--out", str(tmp_path / "all")]
    assert main(["reproduce", "all", *out]) == 0
    reproduced = module.reproduce

    def interrupted(entry, *args):
        if entry.name == "second":
            raise KeyboardInterrupt
        return reproduced(entry, *args)

    monkeypatch.setattr(module, "reproduce", interrupted)
    assert main(["reproduce", "all", *out, "--resume"]) == 130
    found = json.loads((tmp_path / "all" / "summary.json").read_text())["experiments"]
    assert [row["name"] for row in found] == ["first", "second"]


def test_shards_share_the_runs(tmp_path, monkeypatch, capsys, unplotted):
    again = Entry("again", "Fig. 0", "Again.", DRAWN.rows, DRAWN.claims, DRAWN.command, DRAWN.data)
    toys = Entry("toys", "Fig. 0", "Toys.", (Row("a", {"gammas": (0,)}), Row("b", {"gammas": (1,)})), (), "toy", "", ())
    monkeypatch.setattr(module, "ENTRIES", (DRAWN, again, toys))
    base = ["reproduce", "all", "--steps", "2", "--number", "1", "--out", str(tmp_path / "all"), "--device", "cpu"]
    assert main([*base, "--shard", "1/2"]) == 0
    assert "shard 1/2: 1 of 3 runs done, 0 failed" in capsys.readouterr().out
    assert len(list((tmp_path / "all" / "runs").iterdir())) == 1
    assert main([*base, "--shard", "0/2"]) == 0
    assert not (tmp_path / "all" / "report.html").exists()
    capsys.readouterr()
    assert main([*base, "--resume"]) == 0
    assert capsys.readouterr().out.count("already done") == 4
    assert (tmp_path / "all" / "report.html").exists()
    assert main([*base, "--shard", "2/2"]) == 2


def test_a_shard_reports_what_it_skips(tmp_path, capsys, unplotted):
    toys = Entry("toys", "Fig. 0", "Toys.", (Row("a", {"gammas": (0,)}),), (), "toy", "", ())
    lost = Entry("lost", "Fig. 0", "Lost.", (Row("none", {**HALF, "method": "nonsense"}),), ())
    options = Reproduce(name="all", steps=2, shard="0/1")
    assert module.run_shard((toys, lost), options, tmp_path) == 0
    output = capsys.readouterr().out
    assert "skipped: none needs the method nonsense" in output and "shard 0/1: 1 of 1 runs done, 0 failed" in output


LOOK = """<script>onload = () => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const fetched = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
  const range = document.querySelector("input[type=range]");
  range.value = 10;
  range.dispatchEvent(new Event("input"));
  const at = getComputedStyle(range.parentNode.querySelector(".before")).clipPath;
  document.title = `${document.images.length} images, ${broken} broken, ${fetched} fetched, ${at}, ` +
    `${document.documentElement.scrollWidth <= innerWidth ? "fits" : "too wide"}`;
}</script>"""
"""Write what a browser finds into the title of the page."""


def test_a_browser_shows_the_report(restored, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no chromium here")
    _, out = restored
    page = tmp_path / "report.html"
    page.write_text((out / "report.html").read_text(encoding="utf-8") + LOOK, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    found = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    (title,) = re.findall("<title>(.*?)</title>", found)
    assert title == "6 images, 0 broken, 0 fetched, inset(0px 90% 0px 0px), fits"
