"""The list of experiments: complete, well-formed, and read by the commands that it names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from rsd.cli import main
from rsd.runs.flags import values
from rsd.tasks.reproduce import command
from rsd.tasks.reproduce.cards import NAMES as SHOWN
from rsd.tasks.reproduce.experiments import ENTRIES, find
from rsd.tasks.reproduce.experiments.entry import SCALES, Claim
from rsd.tasks.reproduce.experiments.tables import beats
from rsd.tasks.reproduce.measure import NAMES
from rsd.tasks.reproduce.options import Reproduce
from rsd.tasks.reproduce.plan import OPTIONS, plan

FIGURES = {*range(15, 23), *range(23, 40)}
"""The figures of the appendix; the others show images of the tables' runs."""


def numbers(text: str) -> set[int]:
    """The figures' numbers in a place such as "Figs 34-38 (D.10.3)"."""
    text = re.sub(r"\(.*\)", "", text)
    found = set()
    for part in re.findall(r"\d+(?:-\d+)?", text):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_table_and_figure_of_the_appendix_has_one():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert {f"table{k}" for k in range(2, 16)} <= set(names)
    shown = {n for entry in ENTRIES if entry.name.startswith("fig") for n in numbers(entry.paper)}
    assert shown == FIGURES
    for entry in ENTRIES:
        assert numbers(entry.name) <= numbers(entry.paper)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_claims_refer_to_existing_rows_and_figures(entry):
    labels = [row.label for row in entry.rows]
    assert len(set(labels)) == len(labels) and entry.claims
    for claim in entry.claims:
        assert set(claim.labels) <= set(labels) and len(claim.rising) > 1
        assert claim.figure in SHOWN
    assert set(entry.figures) <= set(SHOWN)
    assert {figure for axes in entry.plots for figure in axes} <= set(SHOWN)
    if entry.command == "restore":
        assert set(entry.figures) <= {*NAMES.values(), "psnr_small", "sharpness", "fid"}
    for scale in SCALES:
        assert entry.expected(scale)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("scale", SCALES)
def test_the_printed_command_does_what_the_row_does(entry, scale):
    options = Reproduce(name="all", scale=scale, seed=3, dtype="float32", ffhq=Path("a b"), coco_images=Path("coco"))
    for row in entry.rows:
        one = plan(entry, row, options, Path("some data"))
        program, command, *words = shlex.split(one.command_line())
        assert (program, command) == ("rsd", entry.command)
        assert values(OPTIONS[command], words, prog="") == one.values()


def test_list_as_json(capsys):
    assert main(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [entry.name for entry in ENTRIES]
    assert all(one["paper"] and one["claim"] and one["expected"] and one["rows"] for one in listed)
    assert listed[0]["rows"][1] == {
        "label": "RLSD", "command": "restore",
        "flags": [
            "--task", "inpaint_half_face", "--method", "rlsd", "--x-step", "adam", "--lambda", "0.2", "--lr-x", "0.2",
            "--lr-z", "0.4", "--gamma", "6", "--window", "0", "1",
        ],
    }  # fmt: skip


def test_the_list_gives_the_scale_and_the_measured_claims(capsys, tmp_path, monkeypatch):
    claims = [{"claim": "a", "held": True, "clear": False, "measured": {}}]
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"scale": "builtin", "experiments": [{"name": "table2", "claims": claims}]}))
    monkeypatch.setattr(command, "MEASURED", file)
    here, there = command.listed("builtin"), command.listed("paper")
    assert here[0]["command"] == "rsd reproduce table2"
    (output,) = here[0]["measured"]  # a file from before there were three states
    assert (output["claim"], output["held"], output["state"], output["means"]) == ("a", None, "undecided", True)
    assert there[0]["command"] == "rsd reproduce table2 --scale paper" and there[0]["measured"] == []
    assert here[1]["measured"] == []


def test_list_as_text(capsys):
    assert main(["reproduce", "--list"]) == 0
    output = capsys.readouterr().out
    assert all(entry.paper in output for entry in ENTRIES)
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "Give the name of one experiment, or all"),
        (["tabel2"], 'Unknown experiment "tabel2". Did you mean "table2"?'),
        (["table2", "--json"], "--json goes with --list"),
        (["table2", "--number", "0"], "number is 0; give 1 or more."),
        (["table2", "--ffhq", "."], "--ffhq goes with --scale paper"),
        (["table2", "--scale", "paper", "--ffhq", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_reported_at_once(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *argv]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_find_and_beats():
    assert find("table2").paper.startswith("Table 2")
    (claim,) = beats("psld", figure="psnr_small")
    assert claim == Claim(claim.text, "psnr_small", ("PSLD", "NonRepuls-RLSD"))
