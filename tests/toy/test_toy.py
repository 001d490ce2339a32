"""D.10.1 with fewer realisations and the same claims."""

import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from rsd.cli import main
from rsd.tasks.toy import experiment
from rsd.tasks.toy.command import headline
from rsd.tasks.toy.experiment import MODES, Outcome, run
from rsd.tasks.toy.plots import collapse_plot


@pytest.fixture(scope="module")
def outcomes():
    return {gamma: run(gamma, realisations=30, steps=200) for gamma in (0.0, 1.0, 2000.0)}


def test_independent_particles_share_a_mode_half_of_the_time(outcomes):
    assert 8 <= outcomes[0.0].collapsed <= 22  # binomial(30, 1/2): these bounds miss once in 150


def test_repulsion_prevents_collapse_and_keeps_the_fit(outcomes):
    assert outcomes[1.0].collapsed <= 2
    assert outcomes[1.0].misfit < 0.15


def test_too_much_repulsion_spoils_the_fit(outcomes):
    assert outcomes[2000.0].misfit > 20 * outcomes[1.0].misfit


def test_an_outcome_counts_collapsed_pairs():
    points = torch.stack([MODES, MODES[[0, 0]] + 0.1, torch.tensor([[-1.0, 3.0], [-2.0, 0.0]])])
    outcome = Outcome(1.0, points)
    assert outcome.collapsed == 2 and outcome.pairs[0] == [False, True, True]
    assert outcome.pairs[1] == pytest.approx([0, 0.02**0.5, 2], rel=1e-5)
    assert outcome.misfit == pytest.approx((0 + 0 + 2 * 0.02**0.5 + 3 + 1) / 6, rel=1e-5)


def test_the_headline_gives_the_extremes_and_the_best():
    """It names three of the gammas: the smallest, the one with the fewest collapses (then the best fit), and the
    largest."""
    apart, together = MODES[None], MODES[None, [0, 0]]

    def one(gamma, *pairs):
        return Outcome(gamma, torch.cat(pairs))

    found = [
        one(3.0, apart, apart + 0.1),
        one(0.0, apart, together),
        one(1.0, apart, apart),
        one(9.0, 4 * apart, apart),
    ]
    assert headline(found) == (
        "of 2 pairs collapsed: 1 at gamma 0 (misfit 0.00), 0 at gamma 1 (misfit 0.00), 0 at gamma 9 (misfit 1.50)"
    )
    assert headline(found[:1]) == "of 2 pairs collapsed: 0 at gamma 3 (misfit 0.07)"


def test_the_axis_of_a_share_ends_at_100(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    collapse_plot(list(outcomes.values()), tmp_path / "a.png")
    limits = plt.gcf().axes[0].get_ylim()
    monkeypatch.undo()
    plt.close("all")
    assert limits == (0, 100)


def test_the_command_writes_the_documented_files(tmp_path, capsys):
    out = tmp_path / "toy"
    assert main(["toy", "--out", str(out), "--gammas", "0", "1", "--realisations", "6", "--steps", "20"]) == 0
    report = json.loads((out / "toy.json").read_text())
    assert report["gamma"] == [0, 1] and report["realisations"] == 6
    assert len(report["collapsed"]) == 2 and all(0 <= c <= 6 for c in report["collapsed"])
    pairs = report["pairs"]
    assert [sum(each) for each in pairs["collapsed"]] == report["collapsed"]
    assert [sum(each) / 6 for each in pairs["misfit"]] == pytest.approx(report["misfit"])
    first, last = capsys.readouterr().out.splitlines()
    few, many = (f"{report['collapsed'][k]} at gamma {k} (misfit {report['misfit'][k]:.2f})" for k in (0, 1))
    assert first == f"of 6 pairs collapsed: {few}, {many}"
    assert last == f"toy.json, collapse.png, scatter.png in {out}"
    assert (out / "collapse.png").stat().st_size > 5000 and (out / "scatter.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--realisations", "0"], "realisations is 0; give a finite number above 0."),
        (["--lr", "nan"], "lr is nan; give a finite number above 0."),
        (["--gammas", "0", "nan"], "gammas contains nan; give finite numbers, for example --gammas 0 1 2000."),
        (["--out", "taken"], "The output folder taken is a file; choose another --out."),
        (["--seed", "-1"], "seed is -1; give 0 or more."),
        (["--out", "taken/x"], "The output folder taken/x is not writable (Not a directory); choose another --out."),
    ],
)
def test_bad_values_are_reported_in_one_sentence(tmp_path, flags, expected, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert main(["toy", *flags]) == 2
    assert capsys.readouterr().err == f"rsd: {expected}\n"


def test_a_folder_of_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert main(["toy", "--out", str(tmp_path), "--realisations", "2", "--steps", "2"]) == 2
    assert "contains other files (thesis.tex, ...)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interruption_does_not_promise_a_resume(tmp_path, monkeypatch, capsys):
    def interrupt(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", interrupt)
    assert main(["toy", "--out", str(tmp_path)]) == 130
    assert "--resume" not in (output := capsys.readouterr().err) and "start it again" in output


@pytest.mark.parametrize("name", ["toy.json", "collapse.png", "scatter.png"])
def test_a_killed_run_leaves_no_partial_file(tmp_path, monkeypatch, name):
    flags = ["toy", "--out", str(tmp_path), "--realisations", "2", "--steps", "2", "--gammas", "0"]
    assert main(flags) == 0
    before, replace = (tmp_path / name).read_bytes(), os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main([*flags, "--seed", "5"]) == 2 and (tmp_path / name).read_bytes() == before
